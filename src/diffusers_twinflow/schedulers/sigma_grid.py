"""The time grid of the sampler, in float64: a few numbers a picture, so plain numpy on the host."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

Sigmas = TypeVar("Sigmas", float, np.ndarray, torch.Tensor)
Values = Sequence[float] | np.ndarray | torch.Tensor

# arXiv:2512.05150, evaluation settings of its authors: where the last evaluation stands, by style and step count.
KNOWN_GAP_END = {"few": (0.6, 0.6, 0.5), "any": (0.5,), "multi": (0.0,)}
KNOWN_STOCHASTIC_RATIO = {"few": 1.0, "any": 0.0, "multi": 0.0}
KNOWN_KUMARASWAMY = {"few": (1.0, 1.0, 1.0), "any": (1.0, 1.0, 1.0), "multi": (1.17, 0.8, 1.1)}


def of_step_count(values: Sequence[float], num_inference_steps: int) -> float:
    """The value for a number of steps: the first is for one step, and the last also for all higher counts."""
    return values[min(num_inference_steps, len(values)) - 1]


def shift_sigmas(sigmas: Sigmas, shift: float) -> Sigmas:
    """Static time shift of the stock flow-matching schedulers."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def unshift_sigmas(sigmas: Sigmas, shift: float) -> Sigmas:
    """The inverse of `shift_sigmas`."""
    return sigmas / (shift - (shift - 1) * sigmas)


def twinflow_sigmas(
    points: int, *, gap_start: float, gap_end: float, kumaraswamy: tuple[float, float, float], shift: float
) -> np.ndarray:
    """The sampling grid of UCGM (arXiv:2505.07447) without its terminal zero.

    Args:
        points: how many sigmas.
        gap_start: 1 minus the first sigma.
        gap_end: the last sigma; 0 spaces the points as if the data were one more of them.
        kumaraswamy: (a, b, c) of `(1 - (1 - tau**a)**b)**c`; ones leave the grid uniform.
        shift: static shift, 1 for none.

    Returns:
        float64 array of shape [points], falling, 1 = noise.

    Raises:
        ValueError: where the gaps leave no room between them.
    """
    if not 0 <= gap_start < 1 or not 0 <= gap_end < 1 or gap_start + gap_end >= 1:
        raise ValueError(
            f"gap_start={gap_start} and gap_end={gap_end} cross: both must be at least 0 and together below 1."
        )
    tau = np.linspace(gap_start, 1 - gap_end, points + (gap_end == 0))[:points]
    a, b, c = kumaraswamy
    return shift_sigmas(1 - (1 - (1 - tau**a) ** b) ** c, shift)


def check_gap_end(last: float, highest: float) -> None:
    """Refuse a last sigma that is not below the largest one that the model knows."""
    if last >= highest:
        raise ValueError(
            f"gap_end={last:.4g} is not below {highest:.4g}, the largest sigma that the model knows: lower it."
        )


def start_at(sigmas: np.ndarray, highest: float) -> np.ndarray:
    """Spread a falling grid between `highest`, where it would start above that, and its last sigma.

    Raises:
        ValueError: where the last sigma is not below `highest`.
    """
    first, last = sigmas[0], sigmas[-1]
    if first <= highest:
        return sigmas
    if len(sigmas) == 1:
        return np.array([highest])
    check_gap_end(last, highest)
    return last + (sigmas - last) * ((highest - last) / (first - last))


def with_corrections(sigmas: np.ndarray, corrections: int) -> tuple[np.ndarray, list[bool]]:
    """Add the evaluations of the second-order corrections: each stands where its step arrived.

    Args:
        sigmas: shape [points].
        corrections: how many of the steps, from the first on, are corrected; below `points`.

    Returns:
        The sigma of every evaluation, shape [points + corrections], and whether it is a correction.
    """
    is_correction = [False]
    for point in range(1, len(sigmas)):
        is_correction += [True, False] if point <= corrections else [False]
    repeats = [1, *(2 if point <= corrections else 1 for point in range(1, len(sigmas)))]
    return np.repeat(sigmas, repeats), is_correction


