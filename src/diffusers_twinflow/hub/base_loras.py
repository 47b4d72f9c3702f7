"""LoRAs that are merged into a base before it is trained, and before the result is loaded on it."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfigError
from ..families import family_of
from ..models.adapter_layers import has_adapters
from ..models.merged_copy import is_plain, merged_copy
from .adapter_states import adapted_layers
from .files import CONFIG_NAME, LORA_NAME, check_finite, check_inside, locate_repository, read_header, seen_from

MERGED_NAME = "_twinflow_base_loras"
ADAPTER_NAME = "twinflow_base_lora"
SUFFIX = ".safetensors"
HUB_PARTS = 2
PATTERN = re.compile(r"(?P<name>.+?)(@(?P<revision>[^@:]+))?(:(?P<scale>[-+]?\d*\.?\d+(e[-+]?\d+)?))?", re.S | re.I)


@dataclass(frozen=True)
class BaseLora:
    """A LoRA that is merged into a base, as `NAME`, `NAME:SCALE` or `NAME@REVISION:SCALE`.

    Attributes:
        name: Hub id, folder or file. A Hub id may be followed by the path of a file in the repository. Without a file,
            the LoRA is in `pytorch_lora_weights.safetensors`.
        revision: branch, tag or commit on the Hub.
        scale: strength of the LoRA.
    """

    name: str
    revision: str | None = None
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "BaseLora":
        """Read a LoRA from its text.

        Raises:
            TwinFlowConfigError: if the text is empty, or the scale is 0 or not finite.
        """
        found = PATTERN.fullmatch(text) if isinstance(text, str) and "\0" not in text else None
        scale = float(found["scale"] or 1) if found else math.nan
        if found is None or not math.isfinite(scale) or scale == 0:
            raise TwinFlowConfigError(
                f"base_loras={str(text)[:80]!r} is not valid: give a Hub id, a folder or a file, and a scale other than "
                "0 after a colon if it is not 1, such as me/style:0.8."
            )
        return cls(found["name"], found["revision"], scale)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.name}{revision}" + (f":{self.scale:g}" if self.scale != 1 else "")

    @property
    def is_local(self) -> bool:
        """Whether the name is a path on this machine."""
        return os.path.exists(self.name)

    @property
    def hub_id(self) -> str | None:
        """The Hub id that the name starts with; `None` if it has none, or if it is a path on this machine."""
        name = self.hub_parts[0]
        try:
            validate_repo_id(name)
        except HFValidationError:
            return None
        return name if "/" in name and ".." not in name and not self.is_local else None

    @property
    def hub_parts(self) -> tuple[str, str]:
        """The Hub id, and the path of the file in the repository."""
        parts = self.name.split("/")
        if self.name.endswith(SUFFIX) and len(parts) > HUB_PARTS:
            return "/".join(parts[:HUB_PARTS]), "/".join(parts[HUB_PARTS:])
        return self.name, LORA_NAME

    def public(self) -> "BaseLora":
        """Return the LoRA without the path of this machine, for texts that others read."""
        return self if self.hub_id is not None else replace(self, name="path/to/the/lora")

    def seen_from(self, directory: str | Path) -> "BaseLora":
        """Return the LoRA with its path relative to `directory`, if its name is a relative path on this machine."""
        if not self.is_local or Path(self.name).is_absolute():
            return self
        return replace(self, name=seen_from(self.name, directory))

    def found_in(self, directory: str | Path) -> "BaseLora":
        """Return the LoRA with its absolute path, if its name is a path relative to `directory`."""
        path = Path(directory, self.name)
        return replace(self, name=str(path.resolve())) if path.exists() else self

    def locate(self, **hub_options: Any) -> Path:
        """Find the file of the LoRA, or download it.

        Args:
            hub_options: `cache_dir`, `token` and the like, as in `load_twinflow_lora`.

        Raises:
            TwinFlowConfigError: if there is no such file, or it is not a LoRA that can be merged.
        """
        if os.path.isfile(self.name):
            path = Path(self.name)
            _check_file(path)
            return path
        owner, file_name = (self.name, LORA_NAME) if self.is_local else self.hub_parts
        revision = {} if self.revision is None or self.is_local else {"revision": self.revision}
        repository = locate_repository(owner, patterns=[file_name, CONFIG_NAME], **revision, **hub_options)
        found = repository.find(file_name)
        if found is None:
            raise TwinFlowConfigError(
                f"base_loras: '{owner}' has no {file_name}. Name the LoRA's file, such as {owner}/my-lora{SUFFIX}."
            )
        if repository.find(CONFIG_NAME) is not None:
            raise TwinFlowConfigError(
                f"base_loras: '{owner}' is a TwinFlow LoRA, whose target times would be lost. Load it with "
                "TwinFlowPipeline, save the whole pipeline with save_pretrained, and use its folder as the base."
            )
        check_inside(found, repository.directory)
        _check_file(found)
        return found


def parse_base_loras(texts: Iterable[str] | None) -> list[BaseLora]:
    """Read LoRAs from their texts, see `BaseLora.parse`."""
    return [BaseLora.parse(text) for text in texts or ()]


def merge_base_loras(pipeline: DiffusionPipeline, loras: Sequence[BaseLora | str], **hub_options: Any) -> None:
    """Merge LoRAs into the weights of a stock pipeline, one after the other.

    The sums are computed in float32 and rounded to the dtype of the weights. Weights for text encoders are merged too.

    Args:
        pipeline: the pipeline without adapters. Its weights are changed in place.
        loras: the LoRAs, see `BaseLora`.
        hub_options: as in `BaseLora.locate`.

    Raises:
        TwinFlowConfigError: if a LoRA is missing, does not fit the pipeline, or the pipeline is quantized.

    Examples:
        >>> pipe = DiffusionPipeline.from_pretrained("black-forest-labs/FLUX.1-dev", dtype=torch.bfloat16)
        >>> merge_base_loras(pipe, ["me/style:0.8"])
    """
    family = family_of(pipeline)
    for each in loras:
        lora = BaseLora.parse(each) if isinstance(each, str) else each
        _merge(pipeline, lora, lora.locate(**hub_options))
        denoiser = family.denoiser(pipeline)
        vars(denoiser)[MERGED_NAME] = (*merged_base_loras(pipeline), lora)


def merged_base_loras(pipeline: DiffusionPipeline) -> tuple[BaseLora, ...]:
    """Return the LoRAs that `merge_base_loras` merged into a pipeline."""
    return vars(family_of(pipeline).denoiser(pipeline)).get(MERGED_NAME, ())


def _check_file(path: Path) -> None:
    if path.suffix != SUFFIX:
        raise TwinFlowConfigError(
            f"base_loras: '{path}' is not a {SUFFIX} file. Convert the LoRA to safetensors first."
        )
    if not any("lora" in name for name in read_header(path, float_only=False).shapes):
        raise TwinFlowConfigError(f"base_loras: '{path}' has no LoRA weights. Give the file of a LoRA.")
    check_finite(path)


@torch.no_grad()
def _merge(pipeline: DiffusionPipeline, lora: BaseLora, path: Path) -> None:
    cls, family = type(pipeline).__name__, family_of(pipeline)
    if not hasattr(pipeline, "load_lora_weights"):
        raise TwinFlowConfigError(
            f"base_loras={lora} cannot be merged, because diffusers cannot load LoRAs into a {cls}: leave it out."
        )
    if len(family.denoisers(pipeline)) > 1:
        raise TwinFlowConfigError(
            f"base_loras={lora} cannot be merged into a {cls} with two denoisers. Merge a LoRA into each with diffusers, "
            "and save the pipeline as the base."
        )
    denoiser = family.denoiser(pipeline)
    if getattr(denoiser, "hf_quantizer", None) is not None:
        raise TwinFlowConfigError(
            f"base_loras={lora} cannot be merged into a quantized {family.component_name}: load the base without "
            "quantization."
        )
    try:
        _load(pipeline, lora, path)
        if not has_adapters(denoiser):
            raise TwinFlowConfigError(
                f"base_loras={lora} has no weights for the {family.component_name} of a {cls}. Give a LoRA for this base."
            )
        for module in pipeline.components.values():
            if isinstance(module, torch.nn.Module):
                _merge_layers(module, lora)
    finally:
        pipeline.unload_lora_weights()


def _load(pipeline: DiffusionPipeline, lora: BaseLora, path: Path) -> None:
    try:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=ADAPTER_NAME)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # files from others can raise any error
        raise TwinFlowConfigError(
            f"base_loras={lora} cannot be loaded into a {type(pipeline).__name__} ({type(error).__name__}: "
            f"{str(error)[:300]}). Give a LoRA for this base."
        ) from error


def _merge_layers(module: torch.nn.Module, lora: BaseLora) -> None:
    for name, layer in adapted_layers(module):
        base = layer.get_base_layer()
        if not all(is_plain(parameter) for parameter in base.parameters()):
            raise TwinFlowConfigError(
                f"base_loras={lora} cannot be merged, because '{name}' is quantized: load the base without quantization."
            )
        layer.set_scale(ADAPTER_NAME, lora.scale)
        merged = merged_copy(layer)
        for parameter_name, parameter in base.named_parameters():
            parameter.copy_(merged.get_parameter(parameter_name))
