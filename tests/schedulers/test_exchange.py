"""The scheduler's options survive in configs of other classes, and stock flow schedulers' interface is complete."""

import json

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging

from diffusers_twinflow.schedulers import TwinFlowScheduler

OWN = {"shift": 3.0, "sampling_style": "any", "gap_end": 0.4, "noise_seed": 7, "stochastic_ratio": 0.25}
FLOW = [
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    FlowMapEulerDiscreteScheduler,
    LTXEulerAncestralRFScheduler,
]
DIFFUSION = [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]


@pytest.fixture
def warnings(caplog):
    """What diffusers warned of so far."""
    logger = logging.get_logger("diffusers")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    logger.removeHandler(caplog.handler)


def options_of(scheduler, names=OWN):
    return {name: scheduler.config[name] for name in names}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("stock", FLOW)
def test_flow_schedulers_take_the_config_and_give_it_back_quietly(stock, saved, tmp_path, warnings):
    ours = TwinFlowScheduler(**OWN)
    there = stock.from_config(ours.config)
    if saved:
        there.save_pretrained(tmp_path)
        there, again = stock.from_pretrained(tmp_path), TwinFlowScheduler.from_pretrained(tmp_path)
        assert options_of(again) == OWN
    again = TwinFlowScheduler.from_config(there.config)
    assert options_of(again) == OWN and again.config.prediction_type == "flow_matching"
    assert warnings() == []


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("stock", DIFFUSION)
def test_a_flow_model_stays_one_through_a_diffusion_scheduler(stock, saved, tmp_path, warnings):
    for ours in (TwinFlowScheduler(), TwinFlowScheduler(**OWN)):
        there = stock.from_config(ours.config)
        if saved:
            there.save_pretrained(tmp_path)
            there = TwinFlowScheduler.load_config(tmp_path)
        again = TwinFlowScheduler.from_config(there if saved else there.config)
        assert options_of(again) == options_of(ours) and again.config.prediction_type == "flow_matching"
    assert warnings() == []


@pytest.mark.parametrize("stock", DIFFUSION)
def test_a_diffusion_model_stays_one_with_our_options(stock, warnings):
    model = {"beta_schedule": "scaled_linear", "beta_end": 0.012, "prediction_type": "v_prediction"}
    ours = TwinFlowScheduler.from_config(stock(**model).config, **OWN)
    there = stock.from_config(ours.config)
    assert {name: there.config[name] for name in model} == model
    again = TwinFlowScheduler.from_config(there.config)
    assert options_of(again) == OWN and {name: again.config[name] for name in model} == model
    assert warnings() == []


def test_a_multistep_scheduler_of_a_flow_model_keeps_its_own_options(tmp_path, warnings):
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0, "solver_order": 3}
    DPMSolverMultistepScheduler(**flow).save_pretrained(tmp_path)
    stock = DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    ours = TwinFlowScheduler.from_config(stock.config, gap_end=0.3)
    euler = FlowMatchEulerDiscreteScheduler.from_config(ours.config)
    assert euler.config.shift == 3.0 and warnings() == []
    for config in (ours.config, euler.config):
        back = DPMSolverMultistepScheduler.from_config(config)
        assert {name: back.config[name] for name in flow} == flow
    again = UniPCMultistepScheduler.from_config(TwinFlowScheduler(prediction_type="flow_prediction").config)
    assert again.config.prediction_type == "flow_prediction"


def test_what_is_set_on_the_way_counts():
    there = FlowMatchEulerDiscreteScheduler.from_config(TwinFlowScheduler(**OWN).config, shift=9.0)
    assert options_of(TwinFlowScheduler.from_config({**there.config, "gap_end": 0.1})) == OWN | {
        "shift": 9.0,
        "gap_end": 0.1,
    }
    ours = TwinFlowScheduler(**OWN)
    ours.register_to_config(gap_end=0.2)
    assert TwinFlowScheduler.from_config(FlowMatchEulerDiscreteScheduler.from_config(ours.config).config).config[
        "gap_end"
    ] == pytest.approx(0.2)


