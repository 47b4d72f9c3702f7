"""Add the target time to a LoRA file as low-rank weights, and remove these weights again when we load the file."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft.utils.other import get_pattern_key
from torch import nn

from ..configuration import TwinFlowConfigError
from ..models import SecondEmbedder, TwinFlowTransformerMixin
from ..models.target_folding import (
    CannotFoldError,
    FoldedLayer,
    FoldedTarget,
    Grid,
    adds_target,
    fold_target,
    why_not_foldable,
)
from ..models.time_conditioning import TimeConditioning
from ..models.timestep_embedders import takes_target
from ..schedulers import TwinFlowScheduler

OTHER_TARGETS = (
    "its stock pipeline passes the next time of the grid as the target, so the scheduler needs sampling_style='any'"
)
STEP_COUNTS = (1, 2, 4, 3, 8)
MAX_FOLDED_RANK = 64


@dataclass(frozen=True)
class Portable:
    """How the stock weights carry the target time, as written in `twinflow_config.json`.

    Attributes:
        style: sampling style that the weights support.
        sigmas: sigmas, without the final 0, of each step count for which the weights are exact.
        layers: stock layers that carry the target time, with the rank that it uses in each. If there are two denoisers,
            the layers of the second one start with the name of its component.
        error_between: largest error at other times, relative to the largest effect of the target time. `None` if the
            weights are valid only for the given sigmas.
        reason: why the weights do not carry the target time, or `None` if they do.
    """

    style: str = "few"
    sigmas: dict[str, list[float]] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    error_between: float | None = None
    reason: str | None = None

    @classmethod
    def from_dict(cls, values: Any) -> "Portable":
        """Read it from a configuration.

        Raises:
            TwinFlowConfigError: if a field has the wrong type.
        """
        portable = (
            cls(**{k: v for k, v in values.items() if k in cls.__dataclass_fields__}) if _is(values, dict) else None
        )
        if portable is None or not (
            isinstance(portable.style, str)
            and _is_mapping_to(
                portable.sigmas, lambda value: _is(value, list) and all(_is(x, float, int) for x in value)
            )
            and _is_mapping_to(portable.layers, lambda value: _is(value, int) and 1 <= value <= MAX_FOLDED_RANK)
            and (portable.error_between is None or _is(portable.error_between, float, int))
            and (portable.reason is None or isinstance(portable.reason, str))
        ):
            raise TwinFlowConfigError(
                "'portable' in twinflow_config.json is not valid. Save the repository again, or remove the entry."
            )
        return portable

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_all(cls, parts: Mapping[str, "Portable"]) -> "Portable":
        """Join the descriptions of the denoisers of a pipeline, by component, the one for high noise first."""
        first, *others = parts.values()
        errors = [part.error_between for part in parts.values()]
        layers = {
            (layer if part is first else f"{name}.{layer}"): rank
            for name, part in parts.items()
            for layer, rank in part.layers.items()
        }
        return cls(
            first.style,
            {count: each for count, each in first.sigmas.items() if all(count in part.sigmas for part in others)},
            layers,
            None if None in errors else max(error for error in errors if error is not None),
            next((part.reason for part in parts.values() if part.reason is not None), None),
        )

    def layers_of(self, name: str, denoisers: Sequence[str]) -> dict[str, int]:
        """Return the layers of one of the denoisers that `of_all` joined, the inverse of it."""
        first, *others = denoisers
        prefixes = {other: f"{other}." for other in others}
        if name == first:
            return {k: rank for k, rank in self.layers.items() if not k.startswith(tuple(prefixes.values()))}
        prefix = prefixes[name]
        return {k.removeprefix(prefix): rank for k, rank in self.layers.items() if k.startswith(prefix)}


def fold(
    transformer: ModelMixin,
    conditioning: nn.Module | None,
    scheduler: TwinFlowScheduler,
    num_inference_steps: int,
    *,
    adapter_names: Sequence[str] = (),
    step_counts: Sequence[int] = STEP_COUNTS,
) -> tuple[FoldedTarget | None, Portable]:
    """Express a model's target time as low-rank weights of its stock layers.

    Args:
        transformer: the distilled model.
        conditioning: its time conditioning. Without a target time, the stock weights are already complete.
        scheduler: scheduler whose options define the sampling grids on which the weights must be exact.
        num_inference_steps: step count of the distillation. Its grid has priority.
        adapter_names: adapters that are active when the weights are used.
        step_counts: further step counts on which the weights must be exact, the most important one first.

    Returns:
        The weights and their description. The weights are `None` if the stock model does not need them or cannot carry
        the target time.
    """
    counts = list(dict.fromkeys([num_inference_steps, *step_counts]))
    grids = {count: _grid(scheduler, count) for count in counts}
    style = scheduler.config.sampling_style
    all_sigmas = {count: sigmas for count, (sigmas, _) in grids.items()}
    complete = Portable(style, {str(count): all_sigmas[count] for count in counts})
    if style == "multi" or conditioning is None:
        return None, complete
    if not isinstance(transformer, TwinFlowTransformerMixin):
        raise TypeError(f"A {type(transformer).__name__} has no time conditioning: pass a TwinFlow transformer.")
    if not adds_target(type(transformer), transformer, conditioning):
        return None, complete
    if takes_target(transformer):
        return None, complete if style == "any" else Portable(style, reason=OTHER_TARGETS)
    reason = why_not_foldable(type(transformer), transformer, conditioning)
    if reason is not None or not isinstance(conditioning, (TimeConditioning, SecondEmbedder)):
        return None, Portable(style, reason=reason)
    in_unit = {count: _in_unit(grid, conditioning) for count, (_, grid) in grids.items()}
    try:
        folded = fold_target(transformer, conditioning, in_unit, adapter_names=adapter_names)
    except CannotFoldError as error:
        return None, Portable(style, reason=str(error))
    sigmas = {str(count): all_sigmas[count] for count in counts if count in folded.exact}
    layers = {name: layer.lora_A.shape[0] for name, layer in folded.layers.items()}
    return folded, Portable(style, sigmas, layers, folded.error_between)


def _grid(scheduler: TwinFlowScheduler, count: int) -> tuple[list[float], Grid]:
    """Return the sigmas of a step count, and its times and target times as fractions of the scheduler's range."""
    scheduler = TwinFlowScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(count)
    at_data = scheduler.config.num_train_timesteps if scheduler.config.invert_sigmas else 0
    at_noise = scheduler.config.num_train_timesteps - at_data
    sigmas = 1 - scheduler.sigmas if scheduler.config.invert_sigmas else scheduler.sigmas
    if scheduler.target_timesteps is None:
        raise RuntimeError("set_timesteps made a grid without target times.")
    times, targets = scheduler.timesteps.double(), scheduler.target_timesteps.double()
    return [round(sigma, 7) for sigma in sigmas[:-1].tolist()], Grid(
        *((time - at_data) / (at_noise - at_data) for time in (times, targets))
    )


