import pytest
import torch

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import LossOutput, TwinFlow
from diffusers_twinflow.training.training_health import ArrivedNumber, TrainingHealth

METHOD = TwinFlow(TwinFlowConfig(twinflow_enabled=True))


@pytest.fixture
def parameter():
    return torch.nn.Parameter(torch.ones(3))


def health_of(parameter, optimizer_class=torch.optim.AdamW, longest_run=20, **options):
    optimizer = optimizer_class([parameter], lr=0.1, **options)
    return TrainingHealth(
        optimizer, torch.device("cpu"), METHOD.branch_names, METHOD.part_names, longest_run
    ), optimizer


def step(health, optimizer, parameter, gradient):
    parameter.grad = torch.full((3,), gradient)
    if health.guard_step(parameter.grad.norm()):
        optimizer.step()


def losses_of(*losses, branches=None, rectify=()):
    per_sample = torch.tensor(losses)
    indices = branches and torch.tensor([METHOD.branch_names.index(branch) for branch in branches])
    return LossOutput(per_sample.mean() + sum(rectify), per_sample, {"rectify": torch.tensor(rectify)}, indices)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_not_finite_leaves_weights_and_moments(parameter, fused):
    health, optimizer = health_of(parameter, fused=fused)
    step(health, optimizer, parameter, 1.0)
    weights, moments = parameter.detach().clone(), {k: v.clone() for k, v in optimizer.state[parameter].items()}
    step(health, optimizer, parameter, float("nan"))
    assert torch.equal(parameter, weights)
    assert all(torch.equal(value, moments[name]) for name, value in optimizer.state[parameter].items())
    step(health, optimizer, parameter, 1.0)
    assert not torch.equal(parameter, weights)
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
