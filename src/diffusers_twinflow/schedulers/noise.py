"""Noise that each sample of a batch owns: a function of a seed and of that sample's own starting noise."""

import math

import torch

SMALLEST_POOL = 2**16
_LOW_BITS = 2**31 - 1
_MIX_1, _MIX_2 = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # the two multipliers of splitmix64, as signed integers


def sample_keys(sample: torch.Tensor) -> torch.Tensor:
    """One integer for each sample of a batch, decided by the bits of that sample alone.

    Args:
        sample: any floating tensor of shape [B, ...].

    Returns:
        int64 tensor of shape [B, 1] on the device of `sample`.
    """
    bits = sample.detach().to(torch.float32).reshape(sample.shape[0], -1).contiguous().view(torch.int32)
    place = torch.arange(1, 2 * bits.shape[1], 2, device=sample.device) * _MIX_1
    keys = (bits * place).sum(dim=1, keepdim=True)
    keys = (keys ^ (keys >> 30)) * _MIX_1
    keys = (keys ^ (keys >> 27)) * _MIX_2
    return keys ^ (keys >> 31)


def pool_shape(elements: int) -> tuple[int, int]:
    """The pool that holds the noise of one sample: a prime number of rows, of 16 numbers each for large samples.

    Any factor walks through a prime number of rows without a repeat, and whole rows are gathered faster than numbers.
    """
    width = 16 if elements > SMALLEST_POOL else 1
    rows = max(SMALLEST_POOL // width, -(-elements // width))
    while any(rows % divisor == 0 for divisor in range(2, math.isqrt(rows) + 1)):
        rows += 1
    return rows, width


def noise_rows(keys: torch.Tensor, elements: int) -> torch.Tensor:
    """The rows of the pool that are each sample's noise, in an order of its own for every key.

    Args:
        keys: from `sample_keys`, shape [B, 1].
        elements: number of elements of one sample.

    Returns:
        int64 tensor of shape [B, R], without repeats in a sample, R the fewest rows that hold `elements` numbers.
    """
    rows, width = pool_shape(elements)
    factor, offset = (keys & _LOW_BITS) % (rows - 1) + 1, (keys >> 32 & _LOW_BITS) % rows
    return torch.arange(-(-elements // width), device=keys.device).mul(factor).add_(offset).remainder_(rows)


def gather_noise(rows: torch.Tensor, shape: torch.Size, seed: int) -> torch.Tensor:
    """Standard normal noise of the given shape [B, ...], float32.

    Args:
        rows: from `noise_rows`.
        seed: of the pool, one for each step.
    """
    elements = math.prod(shape[1:])
    pool = normal_pool(*pool_shape(elements), seed, rows.device)
    return pool[rows].flatten(1)[:, :elements].reshape(shape)


def normal_pool(rows: int, width: int, seed: int, device: torch.device) -> torch.Tensor:
    """Standard normal float32 numbers, shape [rows, width], that depend on `seed` and the kind of device, and on no global state."""
    if torch.compiler.is_compiling():
        return _compiled_normal_pool(rows, width, seed, device)
    return torch.randn(rows, width, generator=torch.Generator(device=device).manual_seed(seed), device=device)


@torch.library.custom_op("diffusers_twinflow::normal_pool", mutates_args=())
def _compiled_normal_pool(rows: int, width: int, seed: int, device: torch.device) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator(device=device).manual_seed(seed), device=device)


@_compiled_normal_pool.register_fake
def _(rows: int, width: int, seed: int, device: torch.device) -> torch.Tensor:
    return torch.empty(rows, width, device=device)
