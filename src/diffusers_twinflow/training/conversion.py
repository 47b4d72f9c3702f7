"""Convert a checkpoint to the result that its run would have saved at that step."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..configuration import TwinFlowConfigError
from ..families import Family, family_of
from ..hub.files import CHECKPOINT_NAME, check_new_folder
from ..methods.base import AveragedWeights, Method
from ..options import read_json_options
from .arguments import FILE_NAME as ARGUMENTS_NAME
from .arguments import TrainingArguments
from .base_model import base_name_of, load_frozen_pipeline, load_model_index, lora_config, prepare_full, prepare_lora
from .checkpoint_files import checkpoint_step
from .ema import EMAOfTrained
from .recipe import build_options, option_names
from .saving import save_result
from .state import FILE_NAME as WEIGHTS_NAME

STATES = "custom_checkpoint_*.pkl"
NEEDED = ("pretrained_model_name_or_path", "train_type", "mixed_precision", "use_ema", "save_ema", "rank")


def convert_checkpoint(
    checkpoint: str | Path, output: str | Path, *, arguments: str | Path | None = None, base_model: str | None = None
) -> TrainingArguments:
    """Save the weights of a checkpoint as its run would have saved its result.

    Args:
        checkpoint: a `checkpoint-N` folder of a training run.
        output: new folder for the result.
        arguments: the run's `training_arguments.json`. Defaults to the arguments in the checkpoint or in its run's
            folder.
        base_model: path or Hub id of the base, if it has moved since the run.

    Returns:
        The run's arguments.

    Raises:
        TwinFlowConfigError: if the arguments are missing, the output exists, or the weights do not fit the arguments.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    check_new_folder(output, "output")
    known = option_names()
    values = {name: value for name, value in read_arguments(checkpoint, arguments).items() if name in known}
    if base_model:
        values["pretrained_model_name_or_path"] = base_model
    options = build_options(values | {"output_dir": str(output)})
    args, method = options.arguments, options.method()
    config = method.config
    index = load_model_index(base_name_of(args), revision=args.revision, cache_dir=args.cache_dir)
    family = family_of(index["_class_name"])
    pipeline = load_frozen_pipeline(family, args)
    family = family.bind(pipeline)
    for denoiser in family.denoisers(pipeline).values():
        if args.train_type == "full":
            prepare_full(denoiser, method, family)
        else:
            prepare_lora(denoiser, method, family, partial(lora_config, family=family, args=args))
    transformer = family.network(pipeline)
    load_weights(transformer, checkpoint / WEIGHTS_NAME)
    average = load_average(transformer, family, method, args, checkpoint) if args.save_ema and args.use_ema else None
    all_options = args.to_dict() | method.options()
    step = checkpoint_step(checkpoint)
    save_result(args, all_options, config, family, pipeline, average, step, directory=output)
    return args


def is_checkpoint(source: str) -> bool:
    """Return whether a path is a checkpoint of a training run."""
    return (Path(source) / WEIGHTS_NAME).is_file()


def read_arguments(checkpoint: Path, path: str | Path | None) -> dict[str, Any]:
    """Read the arguments of a checkpoint's run.

    Raises:
        TwinFlowConfigError: if they are missing or incomplete.
    """
    manifest, beside = checkpoint / CHECKPOINT_NAME, checkpoint.parent / ARGUMENTS_NAME
    values = read_json_options(manifest).get("arguments") if path is None and manifest.is_file() else None
    if values is None:
        if path is None and not beside.is_file():
            raise TwinFlowConfigError(
                f"'{checkpoint}' does not contain its training options, and '{checkpoint.parent}' has no "
                f"{ARGUMENTS_NAME}. Pass the {ARGUMENTS_NAME} of a run with the same options as arguments=."
            )
        values = read_json_options(path or beside)
    missing = [name for name in NEEDED if name not in values]
    if missing:
        raise TwinFlowConfigError(
            f"the arguments of '{checkpoint}' lack {', '.join(missing)}. Pass the {ARGUMENTS_NAME} of the run as "
            "arguments=."
        )
    return values


@torch.no_grad()
def load_weights(transformer: torch.nn.Module, path: Path) -> None:
    """Load the trained weights of a checkpoint into a transformer that was prepared for training.

    Raises:
        TwinFlowConfigError: if the file is damaged, or contains other weights.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise TwinFlowConfigError(f"'{path}' is damaged ({error}). Use another checkpoint.") from error
    parameters = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    shapes, saved = ({name: tuple(t.shape) for name, t in each.items()} for each in (parameters, tensors))
    wrong = sorted(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name))
    if wrong:
        raise TwinFlowConfigError(
            f"'{path}' does not fit the arguments of its run in {len(wrong)} tensors: '{wrong[0]}' is "
            f"{saved.get(wrong[0], 'missing')} and must be {shapes.get(wrong[0], 'absent')}. Pass the "
            "training_arguments.json of its run."
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def load_average(
    transformer: torch.nn.Module, family: Family, method: Method, args: TrainingArguments, checkpoint: Path
) -> AveragedWeights | None:
    """Load the EMA weights of a checkpoint. Returns `None` if its run does not save EMA weights.

    Raises:
        TwinFlowConfigError: if the run saves EMA weights, but the checkpoint has none.
    """
    teacher = method.build_teacher(transformer, family.network_velocity, method.copy_for_teacher(transformer))
    if teacher is not None and not teacher.is_average:
        return None
    average: AveragedWeights = (
        EMAOfTrained(transformer, args.flow_matching_ema_decay, torch.device("cpu")) if teacher is None else teacher
    )
    key = "shadow_params" if teacher is None else "weights"
    for path in sorted(checkpoint.glob(STATES)):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and key in state:
            average.load_state_dict(state)
            return average
    raise TwinFlowConfigError(
        f"'{checkpoint}' has no EMA weights, but its run would save them. Use another checkpoint."
    )
