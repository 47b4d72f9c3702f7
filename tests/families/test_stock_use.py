"""A saved LoRA generates in a stock pipeline, without our package, the images of `TwinFlowPipeline`."""

import ast

import diffusers
import pytest
import torch
from peft import LoraConfig

from diffusers_twinflow import TwinFlowPipeline, TwinFlowScheduler
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_twinflow_lora
from diffusers_twinflow.hub.files import CONDITIONING_NAME, LORA_NAME
from diffusers_twinflow.hub.portable import Portable
from diffusers_twinflow.hub.stock_use import StockUse, stock_use
from tests.families.kit import CASES, PROMPTS, as_pictures
from tests.families.trained_loras import write

LOADS_NO_LORA = {"pixart_sigma"}
FIRST = {"stable_diffusion_3", "stable_diffusion_xl"}
CLOSE = 1e-4
NEEDS_OUR_SCHEDULER = {"wan", "ltx_video", "stable_diffusion", "stable_diffusion_xl", "pixart_sigma"}


def by_weight():
    return [pytest.param(case, id=case.id, marks=() if case.id in FIRST else pytest.mark.slow) for case in CASES]


def stock_pipeline(case, directory):
    """What a user without this package loads."""
    pipeline = case.build()
    pipeline.load_lora_weights(directory)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(case, pipeline, steps, **options):
    options = case.call_options() | {"num_inference_steps": steps, "output_type": "latent"} | options
    if case.family.takes_reference_image:
        options["image"] = as_pictures(case.references(1)["reference_images"])[0]
    output = pipeline(prompt=PROMPTS[0], generator=torch.Generator().manual_seed(0), return_dict=False, **options)
    return output[0]


@pytest.mark.parametrize("case", by_weight())
def test_stock_pipeline_draws_what_ours_draws(case, tmp_path):
    directory = tmp_path / "lora"
    if not hasattr(case.family.pipeline_class, "load_lora_weights"):
        pytest.skip("the stock pipeline loads no LoRA")
    scheduler = write(case, directory)
    ours = TwinFlowPipeline.from_pretrained(directory)
    ours.set_progress_bar_config(disable=True)
    portable = Portable.from_dict(ours.twinflow_config.portable)
    assert portable.reason is None and {"1", "2", "4"} <= portable.sigmas.keys()
    if case.family_name in LOADS_NO_LORA:
        assert not hasattr(case.build(), "load_lora_weights")
        return
    stock = stock_pipeline(case, directory)
    use = stock_use(case.family, scheduler, portable)
    assert isinstance(use, str) == (case.family_name in NEEDS_OUR_SCHEDULER)

    plain = case.build()
    plain.set_progress_bar_config(disable=True)
    for steps in (1, 2, 4):
        expected = draw(case, ours, steps)
        stock.scheduler = plain.scheduler = TwinFlowScheduler.from_config(scheduler.config)
        torch.testing.assert_close(draw(case, stock, steps), expected, rtol=0, atol=CLOSE)
        assert (draw(case, plain, steps) - expected).abs().max() > 100 * CLOSE
    if isinstance(use, StockUse):
        stock.scheduler = ast_scheduler(use)
        drawn = draw(case, stock, 1, sigmas=use.sigmas[1])
        torch.testing.assert_close(drawn, draw(case, ours, 1), rtol=0, atol=CLOSE)
        assert draw(case, stock, 4, sigmas=use.sigmas[4]).isfinite().all()


def ast_scheduler(use):
    """The scheduler that the model card's code makes."""
    call = ast.parse(use.scheduler_code(), mode="eval").body
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return getattr(diffusers, call.func.id)(**options)


def test_style_any_is_exact_with_a_deterministic_stock_scheduler(tmp_path):
    """No noise is drawn in this style, so the stock scheduler's whole run must end where ours ends."""
    case = next(case for case in CASES if case.id == "stable_diffusion_3")
    directory = tmp_path / "lora"
    scheduler = write(case, directory, sampling_style="any")
    ours = TwinFlowPipeline.from_pretrained(directory)
    portable = Portable.from_dict(ours.twinflow_config.portable)
    assert list(portable.sigmas) == ["2"], "each grid has targets of its own, and the trained step count wins"
    stock = stock_pipeline(case, directory)
    use = stock_use(case.family, scheduler, portable)
    assert use.scheduler_options == {}
    stock.scheduler = ast_scheduler(use)
    drawn = draw(case, stock, 2, sigmas=use.sigmas[2])
    torch.testing.assert_close(drawn, draw(case, ours, 2), rtol=0, atol=CLOSE)


def test_without_a_time_conditioning_the_lora_is_plain(tmp_path):
    case = next(case for case in CASES if case.id == "stable_diffusion_3")
    pipeline = case.build()
    model = pipeline.transformer
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    tmp_path.joinpath("lora").mkdir()
    saved = TwinFlowRepositoryConfig("lora", case.family_name, "base", num_inference_steps=2)
    save_twinflow_lora(tmp_path / "lora", model, saved, TwinFlowScheduler())
    assert not (tmp_path / "lora" / CONDITIONING_NAME).exists()
    portable = Portable.from_dict(TwinFlowRepositoryConfig.load(tmp_path / "lora").portable)
    assert portable.layers == {} and portable.reason is None and portable.sigmas["2"] == [0.999, 0.6]
    assert (tmp_path / "lora" / LORA_NAME).is_file()
