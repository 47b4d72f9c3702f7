"""What a TwinFlow repository holds, written and read.

A LoRA repository: `pytorch_lora_weights.safetensors` (a plain diffusers LoRA), `twinflow_time_conditioning.safetensors`
(where it was trained), `twinflow_config.json` and `scheduler/scheduler_config.json`. A full model's repository is the
pipeline in diffusers layout with the same two configuration files.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from ..configuration import TwinFlowConfig, TwinFlowConfigError
from ..families import FAMILIES, Family, family_of
from ..models import TwinFlowTransformerMixin, enable_twinflow
from ..models.time_conditioning import TimeConditioning
from ..schedulers import TwinFlowScheduler

CONFIG_NAME = "twinflow_config.json"
LORA_NAME = "pytorch_lora_weights.safetensors"
CONDITIONING_NAME = "twinflow_time_conditioning.safetensors"
LORA, FULL = "lora", "full"


@dataclass
class TwinFlowRepositoryConfig:
    """The contents of `twinflow_config.json`.

    Attributes:
        train_type: "lora" or "full".
        family: name of the base's family.
        base_model: Hub id of the base, or its path as seen from the directory that holds this file.
        base_model_revision: its revision, or `None`.
        num_inference_steps: the step count it was distilled for.
        max_sequence_length: length of the encoded prompts in training, in tokens.
        options: the TwinFlow options.
        trained: what trained it: steps, batch size, learning rate, versions.
    """

    train_type: str
    family: str
    base_model: str
    base_model_revision: str | None = None
    num_inference_steps: int = 1
    guidance_scale: float = 0.0
    max_sequence_length: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)

    def locate_base(self, directory: str | Path) -> str:
        """Where the base is, as seen from the local `directory` of this configuration."""
        local = Path(directory, self.base_model)
        return str(local) if Path(directory).is_dir() and local.is_dir() else self.base_model

    @property
    def twinflow(self) -> TwinFlowConfig:
        return TwinFlowConfig.from_dict(self.options)

    def save(self, directory: str | Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (Path(directory) / CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, name_or_path: str | Path, **hub_options) -> "TwinFlowRepositoryConfig":
        """Read it from a local directory or a Hub repository.

        Raises:
            TwinFlowConfigError: where it is not there or not what it should be.
        """
        path = find_file(name_or_path, CONFIG_NAME, **hub_options)
        if path is None:
            raise TwinFlowConfigError(
                f"'{name_or_path}' has no {CONFIG_NAME}, so it is no TwinFlow repository: a plain LoRA loads with "
                "load_lora_weights, a plain pipeline with DiffusionPipeline.from_pretrained."
            )
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {config_field.name for config_field in fields(cls)}
        config = cls(**{name: value for name, value in values.items() if name in known})
        if config.train_type not in (LORA, FULL) or config.family not in FAMILIES:
            raise TwinFlowConfigError(
                f"{CONFIG_NAME} of '{name_or_path}' has train_type={config.train_type!r} and family={config.family!r}: "
                f"this version knows {LORA} and {FULL}, and {', '.join(FAMILIES)}."
            )
        return config


def find_file(name_or_path: str | Path, file_name: str, **hub_options) -> Path | None:
    """Path of a repository's file, downloaded where need be; `None` where the repository has none.

    Args:
        hub_options: `subfolder`, `revision`, `cache_dir`, `token`, `local_files_only`, as `hf_hub_download` takes them.
    """
    directory = Path(name_or_path)
    if directory.is_dir():
        path = directory / (hub_options.get("subfolder") or "") / file_name
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(str(name_or_path), file_name, **hub_options))
    except EntryNotFoundError:
        return None


def save_twinflow_lora(
    directory: str | Path,
    transformer: torch.nn.Module,
    config: TwinFlowRepositoryConfig,
    scheduler: TwinFlowScheduler,
    *,
    adapter_name: str = "default",
    conditioning_name: str = "time_conditioning",
) -> None:
    """Write a TwinFlow LoRA repository into an existing directory.

    Args:
        transformer: with the adapter on it and, where it was trained, the time conditioning.
        adapter_name, conditioning_name: which adapter and which time conditioning of the transformer to write.
    """
    directory = Path(directory)
    save_stock_lora(directory, transformer, FAMILIES[config.family], adapter_name=adapter_name)
    conditioning = getattr(transformer, conditioning_name, None)
    if conditioning is not None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in conditioning.state_dict().items()}
        save_file(tensors, directory / CONDITIONING_NAME, metadata={"format": "pt"})
    scheduler.save_pretrained(directory / "scheduler")
    config.save(directory)


def save_stock_lora(
    directory: str | Path, transformer: torch.nn.Module, family: Family, *, adapter_name: str = "default"
) -> None:
    """Write a transformer's adapter as a plain diffusers LoRA, with the metadata that holds its alpha."""
    family.pipeline_class.save_lora_weights(
        save_directory=directory,
        weight_name=LORA_NAME,
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name=adapter_name),
        transformer_lora_adapter_metadata=transformer.peft_config[adapter_name].to_dict(),
    )


