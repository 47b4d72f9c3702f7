from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from diffusers_twinflow.families import FAMILIES, is_flow_matching
from diffusers_twinflow.training.checks import check_base
from tests.families import tiny_images
from tests.training_script import all_options

ROOT = Path(__file__).parents[2]
FAMILY = FAMILIES["sana"]


@pytest.fixture(scope="module")
def pipeline():
    pipeline = tiny_images.sana()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_come_after_the_instruction_and_the_empty_one_does_not(pipeline):
    """In a guided stock call the transformer gets the empty prompts first, then the prompts."""
    given = {}
    hook = pipeline.transformer.register_forward_pre_hook(lambda *call: given.update(call[2]), with_kwargs=True)
    pipeline(
        ["a picture", "b"], height=32, width=32, use_resolution_binning=False, num_inference_steps=1,
        max_sequence_length=8, guidance_scale=2.0, output_type="latent",
    )  # fmt: skip
    hook.remove()
    condition = FAMILY.encode_prompts(pipeline, ["a picture", "", "b"], 8)
    order = [2, 0, 3]
    torch.testing.assert_close(condition["prompt_embeds"], given["encoder_hidden_states"][order])
    torch.testing.assert_close(condition["prompt_attention_mask"], given["encoder_attention_mask"][order])
    assert not torch.equal(given["encoder_attention_mask"][0], given["encoder_attention_mask"][2])


def test_latents_are_scaled(pipeline):
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = FAMILY.encode_images(pipeline, pixels)
        torch.testing.assert_close(latents, pipeline.vae.encode(pixels).latent * 0.41)


def test_a_doubled_output_is_halved(pipeline):
    """Transformers that learned a variance too give twice the channels; the stock pipeline takes the first half."""
    condition = FAMILY.encode_prompts(pipeline, ["a"], 8)
    x = torch.ones(1, 4, 8, 8)
    velocity = FAMILY.velocity(lambda hidden_states, **_: (torch.cat([2 * hidden_states, -hidden_states], dim=1),))
    assert torch.equal(velocity(x, torch.ones(1), None, None, condition), 2 * x)


def test_the_recipe_passes_the_scripts_checks(script, pipeline, tmp_path):
    """On a base saved as the published ones are, with a flow-predicting DPMSolverMultistepScheduler."""
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    assert is_flow_matching(type(scheduler).__name__, scheduler.config)
    type(pipeline)(**{**pipeline.components, "scheduler": scheduler}).save_pretrained(tmp_path / "base")
    recipe = ROOT / "hub_configs" / "sana-1.6b" / "training_recipe.json"
    options = script.parse_args(
        [f"--config={recipe}", f"--pretrained_model_name_or_path={tmp_path / 'base'}", "--dataset_name=data"]
    )
    args = all_options(options)
    assert check_base(options.arguments, options.twinflow, use_ema=True) is FAMILY and args.twinflow_enabled
    assert args.max_sequence_length == FAMILY.max_sequence_length
