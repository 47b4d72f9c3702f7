from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow.training.sampler import RunSampler


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 200), st.integers(0, 5))
def test_a_resumed_run_goes_on_where_it_stopped(size, cut, rest, seed):
    whole = list(RunSampler(size, seed, 0, cut + rest))
    assert whole == list(RunSampler(size, seed, 0, cut)) + list(RunSampler(size, seed, cut, cut + rest))
    assert len(whole) == cut + rest


def test_every_epoch_holds_every_sample_in_another_order():
    epochs = [list(RunSampler(100, 0, start, start + 100)) for start in (0, 100)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100))
    assert epochs[0] != epochs[1]
