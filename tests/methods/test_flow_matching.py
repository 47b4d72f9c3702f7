import pytest
import torch
from scipy import stats

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.configuration import WEIGHTINGS, FlowMatchingConfig
from diffusers_twinflow.flow import interpolate
from diffusers_twinflow.methods import FlowMatching, Networks

SHAPE = (4, 2, 2)


def draw(positions, scheme="none", seed=0):
    return FlowMatching(FlowMatchingConfig(scheme)).draw(positions, SHAPE, seed=seed, device="cpu")


@pytest.mark.parametrize("scheme", WEIGHTINGS)
def test_a_sample_draws_the_same_in_any_batch(scheme):
    whole = draw(range(200), scheme)
    assert whole.t.shape == (200,) and whole.t.dtype == torch.float32 and whole.noise.shape == (200, *SHAPE)
    for positions in (range(3), range(50, 150), [199, 0, 64, 63], list(range(1, 200, 2))):
        part = draw(positions, scheme)
        assert torch.equal(part.t, whole.t[list(positions)]) and torch.equal(part.noise, whole.noise[list(positions)])
    assert not torch.equal(draw(range(200), scheme, seed=1).t, whole.t)


@pytest.mark.parametrize(
    ("scheme", "to_standard", "distribution"),
    [
        ("none", lambda t: t, "uniform"),
        ("sigma_sqrt", lambda t: t, "uniform"),
        ("logit_normal", torch.logit, "norm"),
    ],
)
def test_times_have_the_density_of_the_scheme(scheme, to_standard, distribution):
    t = draw(range(5000), scheme).t
    assert t.min() >= 0 and t.max() <= 1 and len(t.unique()) > 4990
    assert stats.kstest(to_standard(t).numpy(), distribution).pvalue > 0.01


def test_times_and_noise_are_independent():
    sample = draw(range(4000))
    correlations = [torch.corrcoef(torch.stack([sample.t, column]))[0, 1] for column in sample.noise.flatten(1).T]
    assert max(map(abs, correlations)) < 0.06


def test_the_loss_by_hand():
    """The network predicts 0, so the loss is the mean square of noise minus data."""
    method, latents = FlowMatching(), torch.randn(3, *SHAPE)
    step = method.draw(range(3), SHAPE, seed=0)

    def zero(x_t, t, r, sign, condition):
        assert r is None and sign is None and condition == {"prompt": 1}
        torch.testing.assert_close(x_t, interpolate(latents, step.noise, step.t))
        return torch.zeros_like(x_t)

    output = method.loss(latents, {"prompt": 1}, step, Networks(zero, zero))
    expected = (step.noise - latents).square().flatten(1).mean(1)
    torch.testing.assert_close(output.per_sample, expected)
    torch.testing.assert_close(output.loss, expected.mean())
    assert output.parts == {} and output.branches is None


def test_an_exact_velocity_has_no_loss():
    method, latents = FlowMatching(FlowMatchingConfig("cosmap")), torch.randn(3, *SHAPE)
    step = method.draw(range(3), SHAPE, seed=0)
    exact = Networks(*[lambda *_: step.noise - latents] * 2)
    assert method.loss(latents, {}, step, exact).loss == 0


@pytest.mark.parametrize("option", ["twinflow_enabled", "twinflow_image_free"])
def test_options_that_need_twinflow_are_refused(option):
    with pytest.raises(TwinFlowConfigError, match=f"{option}=true is not valid"):
        FlowMatching(config=TwinFlowConfig(**{option: True}))
