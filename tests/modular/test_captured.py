"""Derived families of modular pipelines: the first evaluation equals the pipeline's, and data and a LoRA train."""

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from tests.modular.building import ALONE, TWINS
from tests.modular.captured_blocks import CANNOT_BE_CAPTURED, CANNOT_BE_DECODED, TRAINED, CapturedBlocks
from tests.schedulers.captured_images import (
    decoder_of,
    latents_are_normalised,
    loaded_lora_changes_samples,
    train_on_a_sample,
)

USUAL = ("Flux3Distilled", "ZImage")


def each(names):
    return [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", each([*TWINS, *ALONE]))
def test_the_first_evaluation_is_the_pipelines_own(name):
    captured = CapturedBlocks(name)
    if name not in CANNOT_BE_CAPTURED:
        captured.first_evaluation_is_the_pipelines()
        return
    with pytest.raises(TwinFlowConfigError, match=CANNOT_BE_CAPTURED[name]):
        captured.first_evaluation_is_the_pipelines()


@pytest.mark.parametrize("name", each(TRAINED))
@torch.no_grad()
def test_latents_are_normalised_as_the_autoencoder_says(name):
    found = CapturedBlocks(name, keeps=["decode"])
    latents_are_normalised(found, decoder_of(found))


@pytest.mark.slow
@pytest.mark.parametrize("name", CANNOT_BE_DECODED)
@torch.no_grad()
def test_a_pipeline_whose_decoding_cannot_be_inverted_is_named(name):
    found = CapturedBlocks(name, keeps=["decode"])
    decoder = decoder_of(found)
    with pytest.raises(TwinFlowConfigError, match=f"cannot be trained on images: .*{CANNOT_BE_DECODED[name]}"):
        found.family.find_codec(decoder, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("name", each(TRAINED))
def test_a_lora_step_on_data_to_a_sample(name, tmp_path):
    found = CapturedBlocks(name, keeps=["decode"])
    train_on_a_sample(found, decoder_of(found), tmp_path)
    loaded_lora_changes_samples(CapturedBlocks(name, keeps=["decode"]), tmp_path)
