"""Pipelines with a ControlNet: it runs before each evaluation of the denoiser, whose inputs include its outputs."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..conditions import Condition
from ..nested import map_leaves, map_tensors, tensors
from .call_layout import LayoutError, describe, join, same, split

COMPONENT = "controlnet"
TOKENS_NDIM = 3
PREFIX = f"{COMPONENT}."
"""Start of the names of conditions that only the ControlNet takes."""


@dataclass(frozen=True)
class ControlNetCall:
    """The last call of a pipeline's ControlNet before the denoiser.

    Attributes:
        module: the ControlNet.
        arguments: what it was called with, by name.
        outputs: the tensors that it returned, in order.
    """

    module: torch.nn.Module
    arguments: dict[str, Any]
    outputs: list[torch.Tensor]


@contextmanager
def recorded(pipeline: DiffusionPipeline) -> Iterator[list[ControlNetCall]]:
    """Collect the calls of a pipeline's ControlNet inside the block, if it has one."""
    calls: list[ControlNetCall] = []
    module = getattr(pipeline, COMPONENT, None)
    if not isinstance(module, torch.nn.Module):
        yield calls
        return
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    given: list[dict[str, Any]] = []

    def record(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append({**dict(zip(names, args)), **kwargs})

    def complete(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.append(ControlNetCall(module, given[-1], list(tensors(output))))

    hooks = module.register_forward_pre_hook(record, with_kwargs=True), module.register_forward_hook(complete)
    with hooks[0], hooks[1], in_own_dtype(pipeline):
        yield calls


@contextmanager
def in_own_dtype(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Let the ControlNet of a pipeline, if it has one, take inputs of any dtype inside the block."""
    module = getattr(pipeline, COMPONENT, None)
    if not isinstance(module, torch.nn.Module):
        yield
        return

    def cast(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        dtype = next(module.parameters()).dtype
        return _cast(args, dtype), _cast(kwargs, dtype)

    with module.register_forward_pre_hook(cast, with_kwargs=True):
        yield


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Samples, images and prompts in a dtype. Times and places of tokens keep theirs, because they need more digits."""

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.ndim >= TOKENS_NDIM else tensor

    return map_tensors(cast, value)


@dataclass(frozen=True)
class OutputOf:
    """A tensor that the ControlNet returns, at a place in its outputs, in the dtype that the denoiser takes."""

    index: int
    dtype: torch.dtype


@dataclass(frozen=True)
class ControlNetLayout:
    """How the frozen ControlNet of a pipeline is called, and where its outputs go.

    Attributes:
        module: the ControlNet.
        taken: its arguments that are arguments of the denoiser too, such as sample, times and prompt, with their names.
        outputs: the denoiser's arguments that it returns, with an `OutputOf` for each tensor.
        arguments: the layouts of its other arguments.
    """

    module: torch.nn.Module
    taken: Mapping[str, str]
    outputs: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def split(self, call: ControlNetCall, count: int, kept: int | None) -> Condition:
        """Return the tensors per sample that only the ControlNet takes, by name."""
        condition: Condition = {}
        for name, layout in self.arguments.items():
            condition |= split(layout, call.arguments[name], count, PREFIX + name, kept)
        return condition

    def run(
        self, arguments: Mapping[str, Any], condition: Condition, count: int, device: torch.device
    ) -> dict[str, Any]:
        """Return the denoiser's arguments that the ControlNet returns.

        Args:
            arguments: the denoiser's other arguments.
            condition: conditions of the samples.
            count: number of samples.
            device: device of the samples. The ControlNet is moved there.
        """
        if next(self.module.parameters()).device != device:
            self.module.to(device)
        own = {name: join(layout, condition, count, device) for name, layout in self.arguments.items()}
        taken = {name: arguments[other] for name, other in self.taken.items()}
        wanted = any(tensor.requires_grad for tensor in tensors([*taken.values(), *own.values()]))
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            found = list(tensors(self.module(**_cast(taken | own, next(self.module.parameters()).dtype))))
        return map_leaves(
            lambda leaf: found[leaf.index].to(leaf.dtype) if isinstance(leaf, OutputOf) else leaf, dict(self.outputs)
        )


def taken_from(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, str]:
    """Return the ControlNet's arguments with tensors that are an argument of the denoiser in every call, with its name.

    They have the same name and equal values, or are the same object.

    Args:
        pairs: arguments of the denoiser and of the ControlNet in each call.
    """
    taken: dict[str, str] = {}
    for name, value in pairs[0][1].items():
        if next(tensors(value), None) is None:
            continue
        for other in sorted(pairs[0][0], key=lambda each: each != name):
            if all(
                denoiser[other] is own[name] or (other == name and same(denoiser[other], own[name]))
                for denoiser, own in pairs
                if other in denoiser and name in own
            ):
                taken[name] = other
                break
    return taken


def check_takes(taken: Mapping[str, str], call: ControlNetCall, needed: Sequence[str]) -> None:
    """Refuse a ControlNet whose sample or times are not the denoiser's.

    Args:
        taken: the result of `taken_from`.
        call: a call of the ControlNet.
        needed: names of the denoiser's arguments with the sample and the times.

    Raises:
        LayoutError: if one is missing, with what was seen.
    """
    missing = [name for name in needed if name not in taken.values()]
    if missing:
        others = ", ".join(
            f"`{name}`, {describe(value)}" for name, value in call.arguments.items() if name not in taken
        )
        raise LayoutError(
            f"its ControlNet does not take the denoiser's `{missing[0]}`, but {others}. Load both in one dtype"
        )


def outputs_in(value: Any, outputs: list[torch.Tensor]) -> Any:
    """Return a denoiser's argument with an `OutputOf` for each tensor; `None` if a ControlNet does not return all of them."""
    found = list(tensors(value))
    if not found:
        return None
    places = {id(output): index for index, output in enumerate(outputs)}
    if all(id(tensor) in places for tensor in found):
        remaining = iter([places[id(tensor)] for tensor in found])
    elif len(found) == len(outputs) and all(same(each, out.to(each.dtype)) for each, out in zip(found, outputs)):
        remaining = iter(range(len(outputs)))
    else:
        return None
    return map_tensors(lambda tensor: OutputOf(next(remaining), tensor.dtype), value)
