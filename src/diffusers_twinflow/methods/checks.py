"""Check a method that a user wrote, and name what is wrong. No check reads a tensor's values, so the host never waits."""

from typing import Any

import torch

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfig, TwinFlowConfigError
from .base import LossOutput, Method

ATTRIBUTES = ("name", "config", "use_ema", "branch_names", "branch_cycle", "part_names", "needs_unconditional")
FUNCTIONS = ("options", "add_teacher", "copy_for_teacher", "build_teacher", "draw", "loss")


def check_method(method: Any) -> None:
    """Check that an object has everything that `Method` requires.

    Raises:
        TypeError: if it lacks an attribute or a function, or its `config` is not a `TwinFlowConfig`.
    """
    kind = type(method).__name__
    missing = [name for name in ATTRIBUTES if not hasattr(method, name)]
    missing += [f"{name}()" for name in FUNCTIONS if not callable(getattr(method, name, None))]
    if missing:
        raise TypeError(
            f"The method {kind} lacks {', '.join(f'`{name}`' for name in missing)}. Define what is missing as in "
            "`diffusers_twinflow.methods.Method`, or derive the class from `FlowMatching` or `TwinFlow`."
        )
    if not isinstance(method.config, TwinFlowConfig):
        raise TypeError(
            f"{kind}.config is a {type(method.config).__name__}: set it to a TwinFlowConfig, such as TwinFlowConfig() for a "
            "method without TwinFlow."
        )


def check_output(output: Any, method: Method, count: int) -> LossOutput:
    """Check what a method's `loss` returned for a micro-batch, and return it.

    Args:
        count: number of samples of the micro-batch, B.

    Raises:
        TypeError: if it is not a `LossOutput`, or a part of it is not a tensor.
        TwinFlowConfigError: if the loss has no gradient, or a tensor or a name does not fit the method.
    """
    where = f"{type(method).__name__}.loss"
    if not isinstance(output, LossOutput):
        raise TypeError(
            f"{where} returned a {type(output).__name__}: return LossOutput(loss=per_sample.mean(), "
            "per_sample=per_sample.detach()), where per_sample has one loss per sample."
        )
    _check_tensor(output.loss, "loss", where)
    if output.loss.numel() != 1:
        raise TwinFlowConfigError(
            f"`loss` of {where} has the shape {_shape(output.loss)}, but it must be one number: take the mean over the "
            "samples."
        )
    if not output.loss.requires_grad:
        raise TwinFlowConfigError(
            f"`loss` of {where} has no gradient, so nothing would be trained. Compute it from networks.student, without "
            "detach() and outside of torch.no_grad()."
        )
    _check_per_sample(output.per_sample, "per_sample", where, count)
    unknown = [name for name in output.parts if name not in method.part_names]
    if unknown:
        raise TwinFlowConfigError(
            f"{where} returned the part {unknown[0]!r}, but part_names is {tuple(method.part_names)}. Add the name to "
            f"{type(method).__name__}.part_names."
        )
    for name, values in output.parts.items():
        _check_per_sample(values, f"parts[{name!r}]", where, None)
    if output.branches is not None:
        if not method.branch_names:
            raise TwinFlowConfigError(
                f"{where} returned `branches`, but branch_names is empty. Leave `branches` out, or set "
                f"{type(method).__name__}.branch_names."
            )
        _check_per_sample(output.branches, "branches", where, count)
    return output


def _check_per_sample(values: Any, name: str, where: str, count: int | None) -> None:
    """Check a tensor of one number per sample; `count` is `None` if some samples may be left out."""
    _check_tensor(values, name, where)
    if values.ndim != 1 or count not in (None, len(values)):
        raise TwinFlowConfigError(
            f"`{name}` of {where} has the shape {_shape(values)}, but it must have one number per sample"
            + ("." if count is None else f", which is the shape ({count},).")
        )
    if values.requires_grad:
        raise TwinFlowConfigError(
            f"`{name}` of {where} has a gradient, and keeping it would fill the memory. Pass it with detach()."
        )


def _check_tensor(value: Any, name: str, where: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"`{name}` of {where} is a {type(value).__name__}: return a tensor.")


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))


def named_conditions(velocity: VelocityFunction) -> VelocityFunction:
    """Return the velocity function with an error that names a tensor of the condition if the model needs it and it is missing.

    The velocity function raises a `TwinFlowConfigError` instead of a `KeyError`.
    """

    def run(
        x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
    ) -> torch.Tensor:
        try:
            return velocity(x_t, t, r, sign, condition)
        except KeyError as error:
            name = error.args[0] if error.args else None
            if not isinstance(name, str) or name in condition:
                raise
            raise TwinFlowConfigError(
                f"The base needs the condition {name!r}, but the data has {', '.join(map(repr, condition)) or 'none'}. "
                "Give the tensors of `condition` the names that the family's `encode_prompts` returns."
            ) from error

    return run