def test_the_saved_config_holds_every_option_under_its_name(tmp_path):
    ours = TwinFlowScheduler(**OWN)
    for _ in range(2):
        ours.save_pretrained(tmp_path)
        written = json.loads((tmp_path / "scheduler_config.json").read_text())
        assert written["_class_name"] == "TwinFlowScheduler" and "_twinflow_options" not in written
        assert {name: written[name] for name in OWN} == OWN and written["prediction_type"] == "flow_matching"
        ours = TwinFlowScheduler.from_pretrained(tmp_path)
    assert json.loads(repr(ours).split(" ", 1)[1]) == written


def test_a_config_of_which_the_private_entry_is_damaged_is_refused():
    with pytest.raises(ValueError, match="_twinflow_options='x' is not valid"):
        TwinFlowScheduler.from_config({"_twinflow_options": "x"})


def test_compatible_schedulers_are_those_of_the_model():
    assert set(FLOW) == set(TwinFlowScheduler().compatibles)
    diffusion = TwinFlowScheduler(prediction_type="epsilon").compatibles
    assert {*DIFFUSION, UniPCMultistepScheduler} <= set(diffusion) and not set(FLOW) & set(diffusion)


@pytest.mark.parametrize("stock", FLOW)
def test_compatible_flow_schedulers_sample_the_model(stock):
    """With the true velocity of a single data point, every sampler ends there."""
    data = torch.full((1, 4, 8, 8), 0.3)
    scheduler = stock.from_config(TwinFlowScheduler(**OWN).config)
    scheduler.set_timesteps(8)
    x = torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step((x - data) / (t / 1000), t, x, return_dict=False)[0]
    torch.testing.assert_close(x, data, rtol=0, atol=1e-4)


# SimpleTuner's scheduler of the same name


SIMPLETUNER = {
    "_class_name": "TwinFlowScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "flow_matching",
    "shift": 1.0,
    "time_dist_ctrl": None,
    "rfba_gap_start": 0.001,
    "rfba_gap_end": 0.0,
    "stochast_ratio": 1.0,
}


