import copy
import math

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeliosScheduler,
    MiniMaxH3Scheduler,
    UniPCMultistepScheduler,
)

from diffusers_twinflow.schedulers import TwinFlowScheduler, TwinFlowSchedulerOutput


def make(steps=4, **options):
    scheduler = TwinFlowScheduler(**options)
    scheduler.set_timesteps(steps)
    return scheduler


def run(scheduler, x, model=lambda x, t: 0.5 * x, generator=None):
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x, generator=generator, return_dict=False)[0]
    return x


def latents(batch=2, shape=(4, 8, 8), seed=0):
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(batch)])


# The grid


@pytest.mark.parametrize(
    "steps, options, sigmas",
    [
        (1, {}, [0.999, 0]),
        (2, {}, [0.999, 0.6, 0]),
        (4, {}, [0.999, 0.832667, 0.666333, 0.5, 0]),
        (2, {"gap_end": 0.7}, [0.999, 0.7, 0]),
        (2, {"sampling_style": "any"}, [0.999, 0.5, 0]),
        (4, {"gap_start": 0.0, "gap_end": 0.0}, [1, 0.75, 0.5, 0.25, 0]),
        (1, {"gap_start": 0.0, "gap_end": 0.0}, [1, 0]),
        (3, {"gap_start": 0.0, "gap_end": 0.5, "shift": 3.0}, [1, 0.9, 0.75, 0]),
        (2, {"shift": 3.0}, [0.9996664, 0.6, 0]),
        (3, {"gap_start": 0.0, "gap_end": 0.5, "shift": 3.0, "use_dynamic_shifting": True}, [1, 0.75, 0.5, 0]),
        (3, {"gap_start": 0.0, "gap_end": 0.5, "kumaraswamy": [2.0, 1.0, 1.0]}, [1, 0.9375, 0.75, 0]),
        (3, {"gap_start": 0.0, "gap_end": 0.5, "kumaraswamy": [1.0, 2.0, 1.0]}, [1, 0.5625, 0.25, 0]),
        (4, {"sampling_order": 2, "gap_start": 0.1, "gap_end": 0.5}, [0.9, 0.7, 0.7, 0.5, 0]),
        (5, {"sampling_order": 2, "gap_start": 0.1, "gap_end": 0.5}, [0.9, 0.7, 0.7, 0.5, 0.5, 0]),
        (2, {"invert_sigmas": True}, [0.001, 0.4, 1]),
    ],
)
def test_grid(steps, options, sigmas):
    scheduler = make(steps, **options)
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(sigmas, dtype=torch.float32), rtol=0, atol=1e-6)
    assert torch.equal(scheduler.timesteps, scheduler.sigmas[:-1] * 1000)
    assert scheduler.num_inference_steps == steps == len(scheduler.timesteps)


def test_the_warp_of_the_multi_style_is_the_known_one():
    tau = 0.001 + 0.999 * 15 / 30
    assert make(30, sampling_style="multi").sigmas[15].item() == pytest.approx(
        1 - (1 - (1 - tau**1.17) ** 0.8) ** 1.1, abs=1e-6
    )


