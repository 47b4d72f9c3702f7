import pytest
import torch

from diffusers_twinflow.training.branches import Branch
from diffusers_twinflow.training.health import TrainingHealth


@pytest.fixture
def parameter():
    return torch.nn.Parameter(torch.ones(3))


def health_of(parameter, **options):
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    return TrainingHealth(optimizer, torch.device("cpu"), **options), optimizer


def step(health, optimizer, parameter, gradient):
    parameter.grad = torch.full((3,), gradient)
    health.guard_step(parameter.grad.norm())
    optimizer.step()


def test_a_step_that_is_not_finite_leaves_weights_and_moments(parameter):
    health, optimizer = health_of(parameter)
    step(health, optimizer, parameter, 1.0)
    weights, moments = parameter.detach().clone(), {k: v.clone() for k, v in optimizer.state[parameter].items()}
    step(health, optimizer, parameter, float("nan"))
    assert torch.equal(parameter, weights)
    assert all(torch.equal(value, moments[name]) for name, value in optimizer.state[parameter].items())
    step(health, optimizer, parameter, 1.0)
    assert not torch.equal(parameter, weights)
    assert health.report()["skipped_steps"] == 1


def test_a_run_of_them_stops_and_names_the_branch(parameter):
    health, optimizer = health_of(parameter, longest_run=2)
    for _ in range(3):
        losses = torch.tensor([1.0, float("inf"), 2.0])
        health.record_losses(losses, [Branch.ONE_STEP, Branch.ADVERSARIAL, Branch.ANY_STEP])
        step(health, optimizer, parameter, float("inf"))
    with pytest.raises(FloatingPointError, match="3 steps in a row.*adversarial"):
        health.report()


def test_a_finite_step_ends_the_run(parameter):
    health, optimizer = health_of(parameter, longest_run=1)
    for gradient in (float("nan"), 1.0, float("nan"), 1.0, float("nan")):
        step(health, optimizer, parameter, gradient)
    assert health.report()["skipped_steps"] == 3


def test_losses_by_branch(parameter):
    health, _ = health_of(parameter)
    health.record_losses(torch.tensor([1.0, 2.0, 6.0]), [Branch.ONE_STEP, Branch.ANY_STEP, Branch.ANY_STEP])
    assert health.report() == {"loss/one_step": 1.0, "loss/any_step": 4.0, "skipped_steps": 0}
    assert health.report() == {"skipped_steps": 0}
