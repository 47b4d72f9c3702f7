"""Turn a checkpoint of a training run into what the run would have saved at that step."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..configuration import TwinFlowConfig, TwinFlowConfigError
from ..families import family_of
from ..methods.teachers import build_teacher
from ..options import read_json_options
from ..training.arguments import FILE_NAME as ARGUMENTS_NAME
from ..training.base_model import DTYPES, load_frozen_pipeline, load_model_index, prepare_full, prepare_lora
from ..training.checkpoints import checkpoint_step
from ..training.ema import EMAOfTrained
from ..training.saving import save_result
from ..training.state import FILE_NAME as WEIGHTS_NAME

MANIFEST_NAME = "checkpoint.json"
STATES = "custom_checkpoint_*.pkl"
NEEDED = ("pretrained_model_name_or_path", "train_type", "mixed_precision", "use_ema", "save_ema", "rank")
OPTIONAL = ("cache_dir", "quantize_base", "revision", "variant", "lora_alpha", "lora_layers", "max_sequence_length")


def convert_checkpoint(
    checkpoint: str | Path, output: str | Path, *, arguments: str | Path | None = None, base_model: str | None = None
) -> Namespace:
    """Write the weights of a checkpoint as the training script would have saved them; returns the run's arguments.

    Args:
        checkpoint: a `checkpoint-N` folder of the training script.
        output: a new folder.
        arguments: the run's `training_arguments.json`; by default what the checkpoint or its run's folder holds.
        base_model: where the base is, if not where the run had it.

    Raises:
        TwinFlowConfigError: if the arguments are missing, the output exists, or the weights do not fit the arguments.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise TwinFlowConfigError(f"output='{output}' exists and is not empty: choose a new folder.")
    args = Namespace(**(dict.fromkeys(OPTIONAL) | read_arguments(checkpoint, arguments)))
    args.output_dir = str(output)
    if base_model:
        args.pretrained_model_name_or_path = base_model
    config = TwinFlowConfig.from_dict({k: v for k, v in vars(args).items() if k in TwinFlowConfig.option_names()})
    where = {"revision": args.revision, "cache_dir": args.cache_dir}
    family = family_of(load_model_index(args.pretrained_model_name_or_path, **where)["_class_name"])
    pipeline = load_frozen_pipeline(
        family,
        args.pretrained_model_name_or_path,
        train_type=args.train_type,
        weight_dtype=DTYPES[args.mixed_precision],
        quantize_base=args.quantize_base,
        variant=args.variant,
        **where,
    )
    family = family.bind(pipeline)
    transformer = family.denoiser(pipeline)
    if args.train_type == "full":
        prepare_full(transformer, config, family)
    else:
        names = ("rank", "lora_alpha", "lora_dropout", "lora_layers", "use_ema")
        prepare_lora(transformer, config, family, **{name: getattr(args, name) for name in names})
    load_weights(transformer, checkpoint / WEIGHTS_NAME)
    average = load_average(transformer, family, config, args, checkpoint) if args.save_ema and args.use_ema else None
    save_result(args, config, family, pipeline, average, checkpoint_step(checkpoint), directory=output)
    return args


def is_checkpoint(source: str) -> bool:
    """Whether a path is a checkpoint of the training script."""
    return (Path(source) / WEIGHTS_NAME).is_file()


def read_arguments(checkpoint: Path, path: str | Path | None) -> dict[str, Any]:
    """The arguments of a checkpoint's run.

    Raises:
        TwinFlowConfigError: if they are nowhere, or not complete.
    """
    manifest, beside = checkpoint / MANIFEST_NAME, checkpoint.parent / ARGUMENTS_NAME
    values = read_json_options(manifest).get("arguments") if path is None and manifest.is_file() else None
    if values is None:
        if path is None and not beside.is_file():
            raise TwinFlowConfigError(
                f"'{checkpoint}' does not say how it was trained, and '{checkpoint.parent}' has no {ARGUMENTS_NAME}: "
                f"pass arguments= with the {ARGUMENTS_NAME} of a run with the same options."
            )
        values = read_json_options(path or beside)
    missing = [name for name in NEEDED if name not in values]
    if missing:
        raise TwinFlowConfigError(
            f"the arguments of '{checkpoint}' lack {', '.join(missing)}: pass arguments= with the {ARGUMENTS_NAME} that "
            "the training script wrote."
        )
    return values


@torch.no_grad()
def load_weights(transformer: torch.nn.Module, path: Path) -> None:
    """Put the trained weights of a checkpoint into a transformer that was prepared as for training.

    Raises:
        TwinFlowConfigError: if the file is damaged, or other weights were trained.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise TwinFlowConfigError(f"'{path}' is damaged ({error}): take another checkpoint.") from error
    parameters = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    shapes, saved = ({name: tuple(t.shape) for name, t in each.items()} for each in (parameters, tensors))
    wrong = sorted(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name))
    if wrong:
        raise TwinFlowConfigError(
            f"'{path}' does not fit the arguments of its run in {len(wrong)} tensors: '{wrong[0]}' is "
            f"{saved.get(wrong[0], 'missing')} and must be {shapes.get(wrong[0], 'absent')}. Pass the "
            "training_arguments.json that it was trained with."
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def load_average(transformer: torch.nn.Module, family, config: TwinFlowConfig, args: Namespace, checkpoint: Path):
    """The moving average that a checkpoint holds, which the run would have saved.

    Raises:
        TwinFlowConfigError: if it holds none.
    """
    if config.twinflow_enabled:
        average, key = build_teacher(transformer, family.velocity, config, args.use_ema), "weights"
        if not average.state_dict():
            return average
    else:
        average = EMAOfTrained(transformer, args.flow_matching_ema_decay, torch.device("cpu"))
        key = "shadow_params"
    for path in sorted(checkpoint.glob(STATES)):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and key in state:
            average.load_state_dict(state)
            return average
    raise TwinFlowConfigError(
        f"'{checkpoint}' holds no EMA weights, which its run would save: take another checkpoint."
    )
