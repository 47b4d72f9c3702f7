from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import TwinFlow

CONFIG = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_few_step_share=1.0)
ROTATION = TwinFlow(CONFIG).rotation


def draw(positions, seed=0, config=CONFIG, passes_of=None):
    return TwinFlow(config).draw(list(positions), (2, 3), seed=seed, passes_of=passes_of)


def names(step) -> list[str]:
    """Name of the branch of each sample."""
    return [ROTATION.names[index] for index in step.branch_indices.tolist()]


@given(st.integers(0, 10**9), st.integers(0, 1000))
def test_times_of_each_branch(start, seed):
    step = draw(range(start, start + 10), seed)
    for branch, t, r, sign in zip(names(step), step.t.tolist(), step.r.tolist(), step.sign.tolist()):
        assert 0 <= r <= t <= 1
        assert sign == (-1 if branch == "adversarial" else 1)
        if branch == "one_step":
            assert (t, r) == (1, 0)
        if branch == "few_step":
            assert r == 0
        if branch == "multi_step":
            assert t - r <= 0.05 * t + 1e-6
        if branch == "adversarial":
            assert r == t


def test_a_sample_draws_the_same_in_any_batch():
    whole, first, second = draw(range(10)), draw(range(4)), draw(range(4, 10))
    assert torch.equal(whole.noise, torch.cat([first.noise, second.noise]))
    assert torch.equal(whole.t, torch.cat([first.t, second.t]))
    assert torch.equal(whole.fake_noise, torch.cat([first.fake_noise, second.fake_noise]))
    assert torch.equal(whole.rectify_noise, torch.cat([first.rectify_noise, second.rectify_noise]))
    assert torch.equal(whole.rectify_t, torch.cat([first.rectify_t, second.rectify_t]))


def test_processes_that_take_turns_share_out_one_run():
    """Batches of 6 of two processes, which begin and end inside blocks; everyone runs the same passes."""
    whole = draw(range(60, 120))
    for start in range(60, 120, 6):
        own, places = list(range(start, start + 6)), list(range(start - 60, start - 54))
        part = draw(own, passes_of=range(60, 120))
        assert torch.equal(part.noise, whole.noise[places]) and torch.equal(part.t, whole.t[places])
        assert torch.equal(part.fake_noise, whole.fake_noise[torch.isin(whole.faked, torch.tensor(places))])
        assert torch.equal(part.rectify_noise, whole.rectify_noise[torch.isin(whole.rectified, torch.tensor(places))])
        assert part.passes == whole.passes


def test_passes_are_those_of_the_samples_unless_told():
    """A single sample of each branch makes no more passes than that branch needs."""
    for position, branch in enumerate(ROTATION.at(range(5))):
        passes = draw([position]).passes
        assert passes.rectify == (branch == "one_step")
        assert passes.fake == (branch == "adversarial")
        assert draw([position], passes_of=range(40)).passes == draw(range(40)).passes


def test_times_of_a_run_are_uniform():
    """With the default options, the times that the branch does not fix, and what any-step samples jump."""
    step = draw(range(8000))
    free = torch.tensor([branch != "one_step" for branch in names(step)])
    assert (
        stats.kstest(
            step.t[free].numpy(), stats.beta(CONFIG.twinflow_time_alpha, CONFIG.twinflow_time_beta).cdf
        ).pvalue
        > 0.01
    )
    jumps = torch.tensor([branch == "any_step" for branch in names(step)])
    assert stats.kstest(((step.t - step.r) / step.t)[jumps].numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(step.rectify_t.numpy(), "uniform").pvalue > 0.01


def test_positions_seeds_and_noises_are_independent():
    step, other = draw(range(10)), draw(range(10), seed=1)
    assert len({tuple(noise.flatten().tolist()) for noise in step.noise}) == 10
    assert not torch.equal(step.noise, other.noise)
    assert not torch.equal(step.noise[step.rectified], step.rectify_noise)


def test_indices_name_the_samples():
    step = draw(range(20))
    samples_of = dict(zip(ROTATION.names, step.samples_of))
    for name, own in samples_of.items():
        assert own.tolist() == [i for i, branch in enumerate(names(step)) if branch == name]
    twin, real = samples_of["adversarial"], (step.sign > 0).nonzero()[:, 0]
    assert torch.equal(step.faked, twin) and torch.equal(step.rectified, samples_of["one_step"])
    inside = real[(step.t[real] < 1)]
    assert torch.equal(step.enhanced, inside)
    gap = step.t - step.r
    assert torch.equal(step.walked, real[gap[real] >= CONFIG.twinflow_delta_t])
    assert 0 < len(step.walked) < len(real)


def test_what_is_switched_off_is_not_drawn():
    step = draw(range(20), config=replace(CONFIG, twinflow_rectify_weight=0.0, twinflow_enhanced_ratio=0.0))
    assert len(step.rectify_noise) == len(step.rectified) == len(step.enhanced) == 0
    assert (step.passes.rectify, step.passes.enhance, step.passes.fake, step.passes.walk) == (False, False, True, True)
    assert not draw(range(20), config=replace(CONFIG, twinflow_estimate_order=0)).passes.walk
    assert len(draw(range(20), config=replace(CONFIG, twinflow_image_free=True)).faked) == 20


def test_beta_times():
    changes = {"twinflow_time_alpha": 8.0, "twinflow_time_beta": 2.0, "twinflow_one_step_share": 0.0}
    config = replace(CONFIG, **changes)
    t = draw(range(3000), config=config).t
    assert abs(t.mean().item() - 0.8) < 0.01
    assert abs(t.var().item() - 8 * 2 / (10**2 * 11)) < 0.002
