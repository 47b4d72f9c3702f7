"""Images and videos as samples of stock pipelines, compared with the statistics of their autoencoders, and a LoRA step."""

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.families import FAMILIES
from tests.schedulers.captured_images import (
    decoder_of,
    in_half_precision,
    latents_are_normalised,
    loaded_lora_changes_samples,
    train_on_a_sample,
)
from tests.schedulers.captured_pipelines import CANNOT_BE_DECODED, TRAINED, Captured
from tests.schedulers.stock_pipelines.batches import RESIZES
from tests.smaller_pictures import resize_to

REPRESENTATIVES = (
    "reference tokens",
    "time by the scheduler's own scale",
    "the pipeline reads the next sigma as its target time",
    "Flux2KleinPipeline",
    "Kandinsky5T2VPipeline",
    "QwenImage21Pipeline",
    "a copy of the scheduler for the audio, velocity to picture and back",
)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    resize_to(32 * 32, RESIZES, monkeypatch)


def each_pipeline(of, without=()):
    """Parameters for all of these. The representatives run by default, but for those in `without`."""
    short = {*REPRESENTATIVES} - {*without}
    return [pytest.param(each, marks=() if each in short else pytest.mark.slow) for each in of]


def captured(contract):
    found = Captured(contract)
    return found, decoder_of(found)


@pytest.mark.parametrize("contract", each_pipeline(TRAINED))
@torch.no_grad()
def test_latents_are_normalised_as_the_autoencoder_says(contract):
    latents_are_normalised(*captured(contract))


IMAGE_IN_FLOAT32 = ("LongCatImageEditPipeline", "LucyEditPipeline")  # their calls with an image fail in half precision


@pytest.mark.parametrize("contract", each_pipeline([each for each in TRAINED if each not in IMAGE_IN_FLOAT32]))
@torch.no_grad()
def test_latents_of_a_base_in_half_precision_are_not_rounded(contract):
    found = in_half_precision(Captured(contract))
    latents_are_normalised(found, decoder_of(found))


@pytest.mark.slow
@pytest.mark.parametrize("contract", CANNOT_BE_DECODED)
@torch.no_grad()
def test_a_pipeline_whose_decoding_cannot_be_inverted_is_named(contract):
    found, decoder = captured(contract)
    with pytest.raises(TwinFlowConfigError, match=f"(?s)cannot be trained on images: .*{CANNOT_BE_DECODED[contract]}"):
        found.family.find_codec(decoder, torch.zeros(1, 3, 32, 32))


@torch.no_grad()
def test_a_pipeline_that_chooses_the_size_itself_takes_no_other():
    found = Captured("LongCatImageEditPipeline")
    family = found.family.for_samples(found.pipe, resolution=48)
    family.prepare_prompts(found.pipe, ["a"])
    with pytest.raises(TwinFlowConfigError, match="call chooses or rounds the size: set `resolution`"):
        family.prepare_images(found.pipe)
    family = found.family.for_samples(found.pipe, resolution=32)
    family.prepare_prompts(found.pipe, ["a"])
    family.prepare_images(found.pipe)
    assert family.codec.pixels.map.sample_shape == family.sample_shape


@pytest.mark.parametrize("contract", each_pipeline(TRAINED, without=("Kandinsky5T2VPipeline", "QwenImage21Pipeline")))
def test_a_lora_step_on_data_to_a_sample(contract, tmp_path):
    found, decoder = captured(contract)
    if found.family.name not in FAMILIES:
        pytest.skip("it has a written family, which tests/families trains")
    train_on_a_sample(found, decoder, tmp_path)
    loaded_lora_changes_samples(Captured(contract), tmp_path)
