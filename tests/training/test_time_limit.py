from types import SimpleNamespace

import pytest
import torch

from diffusers_twinflow.training import distributed
from diffusers_twinflow.training.distributed import TimeLimit
from tests.host_reads import no_host_reads


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(distributed, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


ONE = SimpleNamespace(device=torch.device("cpu"), num_processes=1)


def processes(others_over: float):
    """An accelerator beside whose process others say how many of them are over."""
    return SimpleNamespace(
        device=torch.device("cpu"), num_processes=2, reduce=lambda tensor, reduction: tensor + others_over
    )


@pytest.mark.parametrize("accelerator", [ONE, processes(0)], ids=["one process", "two"])
def test_it_is_over_after_its_minutes(clock, accelerator):
    limit = TimeLimit(0.5, accelerator)
    clock.seconds += 29
    assert not limit.is_over()
    clock.seconds += 2
    assert limit.is_over()


def test_one_process_waits_for_no_device(clock):
    with no_host_reads():
        assert not TimeLimit(1, ONE).is_over()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), no_host_reads():
        TimeLimit(1, processes(0)).is_over()


def test_it_is_over_for_all_where_it_is_for_one(clock):
    assert TimeLimit(10, processes(1)).is_over()


def test_without_minutes_it_is_never_over(clock):
    limit = TimeLimit(None, processes(1))
    clock.seconds += 1e9
    assert not limit.is_over()
