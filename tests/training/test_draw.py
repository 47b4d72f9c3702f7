import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.training.branches import Branch, BranchRotation
from diffusers_twinflow.training.draw import draw_training_step

CONFIG = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_few_step_share=1.0)
ROTATION = BranchRotation(CONFIG.branch_shares)


def draw(positions, seed=0, config=CONFIG):
    return draw_training_step(config, BranchRotation(config.branch_shares), list(positions), (2, 3), seed=seed)


@given(st.integers(0, 10**9), st.integers(0, 1000))
def test_times_of_each_branch(start, seed):
    step = draw(range(start, start + 10), seed)
    for branch, t, r, sign in zip(step.branches, step.t.tolist(), step.r.tolist(), step.sign.tolist()):
        assert 0 <= r <= t <= 1
        assert sign == (-1 if branch is Branch.ADVERSARIAL else 1)
        if branch is Branch.ONE_STEP:
            assert (t, r) == (1, 0)
        if branch is Branch.FEW_STEP:
            assert r == 0
        if branch is Branch.MULTI_STEP:
            assert t - r <= 0.05 * t + 1e-6
        if branch is Branch.ADVERSARIAL:
            assert r == t


def test_a_sample_draws_the_same_in_any_batch():
    whole, first, second = draw(range(10)), draw(range(4)), draw(range(4, 10))
    assert torch.equal(whole.noise, torch.cat([first.noise, second.noise]))
    assert torch.equal(whole.t, torch.cat([first.t, second.t]))
    assert torch.equal(whole.fake_noise, torch.cat([first.fake_noise, second.fake_noise]))
    assert torch.equal(whole.rectify_noise, torch.cat([first.rectify_noise, second.rectify_noise]))
    assert torch.equal(whole.rectify_t, torch.cat([first.rectify_t, second.rectify_t]))


def test_positions_seeds_and_noises_are_independent():
    step, other = draw(range(10)), draw(range(10), seed=1)
    assert len({tuple(noise.flatten().tolist()) for noise in step.noise}) == 10
    assert not torch.equal(step.noise, other.noise)
    assert not torch.equal(step.noise[step.one_step], step.rectify_noise)


def test_indices_name_the_samples():
    step = draw(range(20))
    is_real = [branch is not Branch.ADVERSARIAL for branch in step.branches]
    assert step.real.tolist() == [i for i, real in enumerate(is_real) if real]
    assert sorted(step.real.tolist() + step.adversarial.tolist()) == list(range(20))
    assert set(step.one_step.tolist()).isdisjoint(step.enhanced.tolist())
    assert (step.t - step.r)[step.rollout].min() >= CONFIG.twinflow_delta_t
    short = sorted(set(step.real.tolist()) - set(step.rollout.tolist()))
    assert (step.t - step.r)[short].max() < CONFIG.twinflow_delta_t


def test_beta_times():
    config = TwinFlowConfig(twinflow_time_alpha=8.0, twinflow_time_beta=2.0, twinflow_one_step_share=0.0)
    t = draw(range(3000), config=config).t
    assert abs(t.mean().item() - 0.8) < 0.01
    assert abs(t.var().item() - 8 * 2 / (10**2 * 11)) < 0.002