@pytest.mark.parametrize(
    ("changes", "steps", "sigmas"),
    [
        ({}, 1, [0.999, 0]),
        ({}, 2, [0.999, 0.6, 0]),
        ({}, 4, [0.999, 0.832667, 0.666333, 0.5, 0]),
        ({}, 5, [0.999, 0.82425, 0.6495, 0.47475, 0.3, 0]),
        ({"shift": 3.0}, 2, [0.999, 0.6, 0]),  # its shift is never applied
        ({"rfba_gap_end": 0.7, "rfba_gap_start": 0.1}, 2, [0.9, 0.7, 0]),
        ({"time_dist_ctrl": [2.0, 1.0, 1.0], "rfba_gap_start": 0.0, "rfba_gap_end": 0.5}, 3, [1, 0.9375, 0.75, 0]),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_a_config_of_simpletuner_gives_its_grid(changes, steps, sigmas, saved, tmp_path, warnings):
    config = SIMPLETUNER | changes
    if saved:
        (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
        ours = TwinFlowScheduler.from_pretrained(tmp_path)
    else:
        ours = TwinFlowScheduler.from_config(config)
    ours.set_timesteps(steps)
    torch.testing.assert_close(ours.sigmas, torch.tensor(sigmas, dtype=torch.float32), rtol=0, atol=1e-6)
    again = TwinFlowScheduler.from_config(FlowMatchEulerDiscreteScheduler.from_config(ours.config).config)
    again.set_timesteps(steps)
    assert torch.equal(again.sigmas, ours.sigmas) and warnings() == []


def test_the_ratio_of_simpletuner_is_kept():
    assert TwinFlowScheduler.from_config(SIMPLETUNER | {"stochast_ratio": 0.4}).config.stochastic_ratio == 0.4
    sparse = TwinFlowScheduler.from_config({"_class_name": "TwinFlowScheduler", "stochast_ratio": 0.0})
    assert sparse.config.stochastic_ratio == 0.0 and sparse.config.gap_end == [0.6, 0.6, 0.5, 0.5, 0.3]
    asked = TwinFlowScheduler.from_config(SIMPLETUNER, gap_end=0.2, shift=2.0)
    assert (asked.config.gap_end, asked.config.shift) == (0.2, 2.0)


# As stock flow schedulers


@pytest.mark.parametrize(
    "options", [{}, {"shift": 3.0}, {"shift": 3.0, "use_dynamic_shifting": True}, {"num_train_timesteps": 1}]
)
def test_the_schedule_of_training_is_there_before_set_timesteps(options):
    stock, ours = FlowMatchEulerDiscreteScheduler(**options), TwinFlowScheduler(**options)
    for name in ("sigmas", "timesteps"):
        assert torch.equal(getattr(ours, name), getattr(stock, name)) and getattr(ours, name).dtype == torch.float32
    assert (ours.sigma_min, ours.sigma_max) == (stock.sigma_min, stock.sigma_max)
    assert ours.shift == stock.shift and ours.num_inference_steps is None


def test_the_schedule_of_a_diffusion_model_is_its_own():
    stock = DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.012)
    ours = TwinFlowScheduler.from_config(stock.config)
    signal = stock.alphas_cumprod.flip(0).sqrt()
    noise = (1 - stock.alphas_cumprod.flip(0)).sqrt()
    torch.testing.assert_close(ours.sigmas, noise / (signal + noise))
    assert torch.equal(ours.timesteps, stock.timesteps.float())
    assert ours.sigma_max == ours.sigmas.max() and ours.sigma_min == ours.sigmas.min() > 0


@pytest.mark.parametrize("options", [{}, {"use_dynamic_shifting": True}, {"sampling_style": "any", "gap_end": 0.3}])
def test_set_shift_counts_for_the_next_grid(options):
    ours, expected = TwinFlowScheduler(**options), TwinFlowScheduler(shift=4.0, **options)
    stock = FlowMatchEulerDiscreteScheduler()
    for scheduler in (ours, stock):
        scheduler.set_shift(4.0)
    for scheduler in (ours, expected):
        scheduler.set_timesteps(3)
    assert torch.equal(ours.sigmas, expected.sigmas)
    assert ours.shift == stock.shift == 4.0 and ours.config.shift == stock.config.shift == 1.0
    assert (ours.sigma_min, ours.sigma_max) == (stock.sigma_min, stock.sigma_max)
    with pytest.raises(ValueError, match=r"shift=0\.0"):
        ours.set_shift(0.0)


# Options


def test_a_whole_number_that_came_as_a_float_is_one():
    scheduler = TwinFlowScheduler(num_train_timesteps=1000.0, sampling_order=1.0, noise_seed=3.0)
    assert bool(scheduler) and len(scheduler) == 1000
    for name in ("num_train_timesteps", "sampling_order", "noise_seed"):
        assert type(scheduler.config[name]) is int


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train_timesteps": 1000.5}, r"num_train_timesteps=1000\.5 is not valid: it must be a whole number"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps='1000' is not valid"),
        ({"num_train_timesteps": True}, "num_train_timesteps=True is not valid"),
        ({"num_train_timesteps": float("nan")}, "num_train_timesteps=nan is not valid"),
        ({"num_train_timesteps": 10**12}, "from 1 to 1000000"),
        ({"noise_seed": 0.5}, r"noise_seed=0\.5 is not valid"),
        ({"gap_start": "0.1"}, r"gap_start='0\.1' is not valid: it must be a number"),
        ({"gap_end": "0.5"}, r"gap_end='0\.5' is not valid"),
        ({"gap_end": []}, "gap_end=.* is not valid"),
        ({"gap_end": [0.5, 1.0]}, "or a list of such numbers"),
        ({"kumaraswamy": 1.0}, r"kumaraswamy=1\.0 is not valid"),
        ({"kumaraswamy": ["1", 1, 1]}, "kumaraswamy"),
        ({"stochastic_ratio": True}, "stochastic_ratio=True"),
    ],
)
def test_options_of_a_wrong_kind_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        TwinFlowScheduler(**options)


@pytest.mark.parametrize(("steps", "last"), [(1, 0.999), (2, 0.5), (3, 0.25), (9, 0.25)])
def test_the_last_sigma_by_step_count(steps, last):
    scheduler = TwinFlowScheduler(gap_end=[0.75, 0.5, 0.25])
    scheduler.set_timesteps(steps)
    assert scheduler.sigmas[-2].item() == pytest.approx(last)
