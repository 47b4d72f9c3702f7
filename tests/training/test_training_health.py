from contextlib import nullcontext

import pytest
import torch
from bitsandbytes.optim import AdamW8bit
from prodigyopt import Prodigy

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import LossOutput, TwinFlow
from diffusers_twinflow.training.training_health import ArrivedNumber, TrainingHealth
from tests.host_reads import no_host_reads

METHOD = TwinFlow(TwinFlowConfig(twinflow_enabled=True))


@pytest.fixture
def parameter():
    return torch.nn.Parameter(torch.ones(3))


def health_of(parameter, optimizer_class=torch.optim.AdamW, longest_run=20, decides=True, **options):
    optimizer = optimizer_class([parameter], lr=0.1, **options)
    names = METHOD.branch_names, METHOD.part_names
    return TrainingHealth(optimizer, torch.device("cpu"), *names, longest_run, decides), optimizer


def step(health, optimizer, parameter, gradient):
    parameter.grad = torch.full((3,), gradient)
    if health.guard_step(parameter.grad.norm()):
        optimizer.step()


def losses_of(*losses, branches=None, rectify=()):
    per_sample = torch.tensor(losses)
    indices = branches and torch.tensor([METHOD.branch_names.index(branch) for branch in branches])
    return LossOutput(per_sample.mean() + sum(rectify), per_sample, {"rectify": torch.tensor(rectify)}, indices)


FUSED = [
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.SGD, {"fused": True, "momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.Adagrad, {"fused": True}),
]
OTHERS = [
    (torch.optim.AdamW, {"fused": False}),
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.RMSprop, {}),
    (Prodigy, {}),
    (AdamW8bit, {}),
]


@pytest.mark.parametrize(("optimizer_class", "options"), [*FUSED, *OTHERS])
def test_a_step_that_is_not_finite_changes_nothing(optimizer_class, options):
    """Not even the number of steps that the optimizer has counted."""
    with_bad, without = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    for parameter, gradients in ((with_bad, (1.0, float("nan"), 0.5, float("inf"), 2.0)), (without, (1.0, 0.5, 2.0))):
        health, optimizer = health_of(parameter, optimizer_class, **options)
        for gradient in gradients:
            step(health, optimizer, parameter, gradient)
        assert health.report()["skipped_steps"] == len(gradients) - 3
    assert torch.equal(with_bad, without) and not torch.equal(without, torch.ones(3))


@pytest.mark.parametrize("gradient", [1.0, float("nan")])
@pytest.mark.parametrize(("optimizer_class", "options"), FUSED)
def test_fused_optimizers_need_no_number_on_the_host(parameter, optimizer_class, options, gradient):
    health, optimizer = health_of(parameter, optimizer_class, **options)
    with no_host_reads():
        step(health, optimizer, parameter, gradient)


@pytest.mark.parametrize("decides", [True, False])
def test_the_number_is_read_for_others_only_if_it_decides(parameter, decides):
    health, _ = health_of(parameter, fused=False, decides=decides)
    with pytest.raises(AssertionError, match="_local_scalar_dense") if decides else nullcontext(), no_host_reads():
        assert health.guard_step(torch.tensor(float("nan")))
    assert health.report()["skipped_steps"] == 1


def test_a_run_of_them_stops_at_once_and_names_the_branch(parameter):
    health, optimizer = health_of(parameter, longest_run=2, fused=True)
    branches = ["one_step", "adversarial", "any_step"]
    for _ in range(2):
        health.record(losses_of(1.0, float("inf"), 2.0, branches=branches))
        step(health, optimizer, parameter, float("inf"))
    with pytest.raises(FloatingPointError, match=r"3 steps in a row.*finite in: adversarial\)"):
        step(health, optimizer, parameter, float("inf"))
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        health.report()


def test_a_finite_step_ends_the_run(parameter):
    health, optimizer = health_of(parameter, longest_run=1, fused=True)
    for gradient in (float("nan"), 1.0, float("nan"), 1.0, float("nan")):
        step(health, optimizer, parameter, gradient)
    assert health.report()["skipped_steps"] == 3


def test_losses_by_branch(parameter):
    health, _ = health_of(parameter)
    branches = ["one_step", "any_step", "any_step"]
    health.record(losses_of(1.0, 2.0, 6.0, branches=branches, rectify=[4.0]))
    means = {"loss/one_step": 1.0, "loss/any_step": 4.0, "loss/rectify": 4.0, "skipped_steps": 0}
    assert health.report() == {"loss": 7.0, **means}
    assert health.report() == {"skipped_steps": 0}


def test_flow_matching_has_a_total_alone(parameter):
    health, _ = health_of(parameter)
    health.record(losses_of(1.0, 2.0))
    health.record(losses_of(2.0, 3.0))
    assert health.report() == {"loss": 2.0, "skipped_steps": 0}


def test_means_are_over_the_finite_losses_of_all_processes(parameter):
    health, _ = health_of(parameter)
    health.record(losses_of(1.0, float("nan"), branches=["one_step", "one_step"]))
    other = torch.zeros_like(health.sums)
    other[0, 0], other[1, 0] = 9.0, 3
    assert health.report(lambda sums: sums + other) == {"loss/one_step": 2.5, "skipped_steps": 0}


class Arrival:
    """Stands in for the event behind a copy."""

    def __init__(self):
        self.is_there, self.records = False, 0

    def record(self):
        self.records += 1

    def query(self):
        return self.is_there


def test_a_number_is_read_only_once_it_has_arrived():
    number = ArrivedNumber(torch.device("cpu"))
    number.event = Arrival()
    assert [number.update(torch.tensor(value)) for value in (1.0, 2.0)] == [0.0, 0.0]
    assert number.event.records == 1 and number.copy == 1.0
    number.event.is_there = True
    assert number.update(torch.tensor(3.0)) == 3.0
    assert number.event.records == 2
