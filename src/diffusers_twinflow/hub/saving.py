"""Save a trained LoRA or a whole distilled pipeline as a TwinFlow repository."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..families import FAMILIES, Family
from ..models.conditioning_file import save_conditioning
from ..models.target_folding import FoldedLayer
from ..schedulers import TwinFlowScheduler
from .adapter_states import active_adapters
from .files import CONDITIONING_NAME, LORA_NAME, seen_from
from .lora_files import save_lora
from .merging import merged_lora_of, read_adapter
from .portable import Portable, add_folded, fold, rank_and_alpha
from .repository import FULL, TwinFlowRepositoryConfig
from .stock_copy import scheduler_of, stock_copy


def save_twinflow_lora(
    directory: str | Path,
    transformer: ModelMixin | Mapping[str, ModelMixin],
    config: TwinFlowRepositoryConfig,
    scheduler: TwinFlowScheduler,
    *,
    adapter_name: str = "default",
    conditioning_name: str = "time_conditioning",
    dtype: torch.dtype | None = None,
) -> None:
    """Save a TwinFlow LoRA as a repository in an existing directory.

    Stock diffusers can use the LoRA file without this package: low-rank weights of the timestep embedder carry the
    target time for the step counts in `twinflow_config.json`. If a model cannot carry the target time, the file is a
    plain LoRA and the configuration says why.

    Args:
        directory: existing directory that the files are written to.
        transformer: model with the adapter and, if it was trained, the time conditioning. If the pipeline has two
            denoisers, both by component name, the one for high noise first.
        config: contents of `twinflow_config.json`.
        scheduler: scheduler that samples from the LoRA.
        adapter_name, conditioning_name: adapter and time conditioning of the transformer to save. Default to "default"
            and "time_conditioning".
        dtype: dtype of the low-rank weights in the file. Defaults to their present dtype.

    Examples:
        >>> config = TwinFlowRepositoryConfig(
        ...     train_type="lora",
        ...     family="stable_diffusion_3",
        ...     base_model="stabilityai/stable-diffusion-3.5-medium",
        ...     num_inference_steps=4,
        ... )
        >>> save_twinflow_lora("my-lora", pipe.transformer, config, TwinFlowScheduler())
    """
    directory, family = Path(directory), FAMILIES[config.family]
    denoisers = transformer if isinstance(transformer, Mapping) else {family.component_name: transformer}
    config = replace(config, denoisers=[*denoisers] if len(denoisers) > 1 else None)
    conditionings = {name: getattr(model, conditioning_name, None) for name, model in denoisers.items()}
    portables: dict[str, Portable] = {}
    for name, model in denoisers.items():
        conditioning, steps = conditionings[name], config.num_inference_steps
        adapters = [] if merged_lora_of(model) is not None else [adapter_name]
        folded, portables[name] = fold(model, conditioning, scheduler, steps, adapter_names=adapters)
        layers = folded.layers if folded else {}
        lora_name, conditioning_file = (config.file_of(name, each) for each in (LORA_NAME, CONDITIONING_NAME))
        save_stock_lora(directory, model, family, lora_name, adapter_name=adapter_name, dtype=dtype, folded=layers)
        if conditioning is not None:
            save_conditioning(conditioning, directory, name=conditioning_file)
    scheduler.save_pretrained(directory / "scheduler")
    has_conditioning = all(each is not None for each in conditionings.values())
    portable = Portable.of_all(portables).to_dict()
    replace(config, has_time_conditioning=has_conditioning, portable=portable).save(directory)


def save_stock_lora(
    directory: str | Path,
    transformer: ModelMixin,
    family: Family,
    weight_name: str = LORA_NAME,
    *,
    adapter_name: str = "default",
    dtype: torch.dtype | None = None,
    folded: Mapping[str, FoldedLayer] = MappingProxyType({}),
) -> None:
    """Save a transformer's adapter as a plain diffusers LoRA file, see `stock_lora`."""
    lora = stock_lora(transformer, adapter_name=adapter_name, dtype=dtype, folded=folded)
    save_lora(family, directory, weight_name, *lora)


