from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow.data.sampler import RunSampler

BUCKETS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def indices(*args, **options) -> list[int]:
    return [place.sample for place in RunSampler(*args, **options)]


@given(BUCKETS, st.integers(1, 6), st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_a_resumed_run_goes_on_where_it_stopped(buckets, group, cut, rest, seed):
    whole = list(RunSampler(buckets, seed, 0, cut + rest, group_size=group))
    resumed = list(RunSampler(buckets, seed, cut, cut + rest, group_size=group))
    assert whole[cut:] == resumed and len(whole) == cut + rest
    assert [place.position for place in whole] == list(range(cut + rest))


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 3))
def test_an_epoch_holds_every_sample_once_whatever_the_batch(size, group, epoch):
    stretch = indices(size, 0, epoch * size, (epoch + 1) * size, group_size=group)
    assert sorted(stretch) == list(range(size))
    assert stretch == indices(size, 0, epoch * size, (epoch + 1) * size)


@given(BUCKETS, st.integers(1, 6), st.integers(0, 5))
def test_a_bucket_sees_every_sample_once_before_any_again(buckets, group, seed):
    run = indices(buckets, seed, 0, 4 * group * len(buckets), group_size=group)
    for bucket in set(buckets):
        members = [index for index, own in enumerate(buckets) if own == bucket]
        visits = iter([index for index in run if buckets[index] == bucket])
        while len(epoch := list(islice(visits, len(members)))) == len(members):
            assert sorted(epoch) == members
        assert len(set(epoch)) == len(epoch)


@given(BUCKETS, st.integers(1, 6), st.integers(0, 5))
def test_no_bucket_waits_for_more_than_a_group(buckets, group, seed):
    """After as many groups as a number of epochs fills, every sample has been there that often, less what waits."""
    epochs = 5
    filled = sum(epochs * count // group for count in Counter(buckets).values())
    seen = Counter(buckets[index] for index in indices(buckets, seed, 0, filled * group, group_size=group))
    for bucket, count in Counter(buckets).items():
        assert 0 <= epochs * count - seen[bucket] < group


@given(BUCKETS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_a_step_holds_one_bucket_and_any_number_of_processes_the_same_samples(
    buckets, batch, processes, accumulation, steps
):
    group = batch * processes * accumulation
    whole = list(RunSampler(buckets, 0, 0, steps * group, group_size=group))
    for start in range(0, len(whole), group):
        assert len({buckets[place.sample] for place in whole[start : start + group]}) == 1
    parts = [
        RunSampler(
            buckets,
            0,
            0,
            steps * group,
            group_size=group,
            batch_size=batch,
            process_index=process,
            num_processes=processes,
        )
        for process in range(processes)
    ]
    assert sorted(sum(map(list, parts), []), key=lambda place: place.position) == whole
    assert {len(part) for part in parts} == {len(list(part)) for part in parts} == {steps * accumulation * batch}


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 4), st.integers(1, 3))
def test_the_length_of_a_part_is_told_beforehand(start, count, batch, processes):
    for process in range(processes):
        part = RunSampler(5, 0, start, start + count, batch_size=batch, process_index=process, num_processes=processes)
        assert len(part) == len(list(part))


def test_epochs_and_seeds_differ():
    runs = [indices(100, 0, start, start + 100) for start in (0, 100)] + [indices(100, 1, 0, 100)]
    assert runs[0] != runs[1] and runs[0] != runs[2]


def test_small_buckets_are_spread_over_the_epoch():
    buckets = [0] * 900 + [1] * 100
    run = indices(buckets, 0, 0, 1000, group_size=10)
    places = [place for place, index in enumerate(run) if buckets[index] == 1]
    assert np.mean(places) == pytest.approx(500, abs=200)


def test_far_into_a_run_is_found_at_once():
    assert len(indices([0, 1, 1], 0, 4_000_000, 4_000_004, group_size=4)) == 4