@pytest.mark.parametrize(
    "style, targets",
    [("few", [0, 0, 0]), ("any", [0.7, 0.5, 0]), ("multi", [0.9, 0.7, 0.5])],
)
@pytest.mark.parametrize("scale", [1000, 1])
def test_target_timesteps(style, targets, scale):
    options = {"gap_start": 0.1, "gap_end": 0.5, "kumaraswamy": [1.0, 1.0, 1.0]}
    scheduler = make(3, sampling_style=style, num_train_timesteps=scale, **options)
    expected = torch.tensor(targets, dtype=torch.float32) * scale
    torch.testing.assert_close(scheduler.target_timesteps, expected)
    for dtype, tolerance in [(torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)]:
        found = scheduler.get_target_timesteps(scheduler.timesteps.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("style", ["any", "multi"])
def test_squeezed_target_time(style):
    options = {"gap_start": 0.2, "gap_end": 0.5, "kumaraswamy": [1.0, 1.0, 1.0]}
    scheduler = make(4, sampling_style=style, squeeze_target_time=True, **options)
    plain = make(4, sampling_style=style, **options)
    torch.testing.assert_close(scheduler.sigmas, plain.sigmas)
    expected = {"any": [0.45, 0.4, 0.35, 0.5], "multi": [0.4, 0.35, 0.3, 0.25]}[style]
    torch.testing.assert_close(scheduler.timesteps, 1000 * torch.tensor(expected))
    torch.testing.assert_close(scheduler.target_timesteps, plain.target_timesteps)
    torch.testing.assert_close(scheduler.get_target_timesteps(scheduler.timesteps), plain.target_timesteps)
    x = latents()
    assert torch.equal(run(scheduler, x), run(plain, x))


def test_equal_times_have_the_target_of_the_evaluation_to_come():
    scheduler = make(5, sampling_style="any", sampling_order=2, gap_start=0.1, gap_end=0.5)
    asked, x = [], latents(1)
    for t in scheduler.timesteps:
        asked.append(scheduler.get_target_timesteps(t.reshape(1)).item())
        x = scheduler.step(x, t, x, return_dict=False)[0]
    assert asked == pytest.approx([700, 700, 500, 500, 0])


def test_targets_of_inverted_times():
    scheduler = make(2, invert_sigmas=True)
    assert scheduler.target_timesteps.tolist() == [1000, 1000]
    assert scheduler.get_target_timesteps(torch.tensor([1.0])).item() == 1000


# Whose grid


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("kind", [list, np.float32, torch.tensor])
def test_own_grid_wins_over_what_pipelines_pass(steps, kind):
    linear = np.linspace(1, 1 / steps, steps)
    passed = {list: linear.tolist(), np.float32: linear.astype(np.float32), torch.tensor: torch.tensor(linear)}[kind]
    for use_custom_sigmas in (False, True):
        scheduler = TwinFlowScheduler(use_custom_sigmas=use_custom_sigmas)
        scheduler.set_timesteps(sigmas=passed, mu=1.15)
        assert torch.equal(scheduler.sigmas, make(steps).sigmas)


def test_both_lists_at_once():
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(timesteps=np.array([1000, 500]), sigmas=np.array([1.0, 0.5]), mu=0.7)
    assert torch.equal(scheduler.timesteps, make(2).timesteps)


def test_custom_sigmas_count_where_they_are_wanted():
    for wanted, expected in [(False, make(2).sigmas), (True, torch.tensor([0.9, 0.25, 0.0]))]:
        scheduler = TwinFlowScheduler(use_custom_sigmas=wanted, shift=3.0)
        scheduler.set_timesteps(sigmas=[0.9, 0.25], mu=2.0)
        if wanted:
            torch.testing.assert_close(scheduler.sigmas, expected)
            torch.testing.assert_close(scheduler.timesteps, torch.tensor([900.0, 250.0]))
        else:
            assert scheduler.sigmas[1] == pytest.approx(0.6)


def test_custom_timesteps_count_where_they_are_wanted():
    scheduler = TwinFlowScheduler(use_custom_sigmas=True)
    scheduler.set_timesteps(timesteps=[800, 300])
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([0.8, 0.3, 0.0]))
    assert scheduler.timesteps.tolist() == [800, 300]


# Steps


def test_hand_computed_steps():
    """sigma 0.8 to 0.5 with velocity 1 from x = 2: x_hat = 1.2, z_hat = 2.2, so 0.6 + 0.5 * (0.8 * 2.2 + 0.6 * e)."""
    scheduler = make(2, gap_start=0.2, gap_end=0.5, stochastic_ratio=0.36)
    x = torch.full((1, 1), 2.0)
    noise = torch.randn(1, 1, generator=torch.Generator().manual_seed(7)).item()
    out = scheduler.step(torch.ones(1, 1), scheduler.timesteps[0], x, generator=torch.Generator().manual_seed(7))
    assert isinstance(out, TwinFlowSchedulerOutput)
    assert out.pred_original_sample.item() == pytest.approx(1.2)
    assert out.prev_sample.item() == pytest.approx(0.6 + 0.5 * (0.8 * 2.2 + 0.6 * noise))
    out = scheduler.step(torch.full((1, 1), 3.0), scheduler.timesteps[1], x)
    assert out.prev_sample.item() == out.pred_original_sample.item() == pytest.approx(0.5)