def _in_unit(grid: Grid, conditioning: TimeConditioning | SecondEmbedder) -> Grid:
    at_data, at_noise = conditioning.at_data, conditioning.at_noise
    return Grid(*((at_data + time * (at_noise - at_data)).float() for time in (grid.times, grid.targets)))


def add_folded(
    weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], layers: Mapping[str, FoldedLayer]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Add folded layers to the weights of a LoRA and to the fields of its `LoraConfig`.

    If the LoRA already adapts a layer, the rank of this layer grows. The added rows come last.

    Args:
        weights: weights by name, without the component's prefix.
        config: fields of the `LoraConfig`.
        folded: folded layers by name.

    Returns:
        The new weights and the new fields.
    """
    weights, fields = dict(weights), deepcopy(dict(config))
    for name, layer in layers.items():
        key_a, key_b = _keys(name)
        rank, scale = 0, 1.0
        parts_a, parts_b = [layer.lora_A], [layer.lora_B]
        if key_a in weights:
            rank, alpha = rank_and_alpha(fields, name)
            scale = alpha / rank
            parts_a, parts_b = [weights[key_a], layer.lora_A], [weights[key_b], layer.lora_B / scale]
        dtype = next(iter(weights.values())).dtype if weights else torch.float32
        weights[key_a] = torch.cat([part.to(dtype).cpu() for part in parts_a], dim=0).contiguous()
        weights[key_b] = torch.cat([part.to(dtype).cpu() for part in parts_b], dim=1).contiguous()
        _set_rank(fields, name, rank + layer.lora_A.shape[0], scale)
        if not rank:
            fields["target_modules"] = _with_target(fields["target_modules"], name)
    return weights, fields


def without_folded(
    weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], layers: Mapping[str, int]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Undo `add_folded`: return the weights and the configuration of the LoRA without the folded layers.

    Args:
        layers: rank of each folded layer.

    Raises:
        TwinFlowConfigError: if the LoRA has no such layer, or the layer's rank is smaller.
    """
    weights, fields = dict(weights), deepcopy(dict(config))
    for name, folded_rank in layers.items():
        key_a, key_b = _keys(name)
        if key_a not in weights or key_b not in weights or weights[key_a].shape[0] < folded_rank:
            raise TwinFlowConfigError(
                f"twinflow_config.json says that '{name}' contains the target time, but the LoRA has no such layer of rank "
                f"{folded_rank} or more. Save the repository again."
            )
        rank = weights[key_a].shape[0] - folded_rank
        stored_rank, alpha = rank_and_alpha(fields, name)
        if rank:
            weights[key_a], weights[key_b] = weights[key_a][:rank].contiguous(), weights[key_b][:, :rank].contiguous()
        else:
            del weights[key_a], weights[key_b]
        _set_rank(fields, name, rank, alpha / stored_rank)
        targets = fields["target_modules"]
        if not rank and not isinstance(targets, str):
            fields["target_modules"] = [target for target in targets if target != name]
    return weights, fields


