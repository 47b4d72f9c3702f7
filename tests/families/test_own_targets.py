"""Models that take a target time themselves: the trained LoRA works in their stock pipelines without our package."""

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from diffusers_twinflow import TwinFlowConfig, TwinFlowPipeline
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.files import LORA_NAME
from diffusers_twinflow.hub.portable import Portable
from diffusers_twinflow.hub.stock_use import StockUse, stock_use
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.families import tiny_captured
from tests.fresh_accelerator import fresh_accelerator

CASES = [
    pytest.param(tiny_captured.hunyuan_image_meanflow, {}, id="HunyuanImage"),
    pytest.param(tiny_captured.any_flow, {"num_frames": 5}, marks=pytest.mark.slow, id="AnyFlow"),
]


@pytest.mark.parametrize(("build", "frames"), CASES)
def test_a_trained_lora_draws_in_the_stock_pipeline(build, frames, tmp_path):
    build().save_pretrained(tmp_path / "base")
    (tmp_path / "prompts.txt").write_text("a\nbb")
    arguments = TrainingArguments(
        str(tmp_path / "base"),
        output_dir=str(tmp_path / "out"),
        prompts_file=str(tmp_path / "prompts.txt"),
        cache_text_embeddings=True,
        resolution=32,
        train_batch_size=2,
        max_train_steps=1,
        learning_rate=1e-2,
        rank=2,
        save_ema=False,
        **frames,
    )
    with fresh_accelerator():
        trainer = Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True, twinflow_image_free=True)))
        trainer.train()
    assert trainer.transformer.time_conditioning.target_timestep_embedder is None

    ours = TwinFlowPipeline.from_pretrained(tmp_path / "out", merge=False)
    portable = Portable.from_dict(ours.twinflow_config.portable)
    family = FAMILIES[ours.twinflow_config.family]
    use = stock_use(family, ours.scheduler, portable)
    assert isinstance(use, StockUse) and not portable.layers
    stock, plain = (DiffusionPipeline.from_pretrained(tmp_path / "base") for _ in range(2))
    stock.transformer.load_lora_adapter(tmp_path / "out", weight_name=LORA_NAME, prefix="transformer")
    assert type(stock.transformer) is getattr(diffusers, type(plain.transformer).__name__)
    for steps in (1, 2, 4):
        call = {"height": 32, "width": 32, "num_inference_steps": steps, **frames}
        expected = draw(ours, **call)
        for pipeline in (stock, plain):
            pipeline.scheduler = FlowMatchEulerDiscreteScheduler(**use.scheduler_options)
            for guider in ("guider", "ocr_guider"):
                if hasattr(pipeline, guider):
                    getattr(pipeline, guider).disable()
        call |= {"sigmas": use.sigmas[steps], **use.call_options}
        torch.testing.assert_close(draw(stock, **call), expected, rtol=0, atol=1e-4)
        assert (draw(plain, **call) - expected).abs().max() > 1e-2


@torch.no_grad()
def draw(pipeline, **call):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a", generator=torch.Generator().manual_seed(0), output_type="latent", **call)[0]
