import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_twinflow.methods.randomness import BLOCK, NOISE_BLOCK_ELEMENTS, Purpose, draw_noise, draw_numbers

SHAPE = (2, 3)


def noise(positions, shape=SHAPE, seed=0, purpose=Purpose.NOISE):
    return draw_noise(positions, shape, seed=seed, purpose=purpose, device="cpu")


def numbers(positions, seed=0):
    return draw_numbers(positions, seed, lambda block_seed: np.random.default_rng(block_seed).random((BLOCK, 2)))


@given(st.lists(st.integers(0, 10 * BLOCK), min_size=1, max_size=40), st.integers(0, 2**40))
def test_a_position_gets_the_same_in_any_batch(positions, seed):
    """Whatever the order, the gaps and the neighbours are."""
    alone = [noise([position], seed=seed) for position in positions]
    assert torch.equal(noise(positions, seed=seed), torch.cat(alone))
    assert np.array_equal(
        numbers(positions, seed), np.concatenate([numbers([position], seed) for position in positions])
    )


@pytest.mark.parametrize(("processes", "batch"), [(1, 7), (2, 64), (3, 5), (4, 16)])
def test_processes_and_batches_share_out_one_run(processes, batch):
    whole, whole_numbers = noise(range(240)), numbers(range(240))
    for start in range(0, 240, batch):  # every batch of every process
        part = list(range(start, min(start + batch, 240)))
        assert torch.equal(noise(part), whole[part])
        assert np.array_equal(numbers(part), whole_numbers[part])
    for process in range(processes):  # all positions of one process at once
        own = [position for position in range(240) if position // batch % processes == process]
        assert torch.equal(noise(own), whole[own])


def test_noise_is_normal_and_independent():
    drawn = noise(range(2000), shape=(50,)).double()
    assert stats.kstest(drawn.flatten()[:20000].numpy(), "norm").pvalue > 0.01
    between_neighbours = torch.corrcoef(drawn[:400].T)
    assert (between_neighbours - torch.eye(50)).abs().max() < 0.25
    for distance in (1, BLOCK - 1, BLOCK, BLOCK + 1):
        assert abs((drawn[distance:] * drawn[:-distance]).mean()) < 0.015


def test_seeds_and_purposes_and_shapes_have_their_own_noise():
    """The values of a sample are nowhere among those of another seed, purpose or shape, at any position."""
    drawn = [noise(range(3 * BLOCK), **changes) for changes in ({}, {"seed": 1}, {"shape": (3, 2)}, {"shape": (4, 3)})]
    drawn += [noise(range(3 * BLOCK), purpose=purpose) for purpose in (Purpose.FAKE_NOISE, Purpose.RECTIFY_NOISE)]
    values = torch.cat([part.flatten() for part in drawn])
    assert len(values.unique()) > 0.999 * len(values)


class CountDraws(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "normal" in str(function):
            self.sizes.append(args[0].numel())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("positions", "shape", "sizes"),
    [
        ([], SHAPE, []),
        ([0, BLOCK - 1, 5 * BLOCK], SHAPE, 2 * [BLOCK * 6]),
        (range(256), (8, 16, 16), 4 * [BLOCK * 2048]),
        ([0, 3], (16, 128, 128), [NOISE_BLOCK_ELEMENTS]),
        ([6, 7], (NOISE_BLOCK_ELEMENTS + 1,), 2 * [NOISE_BLOCK_ELEMENTS + 1]),
    ],
)
def test_only_blocks_that_are_needed_are_drawn_and_large_samples_alone(positions, shape, sizes):
    with CountDraws() as counted:
        drawn = noise(positions, shape)
    assert counted.sizes == sizes
    assert drawn.shape == (len(positions), *shape)
    assert drawn.untyped_storage().nbytes() == 4 * drawn.numel()  # no block is kept alive


def test_global_generators_are_not_touched():
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    noise(range(10)), numbers(range(10))
    assert torch.equal(before, torch.get_rng_state()) and np.array_equal(before_numpy, np.random.get_state()[1])
