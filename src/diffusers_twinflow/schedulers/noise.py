"""Noise that depends on a sample alone, drawn on its device.

Stock pipelines do not hand the user's generator to the scheduler. They do hand it the initial latents, which that
generator drew: hashed, they seed a counter-based generator of their own. Same latents, same noise, whatever the batch.
"""

import math

import torch

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B1


def sample_seeds(sample: torch.Tensor) -> torch.Tensor:
    """A 32-bit seed for each of the B samples of shape [B, ...], as int64 of shape [B]."""
    bits = sample.detach().float().flatten(1).view(torch.int32).long() & MASK
    place = torch.arange(bits.shape[1], device=bits.device)
    return _mix((_mix(bits) + place * GOLDEN) & MASK).sum(1) & MASK


def seeded_noise(seeds: torch.Tensor, shape: torch.Size, step: int) -> torch.Tensor:
    """Standard normal noise of the given shape [B, ...], float32, of its own for each seed and step."""
    count = math.prod(shape[1:])
    place = torch.arange(count, device=seeds.device) * 2 + step * 2 * count
    first, second = (_mix(_mix((place + k) & MASK) ^ _mix((seeds + k) & MASK).unsqueeze(1)) for k in (0, 1))
    radius = ((first.float() + 1) / (MASK + 1)).log().mul(-2).clamp_min(0).sqrt()
    return (radius * torch.cos(second.float() * (2 * math.pi / (MASK + 1)))).reshape(shape)


def _mix(value: torch.Tensor) -> torch.Tensor:
    """The 32-bit finalizer of MurmurHash3: every output bit depends on every input bit."""
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & MASK
    return value ^ (value >> 16)
