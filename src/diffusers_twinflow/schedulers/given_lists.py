"""The sigmas and timesteps that are passed to `set_timesteps`: by a user, or by a stock pipeline of its own accord."""

import numpy as np
import torch


def as_array(values) -> np.ndarray | None:
    """A list, array or tensor as float64."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return None if values is None else np.asarray(values, dtype=np.float64)


def number_of_steps(num_inference_steps: int | None, sigmas, timesteps) -> int:
    """The number of steps that all of the arguments agree on; those that are `None` do not count.

    Raises:
        ValueError: for none, less than one, or lengths that differ.
    """
    counts = {"num_inference_steps": num_inference_steps}
    counts |= {name: None if v is None else len(v) for name, v in {"sigmas": sigmas, "timesteps": timesteps}.items()}
    counts = {name: count for name, count in counts.items() if count is not None}
    if not counts or min(counts.values()) < 1:
        raise ValueError(f"set_timesteps got {counts or 'no number of steps'}: pass num_inference_steps of 1 or more.")
    if len(set(counts.values())) > 1:
        raise ValueError(f"set_timesteps got {counts}: they must agree, or pass only one of them.")
    return next(iter(counts.values()))


def check_custom_sigmas(sigmas: np.ndarray, sampling_order: int):
    """Raise a ValueError where sigmas of a user cannot be a grid."""
    if sampling_order == 2:
        raise ValueError("Custom sigmas need sampling_order=1: corrections stand on the own grid only.")
    if not (sigmas[-1] > 0 and sigmas[0] <= 1 and np.all(np.diff(sigmas) < 0)):
        raise ValueError(f"Custom sigmas must fall, above 0 and at most 1, without the terminal 0, not {sigmas}.")