def test_sde_ratio_is_of_each_step():
    """(0.8, 0.6): 2 * 0.8 * 0.2 / 0.36 = 8/9; (0.6, 0.4): 2 * 0.6 * 0.2 / 0.16 = 1.5, clamped to 1."""
    scheduler = make(3, gap_start=0.2, gap_end=0.4, stochastic_ratio="sde")
    for sigma, sigma_next, ratio in [(0.8, 0.6, 8 / 9), (0.6, 0.4, 1.0)]:
        noise = torch.randn(1, 1, generator=torch.Generator().manual_seed(7)).item()
        out = scheduler.step(torch.ones(1, 1), 1000 * sigma, torch.ones(1, 1), torch.Generator().manual_seed(7))
        z_hat = 2 - sigma
        kept = math.sqrt(1 - ratio) * z_hat + math.sqrt(ratio) * noise
        assert out.prev_sample.item() == pytest.approx((1 - sigma_next) * (1 - sigma) + sigma_next * kept, abs=1e-6)


def test_inverted_model_gives_the_same_picture():
    x, field = latents(), lambda x, t: torch.sin(x) + 0.1
    inverted = run(make(invert_sigmas=True), x, lambda x, t: -field(x, t))
    assert torch.equal(inverted, run(make(), x, field))


def test_ratio_zero_and_first_order_are_euler():
    ours, euler = make(6, sampling_style="any"), FlowMatchEulerDiscreteScheduler()
    euler.set_timesteps(sigmas=ours.sigmas[:-1].tolist())
    x = y = latents()
    for t in ours.timesteps:
        x = ours.step(torch.sin(x), t, x, return_dict=False)[0]
    for t in euler.timesteps:
        y = euler.step(torch.sin(y), t, y, return_dict=False)[0]
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 16), (2, 6, 4), (2, 3, 4, 4), (2, 3, 2, 4, 4), (1, 2, 2, 3, 2, 2)])
def test_any_rank(shape):
    assert run(make(), torch.randn(shape)).shape == shape


def test_nan_is_passed_on():
    scheduler = make(2)
    out = scheduler.step(torch.full((1, 4), torch.nan), scheduler.timesteps[0], torch.zeros(1, 4))
    assert out.prev_sample.isnan().all()


@pytest.mark.parametrize("ratio", [0.0, 1.0, "sde"])
def test_per_token_times(ratio):
    """Tokens at the grid's time step as any sample does, tokens at 0 stay, and one between goes to the next below."""
    scheduler = make(2, gap_start=0.2, gap_end=0.5, stochastic_ratio=ratio)
    x, v = torch.randn(2, 1, 3, 4)
    times = torch.tensor([[800.0, 0.0, 650.0]])
    noise = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    out = scheduler.step(
        -v,
        scheduler.timesteps[0],
        x,
        generator=torch.Generator().manual_seed(0),
        per_token_timesteps=times,
        return_dict=False,
    )[0]
    assert torch.equal(out[:, 1], x[:, 1])
    for token, sigma in [(0, 0.8), (2, 0.65)]:
        rho = min(1, 2 * sigma * (sigma - 0.5) / 0.25) if ratio == "sde" else ratio
        x_hat, z_hat = x[:, token] - sigma * v[:, token], x[:, token] + (1 - sigma) * v[:, token]
        expected = 0.5 * x_hat + 0.5 * (math.sqrt(1 - rho) * z_hat + math.sqrt(rho) * noise[:, token])
        torch.testing.assert_close(out[:, token], expected)
    last = scheduler.step(-v, 500.0, out, per_token_timesteps=times.clamp(max=500), return_dict=False)[0]
    torch.testing.assert_close(last, out - times.clamp(max=500)[..., None] / 1000 * v)


# Noise


def test_same_latents_same_picture_whatever_the_global_state():
    x = latents()
    first = run(make(), x)
    torch.randn(3)
    assert torch.equal(first, run(make(), x))
    assert not torch.equal(first, run(make(noise_seed=1), x))
    assert not torch.allclose(first, run(make(), latents(seed=5)))


def test_the_scheduler_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    run(make(), latents())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_does_not_depend_on_its_neighbours(dtype):
    x = latents(5).to(dtype)
    together = run(make(), x)
    for i in range(5):
        assert torch.equal(together[i], run(make(), x[i : i + 1])[0])
    assert torch.equal(together.flip(0), run(make(), x.flip(0)))


