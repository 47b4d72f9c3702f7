"""Load transformers that the TwinFlow authors or SimpleTuner published, or convert them for `from_pretrained`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file

from ..configuration import TwinFlowConfigError
from ..models import TwinFlowTransformerMixin, twinflow_class_of
from ..models.published_layouts import PublishedLayout, published_layout, stock_class_name
from ..writing import merge_folder
from .files import LocatedRepository, locate_repository, read_header, read_json

MODEL_CONFIG_NAME = "config.json"
PATTERNS = (MODEL_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, "*.safetensors")


@dataclass(frozen=True)
class PublishedTransformer:
    """A published transformer on this machine, checked against the class that loads it.

    Attributes:
        config: configuration for `twinflow_class`.
        twinflow_class: class that loads the transformer.
        layout: naming scheme of its tensors.
        shards: its weight files.
    """

    config: dict[str, Any]
    twinflow_class: type[TwinFlowTransformerMixin]
    layout: PublishedLayout
    shards: list[Path]

    def empty(self) -> TwinFlowTransformerMixin:
        """Build the model with its weights on the meta device."""
        with init_empty_weights():
            twinflow_class: Any = self.twinflow_class  # `from_config` comes from the stock class that it extends
            return twinflow_class.from_config(self.config)

    def state_dicts(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """Yield each weight file and its tensors, renamed to the names of `twinflow_class`."""
        for shard in self.shards:
            yield shard.name, {self.layout.rename(key): tensor for key, tensor in load_file(shard).items()}


def load_published_transformer(
    name_or_path: str | Path, *, subfolder: str | None = None, dtype: torch.dtype | None = None, **hub_options: Any
) -> TwinFlowTransformerMixin:
    """Load a transformer that the TwinFlow authors or SimpleTuner published, on the CPU and in evaluation mode.

    Args:
        name_or_path: local directory or Hub repository.
        subfolder: folder of the transformer in the repository, such as "transformer".
        dtype: dtype of floating-point weights. Defaults to the dtype in the files.
        hub_options: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`. `torch_dtype` is the
            old name of `dtype`.

    Returns:
        The transformer as an instance of its TwinFlow class.

    Raises:
        TwinFlowConfigError: if it is not such a transformer, or its tensors do not fit its configuration.
    """
    old_name = hub_options.pop("torch_dtype", None)
    dtype = dtype if dtype is not None else old_name
    repository = locate_repository(name_or_path, subfolder=subfolder, patterns=PATTERNS, **hub_options)
    return load_located_transformer(repository, dtype=dtype)


def load_located_transformer(
    repository: LocatedRepository, *, dtype: torch.dtype | None = None
) -> TwinFlowTransformerMixin:
    """Load a published transformer whose files are on this machine."""
    published = open_published(repository)
    transformer = published.empty()
    for _, tensors in published.state_dicts():
        for name, tensor in tensors.items():
            if dtype is not None and tensor.is_floating_point():
                tensors[name] = tensor.to(dtype)
        transformer.load_state_dict(tensors, strict=False, assign=True)
    return transformer.eval()


def convert_published_transformer(
    name_or_path: str | Path, output_dir: str | Path, *, subfolder: str | None = None, **hub_options: Any
) -> PublishedTransformer:
    """Convert a published transformer so that `from_pretrained` of its TwinFlow class loads it.

    Only one weight file is in memory at a time.

    Args:
        name_or_path, subfolder, hub_options: as in `load_published_transformer`.
        output_dir: new or empty directory for the result.

    Returns:
        A description of the transformer that was converted.

    Raises:
        TwinFlowConfigError: as in `load_published_transformer`, and if `output_dir` is not empty.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise TwinFlowConfigError(f"'{output_dir}' is not empty: choose a new directory.")
    repository = locate_repository(name_or_path, subfolder=subfolder, patterns=PATTERNS, **hub_options)
    published = open_published(repository)
    merge_folder(output_dir, lambda directory: _write(published, repository, directory))
    return published


def open_published(repository: LocatedRepository) -> PublishedTransformer:
    """Identify a published transformer from its configuration and the headers of its weight files.

    Raises:
        TwinFlowConfigError: as in `load_published_transformer`.
    """
    path = repository.find(MODEL_CONFIG_NAME)
    if path is None:
        raise TwinFlowConfigError(
            f"'{repository.name}' has no {MODEL_CONFIG_NAME} of a transformer. Pass the transformer's folder as `subfolder`. "
            "The result of a training run needs no conversion."
        )
    config = read_json(path)
    stock = _stock_class(str(config.get("_class_name")), repository.name)
    shards = _shards(repository)
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        shapes |= read_header(shard, float_only=False).shapes
    try:
        layout = published_layout(stock.__name__, shapes)
    except ValueError as error:
        raise TwinFlowConfigError(f"'{repository.name}' cannot be converted: {error}") from error
    config = {key: value for key, value in config.items() if key != "enable_time_sign_embed"}
    config |= {"twinflow_enabled": True, "twinflow_conditioning": layout.conditioning}
    published = PublishedTransformer(config, twinflow_class_of(stock), layout, shards)
    _check_shapes(published, {layout.rename(key): shape for key, shape in shapes.items()}, repository.name)
    return published


def _stock_class(class_name: str, repository_name: str) -> type:
    """Return the stock class that a configuration names."""
    stock: Any = getattr(diffusers, stock_class_name(class_name), None)
    try:
        return twinflow_class_of(stock).stock_class()
    except TypeError as error:
        raise TwinFlowConfigError(
            f"'{repository_name}' has a {class_name}, for which there is no TwinFlow class, so it cannot be loaded."
        ) from error


def _shards(repository: LocatedRepository) -> list[Path]:
    index = repository.find(SAFE_WEIGHTS_INDEX_NAME)
    names = [SAFETENSORS_WEIGHTS_NAME] if index is None else sorted(set(read_index(index).values()))
    paths = []
    for name in names:
        path = repository.find(Path(name).name)
        if path is None:
            raise TwinFlowConfigError(
                f"'{repository.name}' has no {name}. Download it, because only complete safetensors checkpoints can be loaded."
            )
        paths.append(path)
    return paths


def read_index(path: Path) -> dict[str, str]:
    """Read which weight file contains each tensor of a sharded checkpoint."""
    weight_map = json.loads(path.read_bytes()).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise TwinFlowConfigError(f"{path.name} has no weight_map from tensors to files. Download the file again.")
    return weight_map


def _check_shapes(published: PublishedTransformer, shapes: dict[str, tuple[int, ...]], name: str) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in published.empty().state_dict().items()}
    wrong = sorted(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
    if wrong:
        key = wrong[0]
        raise TwinFlowConfigError(
            f"'{name}' does not fit its configuration in {len(wrong)} tensors: '{key}' is "
            f"{shapes.get(key, 'missing')} and must be {expected.get(key, 'absent')}."
        )


def _write(published: PublishedTransformer, repository: LocatedRepository, directory: Path) -> None:
    published.empty().save_config(directory)
    for name, tensors in published.state_dicts():
        save_file(tensors, directory / name, metadata={"format": "pt"})
    index = repository.find(SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        values = json.loads(index.read_bytes())
        values["weight_map"] = {published.layout.rename(key): name for key, name in values["weight_map"].items()}
        (directory / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
