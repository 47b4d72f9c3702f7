import pytest
import torch

from diffusers_twinflow.families import FAMILIES
from tests.families import tiny_images

FAMILY = FAMILIES["aura_flow"]


@pytest.fixture(scope="module")
def pipeline():
    return tiny_images.aura_flow()


def test_embeddings_behind_the_end_of_a_prompt_are_zero(pipeline):
    """The transformer takes no mask, so that this is all that tells it where a prompt ends."""
    embeds = FAMILY.encode_prompts(pipeline, ["a b", ""], 8)["prompt_embeds"]
    assert [int(row.abs().sum(dim=-1).count_nonzero()) for row in embeds] == [5, 1]


def test_time_is_between_0_and_1(pipeline):
    condition = FAMILY.encode_prompts(pipeline, ["a"], 8)
    given = {}
    velocity = FAMILY.velocity(lambda hidden_states, **arguments: given.update(arguments) or (hidden_states,))
    velocity(torch.ones(1, 4, 4, 4), torch.tensor([0.75]), torch.tensor([0.5]), torch.tensor([-1.0]), condition)
    assert (given["timestep"], given["target_timestep"], given["timestep_sign"]) == (0.75, 0.5, -1)