def test_noise_is_standard_normal_and_of_its_own_for_sample_and_step():
    """With a zero model and ratio 1 each step returns (1 - s') x + s' noise, so the noise can be read off."""
    scheduler, x = make(3, gap_start=0.0, gap_end=0.5), latents(4, (16, 64, 64))
    drawn = []
    for t, sigma_next in zip(scheduler.timesteps[:2], (0.75, 0.5)):
        out = scheduler.step(torch.zeros_like(x), t, x, return_dict=False)[0]
        drawn.append((out - (1 - sigma_next) * x) / sigma_next)
    fields = torch.cat([*drawn, x]).flatten(1).double()
    assert fields.mean(1).abs().max() < 0.02
    assert (fields.std(1) - 1).abs().max() < 0.02
    assert ((fields**4).mean(1) - 3).abs().max() < 0.15
    correlation = torch.corrcoef(fields) - torch.eye(12)
    assert correlation.abs().max() < 0.02
    shifted = torch.corrcoef(torch.stack([fields[0, 1:], fields[0, :-1], fields[1, 1:]]))
    assert (shifted - torch.eye(3)).abs().max() < 0.02


def test_noise_of_tiny_samples_is_not_a_reordering_of_few_numbers():
    x = torch.randn(64, 2)
    scheduler = make(2, gap_start=0.0, gap_end=0.5)
    noise = 2 * scheduler.step(torch.zeros_like(x), scheduler.timesteps[0], x).prev_sample - x
    assert noise.unique().numel() > 120


def test_generator_list_gives_each_sample_its_own_noise():
    x = latents(3)
    together = run(make(), x, generator=[torch.Generator().manual_seed(i) for i in range(3)])
    for i in range(3):
        alone = run(make(), x[i : i + 1], generator=[torch.Generator().manual_seed(i)])
        assert torch.equal(together[i], alone[0])


def test_noise_of_image_to_image_comes_from_the_noise_not_from_the_image():
    """The encoder's picture may differ in its last bits with the batch; the drawn noise does not."""
    image, noise = torch.rand(2, 4, 8, 8), latents()
    results = []
    for change in (0.0, 1e-6):
        scheduler = make(4)
        scheduler.set_begin_index(1)
        x = scheduler.scale_noise(image + change, scheduler.timesteps[1:2].repeat(2), noise)
        for t in scheduler.timesteps[1:]:
            x = scheduler.step(torch.zeros_like(x), t, x, return_dict=False)[0]
        results.append(x)
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


# Image-to-image


@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize("invert", [True, False])
def test_scale_noise_before_and_after_the_first_step(begin, invert):
    scheduler = make(4, gap_start=0.0, gap_end=0.25, invert_sigmas=invert)
    image, noise = torch.rand(2, 4, 8, 8), latents()
    if begin:
        scheduler.set_begin_index(2)
    mixed = scheduler.scale_noise(image, scheduler.timesteps[2:3].repeat(2), noise)
    torch.testing.assert_close(mixed, 0.5 * image + 0.5 * noise)
    assert scheduler.step_index is None and scheduler.begin_index == (2 if begin else None)
    assert torch.equal(mixed, scheduler.add_noise(image, noise, scheduler.timesteps[2:3].repeat(2)))
    scheduler.step(noise, scheduler.timesteps[2], mixed)
    assert scheduler.step_index == 3
    kept = scheduler.scale_noise(image, torch.tensor([scheduler.timesteps[3]]), noise)
    torch.testing.assert_close(kept, 0.75 * image + 0.25 * noise if not invert else 0.25 * noise + 0.75 * image)


@pytest.mark.parametrize(
    "timestep", [lambda t: t, lambda t: t.item(), lambda t: t.clone(), lambda t: t.bfloat16(), lambda t: t.long()]
)
def test_the_first_step_finds_its_place_by_value(timestep):
    scheduler = make(4)
    scheduler.step(latents(), timestep(scheduler.timesteps[2:][0]), latents())
    assert scheduler.step_index == 3


def test_image_to_image_may_start_on_a_correction():
    scheduler = make(5, sampling_order=2, gap_start=0.1)
    scheduler.set_begin_index(1)
    x = latents()
    for t in scheduler.timesteps[1:]:
        x = scheduler.step(0.5 * x, t, x, return_dict=False)[0]
    assert scheduler.step_index == 5 and x.isfinite().all()


# Conventions


