"""Fresh noise per sample, computed from a seed and from the sample's starting noise.

The noise of a sample does not depend on the rest of its batch.
"""

import math

import torch

KEY_NUMBERS = 1024
SMALLEST_POOL = 2**16
SEED_STRIDE = 0x9E3779B1  # odd, so two seeds differ at every step
_MIX = -0x61C8864680B583EB  # 2**64 divided by the golden ratio, as a signed integer


class SampleNoise:
    """Draws the fresh noise of sampling loops without a generator.

    Args:
        seed: a whole number in [0, 2**32).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._elements: int | None = None
        self._pool = (0, 0)
        self.restart()

    def restart(self) -> None:
        """Forget the starting noise, because a new loop begins."""
        self._keys: torch.Tensor | None = None
        self._rows: torch.Tensor | None = None

    def release(self) -> None:
        """Free the memory of the loop that ended."""
        self._rows = None

    @property
    def is_started(self) -> bool:
        """Whether the starting noise is known."""
        return self._keys is not None

    def start(self, starting_noise: torch.Tensor) -> None:
        """Begin a loop with this starting noise of shape [B, ...], which decides all fresh noise of the loop."""
        self._keys, self._rows = sample_keys(starting_noise), None

    def draw(self, sample: torch.Tensor, step: int) -> torch.Tensor:
        """Return standard normal noise of the shape and dtype of `sample`.

        If no starting noise is known, `sample` is taken as the starting noise.
        """
        keys = self._keys
        if keys is None or len(keys) != len(sample):
            self._keys = keys = sample_keys(sample)
            self._rows = None
        if self._rows is None:
            elements = sample.shape[1:].numel()
            if self._elements != elements:
                self._elements, self._pool = elements, pool_shape(elements)
            self._rows = noise_rows(keys.to(sample.device), elements, self._pool)
        seed = (self.seed * SEED_STRIDE + step) % 2**32
        return gather_noise(self._rows, self._pool, sample.shape, seed).to(sample.dtype)


def sample_keys(sample: torch.Tensor) -> torch.Tensor:
    """Return one integer per sample, computed from the bits of about a thousand of the sample's numbers.

    Args:
        sample: any floating tensor of shape [B, ...].

    Returns:
        int64 tensor of shape [B, 1] on the device of `sample`.
    """
    numbers = sample.detach().reshape(sample.shape[0], -1)
    numbers = numbers[:, :: max(1, numbers.shape[1] // KEY_NUMBERS)]
    bits = numbers.to(torch.float32, memory_format=torch.contiguous_format).view(torch.int32)
    places = torch.arange(1, 2 * bits.shape[1], 2, device=sample.device)
    return (bits * places).sum(dim=1, keepdim=True) * _MIX


def pool_shape(elements: int) -> tuple[int, int]:
    """Return rows and width of a pool of numbers that is large enough for the noise of one sample.

    The number of rows is prime, so steps of any size visit every row once. Large samples use rows of 16 numbers,
    because whole rows are gathered faster than single numbers.
    """
    width = 16 if elements > SMALLEST_POOL else 1
    rows = max(SMALLEST_POOL // width, -(-elements // width))
    while any(rows % divisor == 0 for divisor in range(2, math.isqrt(rows) + 1)):
        rows += 1
    return rows, width


def noise_rows(keys: torch.Tensor, elements: int, pool: tuple[int, int]) -> torch.Tensor:
    """Return the rows of the pool that make up each sample's noise. Their order depends on the sample's key.

    Args:
        keys: from `sample_keys`, shape [B, 1].
        elements: number of elements of one sample.
        pool: from `pool_shape`.

    Returns:
        int64 tensor of shape [B * R], where R rows are just enough for `elements` numbers. No row repeats in a sample.
    """
    rows, width = pool
    factor, offset = keys % (rows - 1) + 1, keys % rows
    places = torch.arange(-(-elements // width), device=keys.device)
    return torch.addcmul(offset, places, factor).remainder_(rows).flatten()


def gather_noise(rows: torch.Tensor, pool: tuple[int, int], shape: torch.Size, seed: int) -> torch.Tensor:
    """Return standard normal float32 noise of the given shape [B, ...].

    Args:
        rows: from `noise_rows`.
        pool: from `pool_shape`.
        seed: seed of the pool; use another one per step.
    """
    gathered = normal_pool(*pool, seed, rows.device).index_select(0, rows)
    if gathered.numel() > shape.numel():
        gathered = gathered.view(shape[0], -1)[:, : shape[1:].numel()]
    return gathered.reshape(shape)


def normal_pool(rows: int, width: int, seed: int, device: torch.device) -> torch.Tensor:
    """Return standard normal float32 numbers that depend only on `seed` and the kind of device."""
    if torch.compiler.is_compiling():
        return _compiled_normal_pool(rows, width, seed, device)
    return torch.randn(rows, width, generator=torch.Generator(device=device).manual_seed(seed), device=device)


@torch.library.custom_op("diffusers_twinflow::normal_pool", mutates_args=())
def _compiled_normal_pool(rows: int, width: int, seed: int, device: torch.device) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator(device=device).manual_seed(seed), device=device)


@_compiled_normal_pool.register_fake
def _(rows: int, width: int, seed: int, device: torch.device) -> torch.Tensor:
    return torch.empty(rows, width, device=device)
