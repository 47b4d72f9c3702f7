"""Export a TwinFlow LoRA or model to the formats of other tools."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import save_file

from ..configuration import TwinFlowConfigError
from ..diff2flow import DIFFUSION_PREDICTION_TYPES
from ..families import FAMILIES, Family
from ..families.second_denoiser import BOUNDARY
from ..hub.adapter_states import active_adapters
from ..hub.comfyui import comfyui_lora, comfyui_workflow, layout_of
from ..hub.comfyui.workflow import SAMPLERS
from ..hub.export_page import COMFYUI, LOCAL_BASE, LORA_FORMAT, MERGED, TRANSFORMER, export_page
from ..hub.files import (
    CARD_NAME,
    LORA_NAME,
    LocatedRepository,
    check_new_folder,
    locate_repository,
    read_header,
    second_name,
)
from ..hub.lora_files import save_lora
from ..hub.portable import STEP_COUNTS, Portable, fold
from ..hub.repository import LORA, MAX_STEPS, TwinFlowRepositoryConfig
from ..hub.saving import check_not_quantized, stock_lora
from ..hub.stock_copy import scheduler_of, stock_copy
from ..hub.stock_pipelines import HUB_OPTIONS
from ..hub.stock_use import StockUse, plain_ratio, stock_use
from ..models import TwinFlowTransformerMixin
from ..models.target_folding import FoldedLayer
from ..schedulers import TwinFlowScheduler
from ..schedulers.scheduler_config import SAMPLING_STYLES
from ..writing import write_folder
from .pipeline_twinflow import TwinFlowPipeline

Format = Literal["diffusers", "comfyui", "merged", "transformer"]
FORMATS: tuple[Format, ...] = (LORA_FORMAT, COMFYUI, MERGED, TRANSFORMER)
LORA_FORMATS = (LORA_FORMAT, COMFYUI)
ADAPTER = "twinflow"
ONE_FILE = "1000TB"
FILE_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def export(
    name_or_path: str | Path,
    output_dir: str | Path,
    format: Format = "diffusers",
    *,
    sampling_style: str | None = None,
    step_counts: Sequence[int] | None = None,
    base_model: str | None = None,
    prompt: str = "your prompt",
    **options: Any,
) -> StockUse | str:
    """Export a TwinFlow LoRA or model for tools that do not know this package.

    The target time of each step is folded into the exported weights. They are exact for the sampling grids of
    `step_counts`. A README.md in the output folder says how to use them.

    Args:
        name_or_path: directory or Hub repository of the LoRA or model.
        output_dir: output folder, which must not exist yet.
        format: "diffusers" for a plain LoRA file, "comfyui" for the LoRA in ComfyUI's layout with a workflow for each
            step count, "merged" for a whole pipeline of stock classes, "transformer" for its denoiser in one file.
        sampling_style: "few", "any" or "multi"; defaults to the repository's style. Another style uses its default
            grid.
        step_counts: step counts for which the weights must be exact, the most important one first. Defaults to the
            trained step count and as many of 1, 2, 3, 4 and 8 as fit.
        base_model: directory or Hub repository of the base; defaults to the base in `twinflow_config.json`.
        prompt: the prompt of the ComfyUI workflows.
        options: options of `TwinFlowPipeline.from_pretrained`. `dtype` is also the dtype of the exported weights. It
            defaults to the dtype of the LoRA file, and to float32 for a whole model.

    Returns:
        How stock diffusers samples from the result, or a sentence that says why it cannot.

    Raises:
        TwinFlowConfigError: if the output exists, if the target time does not fit into the weights for one of the step
            counts, or if the format does not suit the repository. Nothing is written then.

    Examples:
        >>> export("me/my-lora", "my-lora-comfyui", "comfyui", step_counts=[2])
    """
    if "torch_dtype" in options:
        options["dtype"] = options.pop("torch_dtype")
    _check_arguments(output_dir, format, sampling_style, step_counts)
    hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
    repository = locate_repository(name_or_path, **hub_options)
    config = TwinFlowRepositoryConfig.load_located(repository)
    family = FAMILIES[config.family]
    _check_format(format, config, family, repository.name)
    keeps_all = format == MERGED or config.base_loras  # a LoRA of the base can need the text encoders
    unused = {} if keeps_all else dict.fromkeys(_other_components(family))
    options |= repository.hub_options  # the same commit, even if somebody pushes meanwhile
    options = {"merge": False} | unused | options
    pipeline = TwinFlowPipeline.from_pretrained(name_or_path, base_model=base_model, **options)

    scheduler = _scheduler(pipeline, sampling_style)
    denoisers = family.denoisers(pipeline)
    if format == TRANSFORMER and len(denoisers) > 1:
        raise TwinFlowConfigError(
            f"format={format!r} writes one file, but '{repository.name}' denoises with {' and '.join(denoisers)}. Use "
            f"{MERGED}."
        )
    folded = {name: _fold(model, scheduler, config, step_counts, repository.name) for name, model in denoisers.items()}
    layers = {name: each for name, (each, _) in folded.items()}
    portable = Portable.of_all({name: each for name, (_, each) in folded.items()})
    source = _Source(
        pipeline=pipeline,
        family=family,
        scheduler=scheduler,
        layers=layers,
        portable=portable,
        use=stock_use(family, scheduler, portable, config.max_sequence_length),
        output=Path(output_dir),
        prompt=prompt,
        dtype=options.get("dtype") or _lora_dtype(repository),
    )
    write = WRITERS[format](source)
    page = export_page(
        format,
        source.name,
        family,
        source.use,
        [int(count) for count in portable.sigmas],
        base=_public_base(repository, config, base_model),
        base_loras=config.base_loras if config.train_type == LORA else (),
        max_sequence_length=config.max_sequence_length,
        files=source.files(f"{source.name}.safetensors" if format == COMFYUI else LORA_NAME),
        sampling=_sampling(source) if format == COMFYUI and len(denoisers) > 1 else "",
    )

    def write_all(directory: Path) -> None:
        write(directory)
        (directory / CARD_NAME).write_text(page, encoding="utf-8")

    write_folder(source.output.resolve(), write_all)
    return source.use


@dataclass(frozen=True)
class _Source:
    """The inputs of an export.

    Attributes:
        layers: the low-rank weights into which the target time is folded, by denoiser and layer.
        portable: the grids on which these weights are exact.
        use: how stock diffusers samples from the result, or why it cannot.
        dtype: dtype of the weights of an exported LoRA; `None` keeps it.
    """

    pipeline: TwinFlowPipeline
    family: Family
    scheduler: TwinFlowScheduler
    layers: Mapping[str, Mapping[str, FoldedLayer]]
    portable: Portable
    use: StockUse | str
    output: Path
    prompt: str
    dtype: torch.dtype | None

    @property
    def name(self) -> str:
        return self.output.resolve().name

    @property
    def transformers(self) -> dict[str, TwinFlowTransformerMixin]:
        """The denoisers by component, the one for high noise first."""
        found: dict[str, TwinFlowTransformerMixin] = {}
        for name, transformer in self.family.denoisers(self.pipeline).items():
            if not isinstance(transformer, TwinFlowTransformerMixin):
                raise TypeError(
                    f"A {type(transformer).__name__} is not a TwinFlow transformer, so it cannot be exported. Load a "
                    "TwinFlow LoRA or model."
                )
            found[name] = transformer
        return found

    def files(self, name: str) -> dict[str, str]:
        """Return the file of each denoiser, for the file `name` of one denoiser."""
        return dict(zip(self.layers, (name, second_name(name))))

    def lora(self, denoiser: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        layers = self.layers[denoiser]
        return stock_lora(self.transformers[denoiser], adapter_name=ADAPTER, dtype=self.dtype, folded=layers)

    def save_scheduler(self, directory: Path) -> None:
        """Save the `TwinFlowScheduler` if no stock scheduler can sample from the result."""
        if isinstance(self.use, str):
            self.scheduler.save_pretrained(directory / "scheduler")


Write = Callable[[Path], None]


def _lora_writer(source: _Source) -> Write:
    loras = {file_name: source.lora(denoiser) for denoiser, file_name in source.files(LORA_NAME).items()}

    def write(directory: Path) -> None:
        for file_name, lora in loras.items():
            save_lora(source.family, directory, file_name, *lora)
        source.save_scheduler(directory)

    return write


def _comfyui_writer(source: _Source) -> Write:
    ratio = plain_ratio(source.scheduler)
    if ratio is None:
        raise TwinFlowConfigError(
            "format='comfyui' is not possible, because the sampling options of this LoRA exist only in "
            "TwinFlowScheduler. Pass a sampling_style to use the default options of that style."
        )
    prefix, stock_class = source.family.component_name, source.family.transformer_class.stock_class()
    files, converted = source.files(f"{source.name}.safetensors"), {}
    for denoiser, file_name in files.items():
        weights = {f"{prefix}.{name}": weight for name, weight in source.lora(denoiser)[0].items()}
        converted[file_name] = comfyui_lora(weights, stock_class.__name__, source.transformers[denoiser].config)
    workflows = {
        f"workflow_{count}_steps.json": comfyui_workflow(
            source.family.name,
            sigmas,
            file_name,
            source.prompt,
            stochastic_ratio=ratio,
            flow_matching=source.scheduler.config.prediction_type not in DIFFUSION_PREDICTION_TYPES,
        )
        for count, sigmas in (source.portable.sigmas.items() if len(files) == 1 else ())
    }

    def write(directory: Path) -> None:
        for file_name, tensors in converted.items():
            save_file(tensors, directory / file_name, metadata={"format": "pt"})
        for name, workflow in workflows.items():
            (directory / name).write_text(json.dumps(workflow, indent=2) + "\n", encoding="utf-8")

    return write


def _merged_writer(source: _Source) -> Write:
    check_not_quantized(source.transformers)
    scheduler = source.scheduler
    if isinstance(source.use, StockUse):
        scheduler = FlowMatchEulerDiscreteScheduler(**source.use.scheduler_options)
    copied = stock_copy(source.pipeline, source.layers, keep_conditioning=False, scheduler=scheduler)
    return lambda directory: copied.save_pretrained(str(directory))


def _transformer_writer(source: _Source) -> Write:
    check_not_quantized(source.transformers)
    name = source.family.component_name
    model = source.transformers[name].stock_copy(source.layers[name])

    def write(directory: Path) -> None:
        model.save_pretrained(str(directory), max_shard_size=ONE_FILE)
        source.save_scheduler(directory)

    return write


WRITERS: dict[str, Callable[[_Source], Write]] = {
    LORA_FORMAT: _lora_writer,
    COMFYUI: _comfyui_writer,
    MERGED: _merged_writer,
    TRANSFORMER: _transformer_writer,
}


def _sampling(source: _Source) -> str:
    """Say how ComfyUI samples with two denoisers."""
    sampler = SAMPLERS[plain_ratio(source.scheduler) or 0.0]
    grids = "".join(
        f"\n   - {count}: {', '.join(map(str, [*sigmas, 0]))}" for count, sigmas in source.portable.sigmas.items()
    )
    return (
        f"Sample with `{sampler}`, CFG 1 and the sigmas below. Use the model for high noise at sigmas of "
        f"{source.pipeline.config[BOUNDARY]} and more, and the model for low noise after that. We have not tested this in "
        f"ComfyUI.{grids}"
    )


def _check_arguments(
    output_dir: str | Path, format: str, sampling_style: str | None, step_counts: Sequence[int] | None
) -> None:
    if format not in FORMATS:
        raise TwinFlowConfigError(f"format={format!r} is not valid. Use one of {', '.join(FORMATS)}.")
    output_dir = Path(output_dir)
    check_new_folder(output_dir, "output_dir")
    above = next(parent for parent in output_dir.resolve().parents if parent.exists())
    if not above.is_dir():
        raise TwinFlowConfigError(
            f"output_dir='{output_dir}' is not valid, because '{above}' is a file. Choose another folder."
        )
    if sampling_style is not None and sampling_style not in SAMPLING_STYLES:
        raise TwinFlowConfigError(
            f"sampling_style={sampling_style!r} is not valid. Use one of {', '.join(SAMPLING_STYLES)}."
        )
    if step_counts is None:
        return
    if not step_counts or not all(type(count) is int and 1 <= count <= MAX_STEPS for count in step_counts):
        raise TwinFlowConfigError(
            f"step_counts={list(step_counts)} is not valid. Use whole numbers from 1 to {MAX_STEPS}, such as 1 2 4."
        )


def _check_format(format: str, config: TwinFlowRepositoryConfig, family: Family, name: str) -> None:
    """Check that a repository can be exported to a format.

    Raises:
        TwinFlowConfigError: if the format does not suit the repository.
    """
    if format not in LORA_FORMATS:
        return
    if config.train_type != LORA:
        raise TwinFlowConfigError(
            f"format={format!r} is only for LoRAs, but '{name}' is a whole model. Use {MERGED} or {TRANSFORMER}."
        )
    if format == COMFYUI:
        layout_of(family.transformer_class.stock_class().__name__)
    elif not hasattr(family.pipeline_class, "load_lora_weights"):
        raise TwinFlowConfigError(
            f"format={format!r} is not possible, because {family.pipeline_class.__name__} cannot load LoRAs. Use {MERGED} "
            f"or {TRANSFORMER}."
        )


def _other_components(family: Family) -> list[str]:
    """Return the components of a family's pipeline that only an export of the whole pipeline needs."""
    parameters = list(signature(family.pipeline_class.__init__).parameters.values())[1:]
    needed = (family.component_name, "scheduler")
    return [p.name for p in parameters if p.default is Parameter.empty and p.name not in needed]