def test_passes_through_the_stock_scheduler_and_back():
    stock = {
        "shift": 3.0,
        "num_train_timesteps": 1,
        "use_dynamic_shifting": True,
        "base_shift": 0.3,
        "max_shift": 1.3,
        "shift_terminal": 0.1,
        "invert_sigmas": True,
        "time_shift_type": "linear",
        "use_karras_sigmas": True,
        "stochastic_sampling": True,
    }
    own = {"sampling_style": "any", "stochastic_ratio": 0.25, "gap_end": 0.3, "kumaraswamy": [1.1, 0.9, 1.0]}
    ours = TwinFlowScheduler.from_config(FlowMatchEulerDiscreteScheduler(**stock).config, **own)
    assert {name: ours.config[name] for name in stock} == stock
    back = FlowMatchEulerDiscreteScheduler.from_config(ours.config)
    assert {name: back.config[name] for name in stock} == stock
    again = TwinFlowScheduler.from_config(back.config)
    assert {name: again.config[name] for name in (*stock, *own)} == {**stock, **own}


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize(
    "stock, shift",
    [
        (UniPCMultistepScheduler(**FLOW, flow_shift=5.0), 5.0),
        (UniPCMultistepScheduler(**FLOW), 1.0),
        (DPMSolverMultistepScheduler(**FLOW, flow_shift=3.0), 3.0),
        (FlowMatchHeunDiscreteScheduler(shift=2.0), 2.0),
        (FlowMatchLCMScheduler(shift=4.0), 4.0),
        (MiniMaxH3Scheduler(), 12.0),
        (HeliosScheduler(shift=6.0), 6.0),
    ],
    ids=lambda value: getattr(type(value), "__name__", value),
)
def test_shift_of_other_flow_schedulers(stock, shift, tmp_path):
    stock.save_pretrained(tmp_path)
    own = {"gap_end": 0.3}
    made = TwinFlowScheduler.from_config(stock.config, **own)
    for ours in (made, TwinFlowScheduler.from_pretrained(tmp_path, **own)):
        assert ours.config.shift == shift
        back = type(stock).from_config(ours.config)
        names = [name for name in stock.config if not name.startswith("_")]
        assert {name: back.config[name] for name in names} == {name: stock.config[name] for name in names}
        again = TwinFlowScheduler.from_config(back.config)
        assert (again.config.shift, again.config.gap_end) == (shift, 0.3)
    assert TwinFlowScheduler.from_config(stock.config, shift=1.5).config.shift == 1.5
    euler = FlowMatchEulerDiscreteScheduler.from_config(made.config)
    assert euler.config.shift == shift
    assert (
        TwinFlowScheduler.from_config(
            FlowMatchEulerDiscreteScheduler.from_config(euler.config, shift=9.0).config
        ).config.shift
        == 9.0
    )


def test_flow_sigmas_need_a_model_that_predicts_a_velocity():
    stock = UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=5.0)
    with pytest.raises(ValueError, match="prediction_type='epsilon' with use_flow_sigmas"):
        TwinFlowScheduler.from_config(stock.config)
    assert TwinFlowScheduler.from_config(stock.config, prediction_type="flow_prediction").config.shift == 5.0


def test_flow_shift_counts_only_with_flow_sigmas():
    stock = UniPCMultistepScheduler(prediction_type="flow_prediction", flow_shift=5.0)
    assert TwinFlowScheduler.from_config(stock.config).config.shift == 1.0


def test_config_of_a_scheduler_of_another_kind_brings_no_second_order():
    shipped = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2)
    assert TwinFlowScheduler.from_config(shipped.config).config.sampling_order == 1


def test_every_option_survives_saving(tmp_path):
    options = {
        "shift": 2.0,
        "sampling_style": "multi",
        "stochastic_ratio": "sde",
        "gap_start": 0.01,
        "gap_end": 0.2,
        "kumaraswamy": [1.1, 0.9, 1.0],
        "extrapolation_ratio": 0.1,
        "sampling_order": 2,
        "squeeze_target_time": True,
        "use_custom_sigmas": True,
        "noise_seed": 3,
        "invert_sigmas": True,
    }
    TwinFlowScheduler(**options).save_pretrained(tmp_path)
    loaded = TwinFlowScheduler.from_pretrained(tmp_path)
    assert {name: loaded.config[name] for name in options} == options


def test_a_copy_goes_its_own_way():
    scheduler, x = make(4), latents()
    scheduler.step(0.5 * x, scheduler.timesteps[0], x)
    twin = copy.deepcopy(scheduler)
    a = scheduler.step(0.5 * x, scheduler.timesteps[1], x).prev_sample
    assert twin.step_index == 1
    assert torch.equal(a, twin.step(0.5 * x, twin.timesteps[1], x).prev_sample)


