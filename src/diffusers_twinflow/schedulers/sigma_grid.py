"""The sigma grid of the sampler, computed in float64 with NumPy because it is only a few numbers."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

Sigmas = TypeVar("Sigmas", float, np.ndarray, torch.Tensor)
Values = Sequence[float] | np.ndarray | torch.Tensor

# Evaluation settings of the authors of arXiv:2512.05150: sigma of the last evaluation, by style and step count.
KNOWN_GAP_END = {"few": (0.6, 0.6, 0.5), "any": (0.5,), "multi": (0.0,)}
KNOWN_STOCHASTIC_RATIO = {"few": 1.0, "any": 0.0, "multi": 0.0}
KNOWN_KUMARASWAMY = {"few": (1.0, 1.0, 1.0), "any": (1.0, 1.0, 1.0), "multi": (1.17, 0.8, 1.1)}


def of_step_count(values: Sequence[float], num_inference_steps: int) -> float:
    """Return the value for a number of steps. The first is for one step; the last is also for all higher counts."""
    return values[min(num_inference_steps, len(values)) - 1]


def shift_sigmas(sigmas: Sigmas, shift: float) -> Sigmas:
    """Apply the static time shift of the stock flow-matching schedulers."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def unshift_sigmas(sigmas: Sigmas, shift: float) -> Sigmas:
    """Undo `shift_sigmas`."""
    return sigmas / (shift - (shift - 1) * sigmas)


def twinflow_sigmas(
    points: int, *, gap_start: float, gap_end: float, kumaraswamy: tuple[float, float, float], shift: float
) -> np.ndarray:
    """Return the sampling grid of UCGM (arXiv:2505.07447) without its terminal zero.

    Args:
        points: number of sigmas.
        gap_start: 1 minus the first sigma, before warp and shift.
        gap_end: the last sigma, before warp and shift. 0 spaces the points as if the data were one more point.
        kumaraswamy: (a, b, c) of the warp `(1 - (1 - tau**a)**b)**c`; (1, 1, 1) leaves the grid uniform.
        shift: static shift; 1 is no shift.

    Returns:
        Falling float64 array of shape [points]; 1 is noise.

    Raises:
        ValueError: if the two gaps leave no room between them.
    """
    if not 0 <= gap_start < 1 or not 0 <= gap_end < 1 or gap_start + gap_end >= 1:
        raise ValueError(
            f"gap_start={gap_start} and gap_end={gap_end} leave no room for a grid: both must be at least 0, and their "
            "sum must be below 1."
        )
    tau = np.linspace(gap_start, 1 - gap_end, points + (gap_end == 0))[:points]
    a, b, c = kumaraswamy
    return shift_sigmas(1 - (1 - (1 - tau**a) ** b) ** c, shift)


def check_gap_end(last: float, highest: float) -> None:
    """Raise a `ValueError` if the last sigma is not below the largest sigma that the model knows."""
    if last >= highest:
        raise ValueError(
            f"gap_end={last:.4g} must be below {highest:.4g}, the largest sigma that the model knows: use a lower value."
        )


def start_at(sigmas: np.ndarray, highest: float) -> np.ndarray:
    """Squeeze a falling grid that starts above `highest`, so that it starts there and keeps its last sigma.

    Raises:
        ValueError: if the last sigma is not below `highest`.
    """
    first, last = sigmas[0], sigmas[-1]
    if first <= highest:
        return sigmas
    if len(sigmas) == 1:
        return np.array([highest])
    check_gap_end(last, highest)
    return last + (sigmas - last) * ((highest - last) / (first - last))


def with_corrections(sigmas: np.ndarray, corrections: int) -> tuple[np.ndarray, list[bool]]:
    """Add the evaluations of second-order corrections to a grid, each at the sigma where its step arrived.

    Args:
        sigmas: shape [points].
        corrections: number of steps to correct, starting with the first; less than `points`.

    Returns:
        The sigma of every evaluation, shape [points + corrections], and whether it is a correction.
    """
    is_correction = [False]
    for point in range(1, len(sigmas)):
        is_correction += [True, False] if point <= corrections else [False]
    repeats = [1, *(2 if point <= corrections else 1 for point in range(1, len(sigmas)))]
    return np.repeat(sigmas, repeats), is_correction


def own_grid(config: Any, evaluations: int, prediction: Any, shift: float) -> tuple[np.ndarray, list[bool]]:
    """Return the grid that a scheduler's options describe.

    Args:
        config: config of a `TwinFlowScheduler`.
        evaluations: number of model evaluations.
        prediction: from `prediction_of`. For a diffusion model the style "multi" spaces the grid evenly in the model's
            timesteps, as diffusion samplers do. All other grids are spaced in sigma.
        shift: static shift. It has no effect if `use_dynamic_shifting` is set.

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
    """Return the index of the grid time nearest to `time`, the first index if several are equal.

    Raises:
        ValueError: if that time is further away than the tolerance plus the rounding error of half precision.
    """
    index = min(range(len(grid)), key=lambda i: abs(grid[i] - time))
    if not abs(grid[index] - time) <= tolerance + abs(time) / 256:
        raise ValueError(f"timestep {time} is not on the grid {grid}: pass an element of scheduler.timesteps.")
    return index


def as_array(values: Values | None) -> np.ndarray | None:
    """Convert a list, array or tensor to a float64 array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return None if values is None else np.asarray(values, dtype=np.float64)


def number_of_steps(num_inference_steps: int | None, sigmas: np.ndarray | None, timesteps: np.ndarray | None) -> int:
    """Return the number of steps that all arguments agree on, ignoring arguments that are `None`.

    Raises:
        ValueError: if all are `None`, if the number is less than 1, or if the lengths differ.
    """
    counts = {} if num_inference_steps is None else {"num_inference_steps": num_inference_steps}
    if num_inference_steps is not None and num_inference_steps != int(num_inference_steps):
        raise ValueError(f"num_inference_steps={num_inference_steps} is not valid: pass a whole number of 1 or more.")
    counts |= {name: len(v) for name, v in {"sigmas": sigmas, "timesteps": timesteps}.items() if v is not None}
    if not counts or min(counts.values()) < 1:
        raise ValueError(
            f"set_timesteps got {counts or 'no number of steps'}: pass a num_inference_steps of 1 or more."
        )
    if len(set(counts.values())) > 1:
        raise ValueError(f"set_timesteps got {counts}, which do not agree: pass equal lengths, or only one of them.")
    return int(next(iter(counts.values())))


def check_custom_sigmas(sigmas: np.ndarray, sampling_order: int) -> None:
    """Raise a `ValueError` if sigmas that a user passed are not a valid grid."""
    if sampling_order == 2:
        raise ValueError(
            "Custom sigmas need sampling_order=1, because second-order corrections work only on the built-in grid."
        )
    if not (sigmas[-1] > 0 and sigmas[0] <= 1 and np.all(np.diff(sigmas) < 0)):
        raise ValueError(
            f"The sigmas {sigmas} are not valid: custom sigmas must fall, be above 0 and at most 1, and leave out the "
            "terminal 0."
        )
