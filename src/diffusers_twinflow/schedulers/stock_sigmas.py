"""Recognize the default sigmas that stock pipelines pass to `set_timesteps` if the user passes none."""

import numpy as np

IDEOGRAM_START = 1 - 1 / (1 + np.exp(9.0))  # its other sigmas depend on the resolution


def linear(count: int, scale: int) -> np.ndarray:
    """Return the sigmas of Flux, Qwen-Image and most others."""
    return 1 - np.arange(count) / count


def linear_from_0_999(count: int, scale: int) -> np.ndarray:
    """Return the sigmas of Helios."""
    return 0.999 * linear(count, scale)


def whole_timesteps_to_1(count: int, scale: int) -> np.ndarray:
    """Return the sigmas of CogView4."""
    return np.trunc(np.linspace(scale, 1, count)) / scale


def whole_timesteps(count: int, scale: int) -> np.ndarray:
    """Return the sigmas of GLM-Image."""
    return np.trunc(np.linspace(scale, 1, count + 1)[:-1]) / scale


def picked_timesteps(count: int, scale: int) -> np.ndarray:
    """Return the sigmas of Bria."""
    return (scale - np.trunc(np.linspace(0, scale - 1, count))) / scale


def shifted_by_3(count: int, scale: int) -> np.ndarray:
    """Return the sigmas of ACE-Step."""
    sigmas = linear(count, scale)
    return 3 * sigmas / (1 + 2 * sigmas)


def log_snr(count: int, scale: int) -> np.ndarray:
    """Return the sigmas of Stable Audio 3."""
    sigmas = 1 / (1 + np.exp(2.0 - 8.2 * linear(count, scale)))
    return np.append(1.0, sigmas[1:])


def linear_quadratic(count: int, scale: int, threshold: float = 0.025) -> np.ndarray:
    """Return the sigmas of Mochi and LTXCondition.

    Half of the steps go down linearly to `1 - threshold`. The other half follow a parabola that joins smoothly.
    """
    half = count // 2
    rest = count - half
    slow = np.arange(half) * threshold / max(half, 1)
    slope = threshold / max(half, 1)
    steps = np.arange(rest)
    bend = (1 - threshold - slope * rest) / rest**2
    return 1 - np.append(slow, threshold * (half > 0) + slope * steps + bend * steps**2)


KINDS = (
    linear,
    linear_from_0_999,
    whole_timesteps_to_1,
    whole_timesteps,
    picked_timesteps,
    shifted_by_3,
    log_snr,
    linear_quadratic,
)


def is_linear(sigmas: np.ndarray) -> bool:
    """Whether these are the sigmas that most stock pipelines pass: 1 - i/N."""
    return np.allclose(sigmas, linear(len(sigmas), 1), rtol=0, atol=1e-6)


def is_stock(sigmas: np.ndarray, scale: int) -> bool:
    """Whether a stock pipeline passes these sigmas if its user passes none.

    Args:
        sigmas: shape [N], without the terminal 0.
        scale: `num_train_timesteps`.
    """
    if abs(sigmas[0] - IDEOGRAM_START) < 1e-6:
        return True
    return any(np.allclose(sigmas, kind(len(sigmas), scale), rtol=0, atol=1e-5) for kind in KINDS)
