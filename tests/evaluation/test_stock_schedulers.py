import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.evaluation.arguments import SCHEDULERS
from diffusers_twinflow.evaluation.stock_schedulers import SeededNoise, stock_scheduler


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    "base",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ],
    ids=["euler", "unipc"],
)
def test_flow_schedulers_keep_the_shift_of_the_base(name, base):
    scheduler = stock_scheduler(name, base)
    assert scheduler.config["flow_shift" if name == "unipc" else "shift"] == 3.0
    assert scheduler.config.get("prediction_type", "flow_prediction") == "flow_prediction"
    scheduler.set_timesteps(2, device="cpu")
    assert len(scheduler.sigmas) == 3 and 0.99 < scheduler.sigmas[0] <= 1 and scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("name", SCHEDULERS)
def test_diffusion_bases_get_diffusion_schedulers(name):
    scheduler = stock_scheduler(name, DDIMScheduler(prediction_type="v_prediction", beta_end=0.012))
    assert "FlowMatch" not in type(scheduler).__name__
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.beta_end == 0.012


def test_a_scheduler_that_cannot_run_inverted_sigmas_is_refused():
    inverted = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    with pytest.raises(TwinFlowConfigError, match="unipc does not fit the base.*inverted sigmas"):
        stock_scheduler("unipc", inverted)
    assert stock_scheduler("euler", inverted).config.invert_sigmas


@pytest.mark.parametrize("base", [FlowMatchEulerDiscreteScheduler(), DDIMScheduler()], ids=["flow", "diffusion"])
def test_fresh_noise_does_not_depend_on_the_rest_of_the_batch(base):
    def step(chosen):
        scheduler = stock_scheduler("lcm", base)
        assert isinstance(scheduler, SeededNoise)
        scheduler.set_timesteps(4, device="cpu")
        scheduler.generators = [torch.Generator().manual_seed(i) for i in chosen]
        zeros = torch.zeros(len(chosen), 4, 2, 2)
        return scheduler.step(zeros, scheduler.timesteps[0], zeros, return_dict=False)[0]

    both, second = step([0, 1]), step([1])
    assert torch.equal(both[1:], second) and not torch.equal(both[:1], second)