def rank_and_alpha(config: Mapping[str, Any], name: str) -> tuple[int, float]:
    """Return the rank and alpha of one layer as PEFT reads them from the fields of a `LoraConfig`."""
    rank_pattern: dict[str, int] = config.get("rank_pattern") or {}
    alpha_pattern: dict[str, float] = config.get("alpha_pattern") or {}
    rank = rank_pattern.get(get_pattern_key([*rank_pattern], name), config["r"])
    return rank, alpha_pattern.get(get_pattern_key([*alpha_pattern], name), config["lora_alpha"])


def _set_rank(config: dict[str, Any], name: str, rank: int, scale: float) -> None:
    """Write the rank and the scale of one layer into the patterns of a `LoraConfig`.

    PEFT uses the first pattern that a layer's name ends with, so the longest names are written first.
    """
    for kind, value in (("rank", rank), ("alpha", rank * scale)):
        pattern = {key: other for key, other in (config.get(f"{kind}_pattern") or {}).items() if key != name}
        if rank:
            pattern[name] = value
        config[f"{kind}_pattern"] = dict(sorted(pattern.items(), key=lambda item: -len(item[0])))


def _with_target(targets: Any, name: str) -> Any:
    if isinstance(targets, str):
        return f"({targets})|{name}"
    return sorted({*targets, name})


def _keys(name: str) -> tuple[str, str]:
    return f"{name}.lora_A.weight", f"{name}.lora_B.weight"


def _is(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _is_mapping_to(value: Any, is_valid: Any) -> bool:
    return _is(value, dict) and all(isinstance(k, str) and is_valid(v) for k, v in value.items())
