"""Find how a pipeline calls its denoiser: where the samples and times go, and which arguments belong to one sample."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils import logging

from ..configuration import TwinFlowConfigError
from ..models import TwinFlowTransformerMixin
from ..models.timestep_embedders import TimestepEmbedders
from .call_capture import DenoiserCall
from .call_layout import LayoutError, StateError, describe, layout_of, layout_of_one, layout_of_packed, same
from .controlnets import PREFIX, ControlNetLayout, check_takes, outputs_in, taken_from
from .sample_place import CallLayout, SamplePlace
from .stock_calls import REFUSED

logger = logging.get_logger(__name__)

AUDIO_OF = "audio_{}"
"""Name of the denoiser's argument for the sound of a video, from that of the video."""
TIME_TOLERANCE = 0.02
TIME_NAMES = ("timestep", "sigma")


@dataclass(frozen=True)
class LayoutSearch:
    """Compares captured calls of a pipeline.

    Attributes:
        pipeline_name: class name of the pipeline.
        component_name: its component that denoises.
        transformer_class: the TwinFlow class of that component.
        rule: how that class embeds times.
        time_range: its times at noise and at data.
        scheduler_name: class name of the pipeline's scheduler.
    """

    pipeline_name: str
    component_name: str
    transformer_class: type[TwinFlowTransformerMixin]
    rule: TimestepEmbedders
    time_range: tuple[float, float]
    scheduler_name: str

    def find(
        self,
        capture: Callable[[int, int], DenoiserCall],
        padded: tuple[DenoiserCall, DenoiserCall] | None = None,
        short: DenoiserCall | None = None,
    ) -> CallLayout:
        """Find how the pipeline calls its denoiser.

        Args:
            capture: the call for a number of samples that are conditioned alike, and a seed of their noise.
            padded: the calls for two prompts of different lengths, and for both of them twice, if a run has prompts of
                different lengths. Some pipelines pass a mask only then.
            short: the call for a prompt of another length, if a run has prompts of different lengths.

        Raises:
            TwinFlowConfigError: if the call cannot be split into samples, with what was seen.
        """
        try:
            if self.pipeline_name in REFUSED:
                raise LayoutError(REFUSED[self.pipeline_name])
            one, other = capture(1, 0), capture(1, 1)
            two = self._two_of(capture)
            self._check_time(one)
            place = self._find_sample(one.arguments, other.arguments)
            if two is not None and len(two.arguments[place.argument]) == len(one.arguments[place.argument]):
                two = None  # it takes several prompts, but generates one sample
            beside = self._find_sound(place, one.arguments, other.arguments)
            times = self._times_in(one.arguments)
            time = one.arguments[self.rule.argument]
            repeated = tuple(k for k, value in one.arguments.items() if value is time and k != self.rule.argument)
            samples = {each.argument for each in (place, *beside)}
            left_out = {*samples, self.rule.argument, *repeated, *self._native_targets()}
            first, twice = (one, two) if padded is None or two is None else padded
            named = {"one": one, "other": other, "first": first, "twice": twice, "short": short}
            calls = {name: call for name, call in named.items() if call is not None}
            several = twice is not None
            controlnet = self._find_controlnet(place.argument, list(calls.values()))
            if controlnet is not None:
                left_out |= controlnet.outputs.keys()
            how = (several, 1 if first is one else 2)
            layouts = self._layouts_of({n: c.arguments for n, c in calls.items()}, left_out, *how, "")
            if controlnet is not None:
                own = {n: c.controlnet.arguments for n, c in calls.items() if c.controlnet is not None}
                own_layouts = self._layouts_of(own, controlnet.taken, *how, PREFIX)
                controlnet = replace(controlnet, arguments=own_layouts)
        except LayoutError as error:
            raise TwinFlowConfigError(
                f"{self.pipeline_name} cannot be trained, because we cannot call its {self.component_name} with chosen "
                f"samples and times: {error}. Choose another base."
            ) from error
        native = next((name for name in self._native_targets() if one.arguments.get(name) is not None), None)
        return CallLayout(
            layouts,
            place,
            times,
            self.time_range,
            native,
            takes_several=two is not None,
            beside=beside,
            repeated_times=repeated,
            controlnet=controlnet,
        )

    def _two_of(self, capture: Callable[[int, int], DenoiserCall]) -> DenoiserCall | None:
        """The call for two samples; `None` if the pipeline takes one prompt at a time."""
        if self.rule.packed:
            return None
        try:
            return capture(2, 0)
        except TwinFlowConfigError as error:
            logger.info(f"prompts are encoded one at a time: {error}")
            return None

    def _find_controlnet(self, sample: str, calls: list[DenoiserCall]) -> ControlNetLayout | None:
        """Find what the pipeline's ControlNet takes from the denoiser, and which of the denoiser's arguments it returns.

        Args:
            sample: name of the denoiser's argument with the sample.
            calls: all captured calls.
        """
        found = [each.controlnet for each in calls if each.controlnet is not None]
        if not found:
            return None
        taken = taken_from([(call.arguments, each.arguments) for call, each in zip(calls, found)])
        check_takes(taken, found[0], (sample, self.rule.argument))
        outputs = {name: outputs_in(value, found[0].outputs) for name, value in calls[0].arguments.items()}
        returned = {name: each for name, each in outputs.items() if each is not None}
        return ControlNetLayout(found[0].module, taken, returned)

    def _layouts_of(
        self,
        calls: Mapping[str, dict[str, Any]],
        left_out: Collection[str],
        takes_several: bool,
        count: int,
        prefix: str,
    ) -> dict[str, Any]:
        """Find the layouts of the arguments of several calls of one model.

        Args:
            calls: arguments by kind of the call: "one" and "other" for two seeds of the noise, "first" and "twice" for
                the same samples once and twice, and "short" for a short prompt.
            left_out: names of arguments that are known already.
            takes_several: whether "twice" is there. Else all calls are for one sample.
            count: number of samples in "first".
            prefix: start of the names of conditions.
        """
        for name in sorted(calls["one"].keys() - left_out):
            self._check_no_time(prefix + name, calls["one"][name])
            self._check_alike(prefix + name, calls["one"][name], calls["other"][name])
        layouts = {}
        for name in sorted(calls["first"].keys() - left_out):
            value = calls["first"][name]
            if self.rule.packed:
                layouts[name] = layout_of_packed(value, prefix + name, calls.get("short", {}).get(name))
            elif takes_several:
                layouts[name] = layout_of(value, calls["twice"].get(name), prefix + name, count)
            else:
                layouts[name] = layout_of_one(value, prefix + name, calls.get("short", {}).get(name))
        return layouts

    def _native_targets(self) -> list[str]:
        return [self.rule.native_target.argument] if self.rule.native_target else []

    def _find_sample(self, one: dict[str, Any], other: dict[str, Any]) -> SamplePlace:
        """Find the sample in the first argument, or in the first one that changes with the noise if prompts come first."""
        forward = inspect.signature(self.transformer_class.stock_class().forward)
        names = [name for name in forward.parameters if name in one]
        if self.rule.packed:
            names = [name for name in names if not same(one[name], other[name])] or names
        return self._find_place(names[0], one, other)

    def _find_sound(self, place: SamplePlace, one: dict[str, Any], other: dict[str, Any]) -> tuple[SamplePlace, ...]:
        """Find the sound of a video, if the denoiser takes sound."""
        name = AUDIO_OF.format(place.argument)
        return (self._find_place(name, one, other),) if one.get(name) is not None else ()

    def _find_place(self, argument: str, one: dict[str, Any], other: dict[str, Any]) -> SamplePlace:
        """Find the sample in an argument: it is the part that changes with the seed."""
        value, kind = one[argument], None
        if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], torch.Tensor):
            kind = type(value)
            first, second = value[0].unsqueeze(0), other[argument][0].unsqueeze(0)
        else:
            first, second = value, other[argument]
        if not isinstance(first, torch.Tensor) or first.shape[:1] != (1,) or first.shape != second.shape:
            raise LayoutError(f"`{argument}` is {describe(value)} for one prompt")
        differs = first != second
        if not differs.any():
            raise LayoutError(f"`{argument}` is the same for every noise")
        dim, start, stop, whole = None, 0, 0, 0
        for each in range(1, first.ndim):
            changed = differs.movedim(each, 0).flatten(1).any(1).nonzero().flatten()
            low, high = int(changed[0]), int(changed[-1]) + 1
            if high - low < first.shape[each]:
                if dim is not None:
                    raise LayoutError(f"only a part of `{argument}`, {describe(first)}, is noise")
                dim, start, stop, whole = each, low, high, first.shape[each]
        shape = list(first.shape[1:])
        if dim is not None:
            shape[dim - 1] = stop - start
        return SamplePlace(argument, dim, start, stop, whole, kind, tuple(shape), first.dtype)

    def _check_no_time(self, name: str, value: Any) -> None:
        """Refuse a time that is neither the timestep nor the same tensor."""
        if isinstance(value, torch.Tensor) and any(part in name for part in TIME_NAMES):
            raise LayoutError(f"`{name}`, {describe(value)}, is a time besides `{self.rule.argument}`")

    def _check_alike(self, name: str, one: Any, other: Any) -> None:
        """Refuse an argument besides those of the sample that holds noise, such as that of a ControlNet."""
        try:
            layout_of(one, other, name)
        except StateError:
            raise
        except LayoutError as error:
            raise LayoutError(f"`{name}`, {describe(one)}, changes with the noise, as the sample does") from error

    def _check_time(self, call: DenoiserCall) -> None:
        """Refuse a pipeline whose times are not those that the table has for its denoiser."""
        time = call.arguments.get(self.rule.argument)
        if not isinstance(time, torch.Tensor):
            raise LayoutError(f"`{self.rule.argument}` is {describe(time)}, and not one time per sample")
        values = time.float().flatten()
        if values.min() != values.max():
            raise LayoutError(f"`{self.rule.argument}`, {describe(time)}, has several times for one sample")
        if call.noise_level is None:
            raise LayoutError(f"its {self.scheduler_name} has no sigmas")
        at_noise, at_data = self.time_range
        expected = at_data + call.noise_level * (at_noise - at_data)
        if abs(float(values[0]) - expected) > TIME_TOLERANCE * abs(at_noise - at_data):
            raise LayoutError(
                f"`{self.rule.argument}` is {float(values[0]):g} at noise level {call.noise_level:g}, where "
                f"{expected:g} is expected"
            )

    def _times_in(self, one: dict[str, Any]) -> tuple[int, ...]:
        """The shape of one sample's times, which are all the same."""
        time = one[self.rule.argument]
        if self.rule.packed:
            return tuple(time.shape)
        if time.ndim > 1 and time.shape[0] != 1:
            raise LayoutError(f"`{self.rule.argument}` is {describe(time)} for one prompt")
        return tuple(time.shape[1:])