def test_another_style_brings_its_own_grid_and_keeps_the_model():
    few = TwinFlowScheduler(shift=3.0, stochastic_ratio=1.0, gap_end=0.7, kumaraswamy=[1.0, 1.0, 1.0], noise_seed=5)
    multi = few.with_style("multi")
    assert (multi.config.sampling_style, multi.config.shift, multi.config.noise_seed) == ("multi", 3.0, 5)
    assert (multi.config.stochastic_ratio, multi.config.gap_end, multi.config.kumaraswamy) == (None, None, None)
    usual = TwinFlowScheduler(shift=3.0, sampling_style="multi")
    for scheduler in (multi, usual):
        scheduler.set_timesteps(4)
    assert torch.equal(multi.sigmas, usual.sigmas)
    assert few.with_style("few").config.gap_end == 0.7, "the same style changes nothing"
    assert few.config.sampling_style == "few"
    with pytest.raises(ValueError, match="sampling_style='all'"):
        few.with_style("all")


def test_a_second_loop_needs_only_set_timesteps():
    scheduler, x = make(4, extrapolation_ratio=0.3), latents()
    first = run(scheduler, x)
    scheduler.set_timesteps(4)
    assert torch.equal(first, run(scheduler, x))


SECOND_ORDER = {"sampling_order": 2, "extrapolation_ratio": 0.2, "stochastic_ratio": "sde"}


@pytest.mark.parametrize(
    ("options", "begin"),
    [
        ({}, False),
        (SECOND_ORDER, True),
        pytest.param({}, True, marks=pytest.mark.slow),
        pytest.param(SECOND_ORDER, False, marks=pytest.mark.slow),
    ],
)
def test_the_loop_compiles_whole(options, begin):
    scheduler, x = make(4, **options), latents()

    def loop(x):
        if begin:
            scheduler.set_begin_index(0)
        for t in scheduler.timesteps:
            x = scheduler.step(torch.sin(x), t, x, return_dict=False)[0]
        return x

    eager = loop(x)
    scheduler.set_timesteps(4)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(loop, fullgraph=True, backend="aot_eager")(x), eager)


def test_gradients_go_through_a_step():
    scheduler, x = make(2), latents().requires_grad_()
    scheduler.step(torch.sin(x), scheduler.timesteps[0], x).prev_sample.sum().backward()
    torch.testing.assert_close(x.grad, 0.4 * (1 - 0.999 * torch.cos(x.detach())))


# Bad input


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prediction_type": "trigflow"}, "prediction_type='trigflow'"),
        ({"prediction_type": "epsilon", "invert_sigmas": True}, "invert_sigmas=True"),
        ({"sampling_style": "mul"}, "sampling_style='mul'"),
        ({"stochastic_ratio": 1.5}, "stochastic_ratio=1.5"),
        ({"stochastic_ratio": -0.1}, "stochastic_ratio"),
        ({"stochastic_ratio": "ode"}, "stochastic_ratio='ode'"),
        ({"extrapolation_ratio": 2.0}, "extrapolation_ratio=2.0"),
        ({"gap_start": 0.6, "gap_end": 0.5}, "gap_end=0.5"),
        ({"gap_start": -0.1}, "gap_start"),
        ({"gap_end": 1.0}, "gap_end"),
        ({"kumaraswamy": [1.0, 1.0]}, "kumaraswamy"),
        ({"kumaraswamy": [1.0, 0.0, 1.0]}, "kumaraswamy"),
        ({"sampling_order": 3}, "sampling_order=3"),
        ({"sampling_order": 2, "gap_start": 0.0}, "gap_start=0"),
        ({"shift": 0.0}, "shift=0.0"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"noise_seed": -1}, "noise_seed=-1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TwinFlowScheduler(**options)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "no number of steps"),
        ({"num_inference_steps": 0}, "1 or more"),
        ({"num_inference_steps": -3}, "1 or more"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5 is not valid"),
        ({"sigmas": []}, "1 or more"),
        ({"num_inference_steps": 3, "sigmas": [1.0, 0.5]}, "agree"),
        ({"timesteps": [900], "sigmas": [1.0, 0.5]}, "agree"),
        ({"sigmas": [0.5, 0.9]}, "fall"),
        ({"sigmas": [0.9, 0.0]}, "fall"),
        ({"sigmas": [900.0, 500.0]}, "at most 1"),
        ({"sigmas": [float("nan"), 0.3]}, "fall"),
    ],
)
def test_bad_grids_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TwinFlowScheduler(use_custom_sigmas=True).set_timesteps(**arguments)