def own_grid(config: Any, evaluations: int, prediction: Any, shift: float) -> tuple[np.ndarray, list[bool]]:
    """The grid that a scheduler's options ask for.

    Args:
        config: of a `TwinFlowScheduler`.
        evaluations: of the model.
        prediction: from `prediction_of`. The multi style, which follows the model's own trajectory, spaces its grid
            evenly in the model's time, as the model's own samplers do; the other styles space it in sigma.
        shift: static shift, without effect if the config has `use_dynamic_shifting`.

    Returns:
        The sigma of every evaluation, shape [evaluations], and whether it is a second-order correction.
    """
    shift = 1.0 if config.use_dynamic_shifting else shift
    points = evaluations if config.sampling_order == 1 else evaluations // 2 + 1
    gap_start, gap_end, highest = config.gap_start, config.gap_end, prediction.largest_sigma
    if gap_end is None:
        gap_end = unshift_sigmas(of_step_count(KNOWN_GAP_END[config.sampling_style], evaluations), shift)
    elif isinstance(gap_end, (list, tuple)):
        gap_end = of_step_count(gap_end, evaluations)
    warp = config.kumaraswamy or KNOWN_KUMARASWAMY[config.sampling_style]
    in_time = config.sampling_style == "multi" and prediction.is_bridged and gap_start + gap_end < 1
    if in_time:
        warp = config.kumaraswamy or (1.0, 1.0, 1.0)
        check_gap_end(gap_end, highest)
        gap_start, gap_end = 1 - prediction.time_fraction(1 - gap_start), prediction.time_fraction(gap_end)
    sigmas = twinflow_sigmas(points, gap_start=gap_start, gap_end=gap_end, kumaraswamy=warp, shift=shift)
    if in_time:
        sigmas = prediction.sigmas_at(sigmas)
    return with_corrections(start_at(sigmas, highest), evaluations - points)


def nearest_index(grid: list[float], time: float, tolerance: float) -> int:
    """The index of the time of a grid that is nearest to `time`, the first one of equals.

    Raises:
        ValueError: where that is further away than the tolerance and the rounding of half precision.
    """
    index = min(range(len(grid)), key=lambda i: abs(grid[i] - time))
    if not abs(grid[index] - time) <= tolerance + abs(time) / 256:
        raise ValueError(f"timestep {time} is not on the grid {grid}: pass an element of scheduler.timesteps.")
    return index


def as_array(values: Values | None) -> np.ndarray | None:
    """A list, array or tensor as float64."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return None if values is None else np.asarray(values, dtype=np.float64)


def number_of_steps(num_inference_steps: int | None, sigmas: np.ndarray | None, timesteps: np.ndarray | None) -> int:
    """The number of steps that all of the arguments agree on; those that are `None` do not count.

    Raises:
        ValueError: for none, less than one, or lengths that differ.
    """
    counts = {} if num_inference_steps is None else {"num_inference_steps": num_inference_steps}
    counts |= {name: len(v) for name, v in {"sigmas": sigmas, "timesteps": timesteps}.items() if v is not None}
    if not counts or min(counts.values()) < 1:
        raise ValueError(f"set_timesteps got {counts or 'no number of steps'}: pass num_inference_steps of 1 or more.")
    if len(set(counts.values())) > 1:
        raise ValueError(f"set_timesteps got {counts}: they must agree, or pass only one of them.")
    return next(iter(counts.values()))


def check_custom_sigmas(sigmas: np.ndarray, sampling_order: int) -> None:
    """Raise a ValueError where sigmas of a user cannot be a grid."""
    if sampling_order == 2:
        raise ValueError("Custom sigmas need sampling_order=1: corrections stand on the own grid only.")
    if not (sigmas[-1] > 0 and sigmas[0] <= 1 and np.all(np.diff(sigmas) < 0)):
        raise ValueError(f"Custom sigmas must fall, above 0 and at most 1, without the terminal 0, not {sigmas}.")
