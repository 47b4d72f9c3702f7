"""The arguments of a denoiser's call, taken apart into tensors per sample and put together again for any batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..conditions import ON_HOST, Condition, read
from ..configuration import TwinFlowConfigError
from ..nested import Group, tensors

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


@dataclass(frozen=True)
class Shared:
    """A value that is the same for every prompt: a constant, or a tensor such as rotary inputs."""

    value: Any


@dataclass(frozen=True)
class PerSample:
    """A tensor whose size along `dim` is `rows` times the number of samples."""

    name: str
    dim: int
    rows: int


@dataclass(frozen=True)
class OfPrompt:
    """A tensor without a batch dimension that depends on the prompt, such as the places of its tokens.

    The samples of a batch must have the same one. It is on the CPU if a batch can have several samples, which are compared
    in each pass.
    """

    name: str


@dataclass(frozen=True)
class NumberOf:
    """A whole number that depends on the prompt, such as how many tokens it has."""

    name: str


@dataclass(frozen=True)
class OfItem:
    """A tensor of one sample, in a list with an entry per sample."""

    name: str


@dataclass(frozen=True)
class PerSampleList:
    """A list or tuple with one entry per sample, each of the layout `item`."""

    kind: type
    item: Any


class LayoutError(ValueError):
    """Arguments that cannot be split into samples, with what was seen."""


class StateError(LayoutError):
    """An argument that may keep state between calls."""


def layout_of(one: Any, two: Any, name: str, count: int = 1) -> Any:
    """How a value is laid out, from a call and the call with the same prompts twice.

    The layout of a list, tuple or dictionary is a `Group` of layouts, if it is no list of samples.

    Args:
        one, two: the value in both calls.
        name: where the value is, such as `img_ids` or `attention_kwargs.ids`.
        count: number of prompts of the first call.

    Raises:
        LayoutError: if the second value is not the first one for twice as many samples.
    """
    if not isinstance(one, (*PLAIN, torch.Tensor, dict, list, tuple)):
        raise StateError(f"`{name}` is a {type(one).__name__}, which may keep state between calls")
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return _tensor_layout(one, two, name, count)
    group, twice = Group.of(one), Group.of(two)
    if group is None and type(one) is type(two) and one == two:
        return Shared(one)
    if group is not None and twice is not None and group.kind is twice.kind:
        if group.entries.keys() == twice.entries.keys():
            return group.map(lambda key, entry: layout_of(entry, twice.entries[key], f"{name}.{key}", count))
        if not isinstance(one, dict) and (len(group.entries), len(twice.entries)) == (count, 2 * count):
            return PerSampleList(group.kind, _item_layout(group.entries[0], name))
    raise LayoutError(f"`{name}` is {describe(one)} for one prompt and {describe(two)} for two")


def layout_of_one(one: Any, name: str, other: Any = None) -> Any:
    """How a value is laid out in a pipeline that takes one prompt at a time.

    Tensors with a batch of 1 are per sample, and so are lists of one list.

    Args:
        one: the value.
        name: where it is.
        other: the value for a prompt of another length, if a run has prompts of different lengths.
    """
    if isinstance(one, torch.Tensor):
        if one.shape[:1] == (1,):
            return PerSample(name, 0, 1)
        return Shared(one) if other is None or same(one, other) else OfPrompt(ON_HOST + name)
    if isinstance(one, (list, tuple)) and len(one) == 1 and isinstance(one[0], (list, tuple)):
        return PerSampleList(type(one), _item_layout(one[0], name))
    return _group_layout(layout_of_one, one, name, other)


def layout_of_packed(value: Any, name: str, other: Any = None) -> Any:
    """How a value is laid out for a denoiser that takes one sample per call. Its tensors belong to the sample.

    Args:
        value: the value.
        name: where it is.
        other: the value for a prompt of another length, if a run has prompts of different lengths.
    """
    if isinstance(value, torch.Tensor):
        return OfPrompt(name)
    if type(value) is int and other is not None and value != other:
        return NumberOf(ON_HOST + name)
    return _group_layout(layout_of_packed, value, name, other)


def _group_layout(layout_of_entry: Callable[[Any, str, Any], Any], value: Any, name: str, other: Any) -> Any:
    """The layouts of the entries of a list, tuple or dictionary. Any other value is the same for every prompt."""
    group, others = Group.of(value), Group.of(other)
    if group is None:
        return layout_of(value, value, name)
    theirs = {} if others is None else others.entries
    return group.map(lambda key, entry: layout_of_entry(entry, f"{name}.{key}", theirs.get(key)))


def _tensor_layout(one: torch.Tensor, two: torch.Tensor, name: str, count: int) -> Any:
    if one.shape == two.shape:
        if torch.equal(one, two):
            return Shared(one)
        raise LayoutError(f"`{name}`, {describe(one)}, has other values when the same prompt is given twice")
    grown = [dim for dim, sizes in enumerate(zip(one.shape, two.shape)) if sizes[0] != sizes[1]]
    if one.ndim == two.ndim and len(grown) == 1 and two.shape[grown[0]] == 2 * one.shape[grown[0]]:
        return PerSample(name, grown[0], one.shape[grown[0]] // count)
    raise LayoutError(f"`{name}` is {describe(one)} for one prompt and {describe(two)} for two")


def _item_layout(item: Any, name: str) -> Any:
    if isinstance(item, torch.Tensor):
        return OfItem(name)
    group = Group.of(item)
    return Shared(item) if group is None else group.map(lambda key, entry: _item_layout(entry, f"{name}.{key}"))


def split(layout: Any, value: Any, count: int, name: str, kept: int | None = None) -> Condition:
    """The tensors per sample of a value, shape [B, ...] each, by name.

    Args:
        count: number of samples.
        name: where the value is.
        kept: B, if only the first samples are wanted.

    Raises:
        TwinFlowConfigError: if the value does not have the layout, such as another length of the prompt.
    """
    if isinstance(layout, PerSample):
        if not (isinstance(value, torch.Tensor) and value.ndim > layout.dim) or (
            value.shape[layout.dim] != count * layout.rows
        ):
            raise _another(name, value)
        rows = value.unflatten(layout.dim, (count, layout.rows)).movedim(layout.dim, 0)
        return {layout.name: rows[:kept].contiguous()}
    if isinstance(layout, OfPrompt):
        rows = value.unsqueeze(0).repeat(count, *[1] * value.ndim)
        return {layout.name: rows.cpu() if layout.name.startswith(ON_HOST) else rows}
    if isinstance(layout, NumberOf):
        return {layout.name: torch.full((count,), value)}
    if isinstance(layout, PerSampleList):
        if not isinstance(value, (list, tuple)) or type(value) is not layout.kind or len(value) != count:
            raise _another(name, value)
        parts = [dict(_item_tensors(layout.item, item, name)) for item in value[:kept]]
        return {key: _stacked([part[key] for part in parts], key) for key in parts[0]}
    if isinstance(layout, Group):
        group = Group.of(value)
        if group is None or group.entries.keys() != layout.entries.keys():
            raise _another(name, value)
        found: Condition = {}
        for key, entry in layout.entries.items():
            found |= split(entry, group.entries[key], count, f"{name}.{key}", kept)
        return found
    if not same(layout.value, value):
        raise _another(name, value, layout.value)
    return {}


def _item_tensors(layout: Any, item: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(layout, OfItem):
        yield layout.name, item
    elif isinstance(layout, Group):
        for key, each in layout.entries.items():
            yield from _item_tensors(each, item[key], f"{name}.{key}")
    elif not same(layout.value, item):
        raise _another(name, item, layout.value)


def _stacked(rows: list[torch.Tensor], name: str) -> torch.Tensor:
    shapes = sorted({tuple(row.shape) for row in rows})
    if len(shapes) > 1:
        raise TwinFlowConfigError(
            f"the prompts of a batch are encoded to different shapes, `{name}` to {shapes[0]} and {shapes[-1]}, and the "
            "pipeline does not pad them: set train_batch_size=1 and twinflow_split_passes, or use prompts of one length."
        )
    return torch.stack(rows)


def concatenate(conditions: list[Condition]) -> Condition:
    """The conditions of single samples as those of a batch.

    Raises:
        TwinFlowConfigError: if they are of different shapes, such as for prompts of different lengths.
    """
    return {name: _stacked([each[name][0] for each in conditions], name) for name in conditions[0]}


def join(layout: Any, condition: Condition, count: int, device: torch.device) -> Any:
    """The value for `count` samples, from their tensors by name; the inverse of `split`."""
    if isinstance(layout, PerSample):
        return condition[layout.name].movedim(0, layout.dim).flatten(layout.dim, layout.dim + 1)
    if isinstance(layout, OfPrompt):
        return _one_of(condition[layout.name], layout.name).to(device, non_blocking=True)
    if isinstance(layout, NumberOf):
        return int(read(_one_of(condition[layout.name], layout.name)))
    if isinstance(layout, PerSampleList):
        return layout.kind(_join_item(layout.item, condition, i) for i in range(count))
    if isinstance(layout, Group):
        return layout.map(lambda _, entry: join(entry, condition, count, device)).build()
    return layout.value.to(device) if isinstance(layout.value, torch.Tensor) else layout.value


def _one_of(rows: torch.Tensor, name: str) -> torch.Tensor:
    """Return the row that all samples of a batch share.

    Raises:
        TwinFlowConfigError: if they differ.
    """
    if len(rows) > 1 and not (read(rows) == read(rows[:1])).all():
        raise TwinFlowConfigError(
            f"the samples of a batch have different `{name.removeprefix(ON_HOST)}`, and the denoiser takes one for all: "
            "set train_batch_size=1."
        )
    return rows[0]


def _join_item(layout: Any, condition: Condition, index: int) -> Any:
    if isinstance(layout, OfItem):
        return condition[layout.name][index]
    if isinstance(layout, Group):
        return layout.map(lambda _, entry: _join_item(entry, condition, index)).build()
    return layout.value


def reads_conditions(layout: Any) -> bool:
    """Return whether a condition of this layout is read on the host in each pass."""
    if isinstance(layout, Group):
        return any(map(reads_conditions, layout.entries.values()))
    return isinstance(layout, (OfPrompt, NumberOf)) and layout.name.startswith(ON_HOST)


def same(first: Any, second: Any) -> bool:
    """Return whether two values are of one type and equal, down to the tensors in lists and dictionaries."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        alike = first.shape == second.shape and first.dtype == second.dtype
        return alike and torch.equal(first.to(second.device), second)
    if type(first) is not type(second):
        return False
    one, two = Group.of(first), Group.of(second)
    if one is None or two is None:
        return bool(first == second)
    return one.entries.keys() == two.entries.keys() and all(
        same(entry, two.entries[key]) for key, entry in one.entries.items()
    )


def _another(name: str, value: Any, before: Any = None) -> TwinFlowConfigError:
    was = "" if before is None else f", and was {describe(before)}"
    return TwinFlowConfigError(
        f"the pipeline passes another `{name}` for some prompts: {describe(value)}{was}. It encodes prompts to different "
        "lengths, and samples of one run must be alike: use prompts of one length, or set `max_sequence_length` if the "
        "pipeline pads to it."
    )


def size_of(value: Any) -> int:
    """How many numbers the tensors of a value hold."""
    return sum(tensor.numel() for tensor in tensors(value))


def describe(value: Any) -> str:
    """A value in a few words, for an error."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)[:60]