def _scheduler(pipeline: TwinFlowPipeline, sampling_style: str | None) -> TwinFlowScheduler:
    """Return the scheduler of a pipeline, or one with the default grid of another style."""
    scheduler = scheduler_of(pipeline)
    return scheduler if sampling_style is None else scheduler.with_style(sampling_style)


def _fold(
    transformer: ModelMixin,
    scheduler: TwinFlowScheduler,
    config: TwinFlowRepositoryConfig,
    step_counts: Sequence[int] | None,
    name: str,
) -> tuple[Mapping[str, FoldedLayer], Portable]:
    """Fold the target time into low-rank weights.

    Returns:
        The weights by layer, and the grids for which they are exact.

    Raises:
        TwinFlowConfigError: if there is no target time, or if it does not fit into low-rank weights for one of the
            step counts.
    """
    conditioning = getattr(transformer, "time_conditioning", None)
    if conditioning is None:
        raise TwinFlowConfigError(
            f"'{name}' has no time conditioning, so there is nothing to export. Use its files in stock diffusers as "
            "they are."
        )
    first, *others = step_counts or (config.num_inference_steps, *STEP_COUNTS)
    folded, portable = fold(
        transformer,
        conditioning,
        scheduler,
        first,
        adapter_names=active_adapters(transformer),
        step_counts=others,
    )
    if portable.reason is not None:
        raise TwinFlowConfigError(
            f"'{name}' cannot be exported for {first} steps: {portable.reason}. Use it with this package."
        )
    missing = [count for count in step_counts or () if str(count) not in portable.sigmas]
    if missing:
        raise TwinFlowConfigError(
            f"step_counts={list(step_counts or ())} do not fit into one file with sampling_style='{portable.style}'. These "
            f"fit: {', '.join(portable.sigmas)}. At the times of {', '.join(map(str, missing))} steps the target times "
            "differ from these, or the timestep embedder is too small. Export the others to a separate folder."
        )
    return folded.layers if folded else {}, portable


def _lora_dtype(repository: LocatedRepository) -> torch.dtype | None:
    """Return the dtype of a repository's LoRA file; `None` if there is no file or it has several dtypes."""
    path = repository.find(LORA_NAME)
    dtypes = set(read_header(path).dtypes.values()) if path else set()
    return FILE_DTYPES[dtypes.pop()] if len(dtypes) == 1 else None


def _public_base(repository: LocatedRepository, config: TwinFlowRepositoryConfig, base_model: str | None) -> str:
    """Return the Hub id of the base, or a placeholder if it has none."""
    base = base_model or config.base_model
    folder = repository.directory / base if base_model is None else Path(base)
    try:
        validate_repo_id(base)
    except HFValidationError:
        return LOCAL_BASE
    return LOCAL_BASE if folder.is_dir() else base