def stock_lora(
    transformer: ModelMixin,
    *,
    adapter_name: str = "default",
    dtype: torch.dtype | None = None,
    folded: Mapping[str, FoldedLayer] = MappingProxyType({}),
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Convert a transformer's adapter to a plain LoRA.

    The scale, alpha divided by rank, is multiplied into the second factor, and alpha is set to the rank. Tools that
    read only the tensors then apply the LoRA at the right strength too.

    Args:
        transformer: model with the adapter.
        adapter_name: name of the adapter.
        dtype: dtype of the weights. Defaults to their present dtype.
        folded: low-rank weights to add, by layer.

    Returns:
        The weights and the fields of the `LoraConfig`.
    """
    weights, config = read_adapter(transformer, adapter_name)
    for name, weight in weights.items():
        scaled = weight.float() * _scale(config, name) if ".lora_B." in name else weight
        weights[name] = scaled.to(dtype or weight.dtype)
    config |= {"lora_alpha": config["r"], "alpha_pattern": dict(config["rank_pattern"]), "use_rslora": False}
    return add_folded(weights, config, folded)


def _scale(config: Mapping[str, Any], weight_name: str) -> float:
    """Return the factor that an adapter's layer multiplies its output with at adapter weight 1."""
    rank, alpha = rank_and_alpha(config, weight_name.rpartition(".lora_B.")[0])
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def check_not_quantized(denoisers: Mapping[str, torch.nn.Module]) -> None:
    """Check that the models of a pipeline can be saved whole.

    Raises:
        TwinFlowConfigError: if one is quantized.
    """
    for name, transformer in denoisers.items():
        if getattr(transformer, "hf_quantizer", None) is not None:
            raise TwinFlowConfigError(
                f"the {name} is quantized, and a whole model is saved in full precision. Load the base without "
                "quantization to save a whole model, or save the LoRA alone with save_twinflow_lora."
            )


def save_twinflow_model(
    directory: str | Path, pipeline: DiffusionPipeline, config: TwinFlowRepositoryConfig, **options: Any
) -> None:
    """Save a whole distilled pipeline that stock diffusers can load too.

    Adapters, such as a LoRA that is not fused, are merged into the saved weights. The target time for the step counts
    in `twinflow_config.json` is merged too. The pipeline itself does not change.

    Args:
        directory: output directory, created if it does not exist.
        pipeline: the distilled pipeline.
        config: contents of `twinflow_config.json`. Its `train_type` is saved as "full".
        options: arguments of `DiffusionPipeline.save_pretrained`.

    Raises:
        TwinFlowConfigError: if the base is quantized.
    """
    directory = Path(directory)
    denoisers = FAMILIES[config.family].denoisers(pipeline)
    check_not_quantized(denoisers)
    directory.mkdir(parents=True, exist_ok=True)
    base = config.base_model
    if Path(base).is_absolute() and Path(base).is_dir():
        base = seen_from(base, directory)
    layers: dict[str, Mapping[str, FoldedLayer]] = {}
    portables: dict[str, Portable] = {}
    for name, model in denoisers.items():
        conditioning, adapters = getattr(model, "time_conditioning", None), active_adapters(model)
        scheduler, steps = scheduler_of(pipeline), config.num_inference_steps
        folded, portables[name] = fold(model, conditioning, scheduler, steps, adapter_names=adapters)
        layers[name] = folded.layers if folded else {}
    portable = Portable.of_all(portables).to_dict()
    written = replace(config, base_model=base, train_type=FULL, has_time_conditioning=None, portable=portable)
    replace(written, denoisers=[*denoisers] if len(denoisers) > 1 else None).save(directory)
    stock_copy(pipeline, layers).save_pretrained(str(directory), **options)
