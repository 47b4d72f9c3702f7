"""Noise that each sample of a batch owns: a function of a seed and of that sample's own starting noise."""

import torch

SMALLEST_POOL = 2**16
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


def noise_places(keys: torch.Tensor, elements: int) -> torch.Tensor:
    """Where each sample finds its noise in a pool: a bijection of the places, another one for every key.

    Args:
        keys: from `sample_keys`, shape [B, 1].
        elements: number of elements of one sample.

    Returns:
        int64 tensor of shape [B, elements], each row without repeats and below `pool_size(elements)`.
    """
    mask = pool_size(elements) - 1
    factor, offset = (keys & mask) | 1, (keys >> 32) & mask
    return torch.arange(elements, device=keys.device).mul(factor).add_(offset).bitwise_and_(mask)


def pool_size(elements: int) -> int:
    """The power of two that holds the noise of one sample."""
    return max(SMALLEST_POOL, 1 << (elements - 1).bit_length())


def normal_pool(size: int, seed: int, device: torch.device) -> torch.Tensor:
    """`size` standard normal float32 numbers that depend on `seed` and the kind of device, and on no global state."""
    if torch.compiler.is_compiling():
        return _compiled_normal_pool(size, seed, device)
    return torch.randn(size, generator=torch.Generator(device=device).manual_seed(seed), device=device)


@torch.library.custom_op("diffusers_twinflow::normal_pool", mutates_args=())
def _compiled_normal_pool(size: int, seed: int, device: torch.device) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator(device=device).manual_seed(seed), device=device)


@_compiled_normal_pool.register_fake
def _(size: int, seed: int, device: torch.device) -> torch.Tensor:
    return torch.empty(size, device=device)