def test_custom_sigmas_and_second_order_are_refused():
    with pytest.raises(ValueError, match="sampling_order=1"):
        TwinFlowScheduler(use_custom_sigmas=True, sampling_order=2).set_timesteps(sigmas=[0.9, 0.3])


def test_a_gap_start_that_crosses_the_known_gap_end_is_named():
    with pytest.raises(ValueError, match="gap_start=0.5"):
        make(2, gap_start=0.5)


def test_nothing_before_set_timesteps():
    scheduler, x = TwinFlowScheduler(sampling_style="any"), latents()
    for call in (
        lambda: scheduler.step(x, 999.0, x),
        lambda: scheduler.scale_noise(x, 999.0, x),
        lambda: scheduler.get_target_timesteps(torch.tensor([999.0])),
    ):
        with pytest.raises(ValueError, match="set_timesteps"):
            call()


def test_more_steps_than_the_grid():
    scheduler, x = make(2), latents()
    run(scheduler, x)
    with pytest.raises(ValueError, match="2 steps"):
        scheduler.step(x, scheduler.timesteps[1], x)


@pytest.mark.parametrize("begin_index", [-1, 3])
def test_a_begin_index_that_is_not_on_the_grid(begin_index):
    with pytest.raises(ValueError, match=f"begin_index={begin_index}"):
        make(2).set_begin_index(begin_index)


def test_a_begin_index_after_the_last_step_leaves_the_picture_as_it_is():
    scheduler, x = make(2), latents()
    scheduler.set_begin_index(2)
    assert torch.equal(scheduler.scale_noise(x, scheduler.timesteps[2:], latents(seed=7)), x)


@pytest.mark.parametrize("timestep", [500.0, 5000.0, float("nan"), torch.tensor(700.0)])
def test_a_timestep_that_is_not_on_the_grid(timestep):
    with pytest.raises(ValueError, match="not on the grid"):
        make(2).step(latents(), timestep, latents())


def test_generator_list_of_the_wrong_length():
    with pytest.raises(ValueError, match="3 generators for a batch of 2"):
        make(2).step(latents(), 999.0, latents(), generator=[torch.Generator()] * 3)


@pytest.mark.parametrize(
    "options",
    [{"sampling_order": 2}, {"extrapolation_ratio": 0.5}, {"squeeze_target_time": True}, {"invert_sigmas": True}],
)
def test_what_does_not_go_with_per_token_times(options):
    scheduler, x = make(2, **options), torch.randn(1, 3, 4)
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        scheduler.step(x, scheduler.timesteps[0], x, per_token_timesteps=torch.full((1, 3), 400.0))


# CUDA


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling_style": "any"},
        {"sampling_order": 2, "extrapolation_ratio": 0.2, "stochastic_ratio": "sde"},
        {"squeeze_target_time": True, "sampling_style": "any"},
    ],
)
def test_no_step_waits_for_the_gpu(options, begin):
    scheduler, x = TwinFlowScheduler(**options), latents().cuda()
    scheduler.set_timesteps(5, device="cuda")
    if begin:
        scheduler.set_begin_index(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for t in scheduler.timesteps:
            scheduler.get_target_timesteps(t.expand(2).bfloat16())
            x = scheduler.step(torch.sin(x), t, x).prev_sample
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_sample_does_not_depend_on_its_neighbours_on_cuda():
    x = latents(4, (16, 64, 64)).cuda()
    scheduler = TwinFlowScheduler()
    scheduler.set_timesteps(4, device="cuda")
    together = run(scheduler, x)
    scheduler.set_timesteps(4, device="cuda")
    assert torch.equal(together[2], run(scheduler, x[2:3])[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_loop_compiles_whole_on_cuda():
    scheduler, x = TwinFlowScheduler(), latents().cuda()
    scheduler.set_timesteps(4, device="cuda")
    eager = run(scheduler, x)
    scheduler.set_timesteps(4, device="cuda")
    torch.testing.assert_close(torch.compile(run, fullgraph=True)(scheduler, x), eager, rtol=1e-4, atol=1e-5)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="config is missing"):
        TwinFlowScheduler.from_config(None)
    with pytest.raises(ValueError, match="timestep is missing"):
        make(prediction_type="epsilon").scale_model_input(latents())
