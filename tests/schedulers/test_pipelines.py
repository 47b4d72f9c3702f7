"""Stock pipelines with the scheduler swapped and nothing else."""

import inspect

import pytest
import torch
from tiny_pipelines import PIPELINES

from diffusers_twinflow import TwinFlowScheduler

# Mochi itself divides by zero at one step, and half the strength of one step is none for Wan.
STEPS = {"inverted sigmas": (2, 4), "add_noise by value and no begin index": (2, 4)}
FRAMES = "copies of the scheduler, whole timesteps, one a frame"
PLAIN = [contract for contract in PIPELINES if contract != FRAMES]


def swapped(contract, **options):
    pipe, call = PIPELINES[contract]()
    pipe.scheduler = TwinFlowScheduler.from_config(pipe.scheduler.config, **options)
    if "output_type" in inspect.signature(pipe.__call__).parameters:
        call["output_type"] = "latent"
    return pipe, call


def draw(pipe, call, steps=4, seed=0):
    result = pipe(**call, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), return_dict=False)[
        0
    ]
    return result if isinstance(result, torch.Tensor) else torch.stack(list(result))


@pytest.mark.parametrize("contract", PLAIN)
def test_runs_on_its_own_grid(contract):
    pipe, call = swapped(contract)
    for steps in STEPS.get(contract, (1, 2, 4)):
        stepped = []
        step = TwinFlowScheduler.step

        def counted(self, model_output, timestep, *args, _seen=stepped, _step=step, **kwargs):
            _seen.append((float(timestep), self.sigmas.tolist()))
            return _step(self, model_output, timestep, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            counted.__signature__ = inspect.signature(step)
            patch.setattr(TwinFlowScheduler, "step", counted)
            picture = draw(pipe, call, steps)
        assert picture.isfinite().all()
        own = TwinFlowScheduler.from_config(pipe.scheduler.config)
        own.set_timesteps(steps)
        start = int(steps - min(steps * call["strength"], steps)) if "strength" in call else 0
        assert [t for t, _ in stepped] == own.timesteps[start:].tolist()
        assert all(sigmas == own.sigmas.tolist() for _, sigmas in stepped)


@pytest.mark.parametrize("contract", PLAIN)
def test_the_seed_alone_decides_the_picture(contract):
    pipe, call = swapped(contract)
    first = draw(pipe, call)
    torch.randn(7)
    assert torch.equal(first, draw(pipe, call))
    assert not torch.equal(first, draw(pipe, call, seed=1))


@pytest.mark.parametrize(
    "contract",
    ["steps only", "linear sigmas and mu", "video autoencoder for images"],
)
def test_a_picture_does_not_depend_on_its_neighbours(contract):
    pipe, call = swapped(contract)

    def together(seeds):
        return pipe(
            **call,
            num_images_per_prompt=len(seeds),
            num_inference_steps=4,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            return_dict=False,
        )[0]

    alone, trio = together([5])[0], together([3, 4, 5])
    torch.testing.assert_close(trio[2], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(trio[0], trio[1], atol=1e-2)


@pytest.mark.parametrize("contract", ["steps only", "linear sigmas and mu", "video, sigmas read as numbers"])
@pytest.mark.parametrize(
    "options",
    [
        {"sampling_style": "any", "squeeze_target_time": True},
        {"sampling_style": "multi", "sampling_order": 2, "extrapolation_ratio": 0.1},
        {"stochastic_ratio": "sde", "gap_end": 0.3},
    ],
)
def test_options_in_a_pipeline(contract, options):
    pipe, call = swapped(contract, **options)
    assert torch.equal(draw(pipe, call), draw(pipe, call))
    assert pipe.scheduler.step_index == 4


def test_a_user_can_have_custom_sigmas():
    pipe, call = swapped("linear sigmas and mu", use_custom_sigmas=True)
    draw(pipe, {**call, "sigmas": [0.9, 0.3]}, steps=2)
    torch.testing.assert_close(pipe.scheduler.sigmas, torch.tensor([0.9, 0.3, 0.0]))
    draw(pipe, call, steps=2)
    torch.testing.assert_close(pipe.scheduler.sigmas, torch.tensor([0.999, 0.6, 0.0]))


def test_copies_of_the_scheduler_that_step_in_whole_timesteps():
    pipe, call = swapped(FRAMES)
    first = draw(pipe, call, steps=2)
    assert first.isfinite().all()
    assert torch.equal(first, draw(pipe, call, steps=2))