def save_twinflow_model(directory: str | Path, pipeline: DiffusionPipeline, config: TwinFlowRepositoryConfig) -> None:
    """Write a whole distilled pipeline, in a layout that stock diffusers loads too (without the time conditioning)."""
    directory = Path(directory)
    pipeline.save_pretrained(directory)
    TwinFlowScheduler.from_config(pipeline.scheduler.config).save_pretrained(directory / "scheduler")
    index_path = directory / "model_index.json"
    index = json.loads(index_path.read_text(encoding="utf-8"))
    stock = family_of(pipeline).transformer_class.stock_class()
    index["_class_name"] = family_of(pipeline).pipeline_class.__name__
    index["transformer"] = ["diffusers", stock.__name__]
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    index_path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config.save(directory)


def load_twinflow_lora(
    pipeline: DiffusionPipeline, name_or_path: str | Path, *, adapter_name: str = "twinflow", **hub_options
) -> TwinFlowRepositoryConfig:
    """Put a TwinFlow LoRA, its time conditioning and its scheduler on a loaded stock pipeline.

    The repository is checked before the pipeline is touched.

    Raises:
        TwinFlowConfigError: where the repository is no TwinFlow LoRA or belongs to another family or size.
    """
    config = TwinFlowRepositoryConfig.load(name_or_path, **hub_options)
    family = family_of(pipeline)
    if config.train_type != LORA or config.family != family.name:
        raise TwinFlowConfigError(
            f"'{name_or_path}' holds a {config.train_type} model of {config.family}, and the pipeline is a "
            f"{family.name}: load it with TwinFlowPipeline.from_pretrained, or on a pipeline of its own family."
        )
    lora_path = find_file(name_or_path, LORA_NAME, **hub_options)
    if lora_path is None:
        raise TwinFlowConfigError(f"'{name_or_path}' has no {LORA_NAME}: save it again with save_twinflow_lora.")
    conditioning_path = find_file(name_or_path, CONDITIONING_NAME, **hub_options)
    scheduler_path = find_file(name_or_path, "scheduler/scheduler_config.json", **hub_options)
    conditioning = _read_conditioning(conditioning_path, pipeline, family) if conditioning_path else None

    pipeline.load_lora_weights(lora_path.parent, weight_name=LORA_NAME, adapter_name=adapter_name)
    if conditioning is not None:
        enable_twinflow(pipeline.transformer, family.transformer_class)
        pipeline.transformer.time_conditioning.load_state_dict(conditioning)
    pipeline.scheduler = (
        TwinFlowScheduler.from_pretrained(scheduler_path.parent)
        if scheduler_path
        else TwinFlowScheduler.from_config(pipeline.scheduler.config)
    )
    return config


def _read_conditioning(path: Path, pipeline: DiffusionPipeline, family: Family) -> dict[str, torch.Tensor]:
    tensors = load_file(path)
    width = family.transformer_class.timestep_embedding_dim(pipeline.transformer)
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in TimeConditioning(width).state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        raise TwinFlowConfigError(
            f"'{path.name}' does not fit this transformer, whose timestep embedding is {width} wide: "
            "load it on the base model that its twinflow_config.json names."
        )
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise TwinFlowConfigError(f"'{path.name}' holds values that are not finite: its training diverged.")
    if tensors["time_sign_embed.weight"][0].any():
        raise TwinFlowConfigError(f"'{path.name}' has a positive sign row that is not zero: it is not of this format.")
    return tensors


def is_twinflow_transformer(transformer: torch.nn.Module) -> bool:
    return isinstance(transformer, TwinFlowTransformerMixin) and transformer.twinflow_enabled
