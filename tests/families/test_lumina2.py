import pytest
import torch

from diffusers_twinflow.families import FAMILIES
from tests.families import tiny_images

FAMILY = FAMILIES["lumina2"]


@pytest.fixture(scope="module")
def pipeline():
    pipeline = tiny_images.lumina2()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_come_after_the_system_prompt_and_the_empty_one_does_not(pipeline):
    """A guided stock call calls the transformer with the prompts, then with empty prompts."""
    calls = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda *call: calls.append(call[2]), with_kwargs=True)
    pipeline(
        ["a picture", "b"], height=32, width=32, num_inference_steps=1, max_sequence_length=200, guidance_scale=2.0,
        output_type="latent",
    )  # fmt: skip
    hook.remove()
    prompts, empty = calls
    condition = FAMILY.encode_prompts(pipeline, ["", "a picture", "b"], 200)
    for name, argument in (
        ("prompt_embeds", "encoder_hidden_states"),
        ("prompt_attention_mask", "encoder_attention_mask"),
    ):
        torch.testing.assert_close(condition[name], torch.cat([empty[argument][:1], prompts[argument]]))
    assert condition["prompt_attention_mask"].sum(dim=1).tolist()[0] == 1


def test_time_is_reversed_and_so_is_the_prediction(pipeline):
    condition = FAMILY.encode_prompts(pipeline, ["a"], 200)
    x, given = torch.ones(1, 4, 4, 4), {}

    def model(hidden_states, **arguments):
        given.update(arguments)
        return (3 * hidden_states,)

    t, r = torch.tensor([0.75]), torch.tensor([0.5])
    assert torch.equal(FAMILY.velocity(model)(x, t, r, None, condition), -3 * x)
    assert given["timestep"].item() == 0.25 and given["target_timestep"].item() == 0.5
