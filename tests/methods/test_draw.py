import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods.twinflow.branches import Branch, BranchRotation
from diffusers_twinflow.methods.twinflow.draw import draw_training_step

CONFIG = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_few_step_share=1.0)
ROTATION = BranchRotation(CONFIG.branch_shares)


def draw(positions, seed=0, config=CONFIG, passes_of=None):
    rotation = BranchRotation(config.branch_shares)
    return draw_training_step(config, rotation, list(positions), (2, 3), seed=seed, passes_of=passes_of)


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


def test_processes_that_take_turns_share_out_one_run():
    """Batches of 6 of two processes, which begin and end inside blocks; everyone runs the same passes."""
    whole = draw(range(60, 120))
    for start in range(60, 120, 6):
        own, places = list(range(start, start + 6)), list(range(start - 60, start - 54))
        part = draw(own, passes_of=range(60, 120))
        assert torch.equal(part.noise, whole.noise[places]) and torch.equal(part.t, whole.t[places])
        assert torch.equal(part.fake_noise, whole.fake_noise[torch.isin(whole.faked, torch.tensor(places))])
        assert torch.equal(part.rectify_noise, whole.rectify_noise[torch.isin(whole.one_step, torch.tensor(places))])
        assert part.passes == whole.passes


def test_passes_are_those_of_the_samples_unless_told():
    """A single sample of each branch makes no more passes than that branch needs."""
    for position, branch in enumerate(ROTATION.at(range(5))):
        passes = draw([position]).passes
        assert passes.one_step == (branch is Branch.ONE_STEP)
        assert passes.fake == (branch is Branch.ADVERSARIAL)
        assert draw([position], passes_of=range(40)).passes == draw(range(40)).passes


def test_times_of_a_run_are_uniform():
    """With the default options, the times that the branch does not fix, and what any-step samples jump."""
    step = draw(range(8000))
    free = torch.tensor([branch is not Branch.ONE_STEP for branch in step.branches])
    assert (
        stats.kstest(
            step.t[free].numpy(), stats.beta(CONFIG.twinflow_time_alpha, CONFIG.twinflow_time_beta).cdf
        ).pvalue
        > 0.01
    )
    jumps = torch.tensor([branch is Branch.ANY_STEP for branch in step.branches])
    assert stats.kstest(((step.t - step.r) / step.t)[jumps].numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(step.rectify_t.numpy(), "uniform").pvalue > 0.01


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
