"""The output of every family's encoders is saved on disk and read back unchanged."""

import pytest
import torch

from diffusers_twinflow.data import DataConfig, TrainingData, open_source
from tests import tiny
from tests.families import kit

REPRESENTATIVES = ("stable_diffusion_3", "flux dev", "flux2", "qwen_image", "z_image", "wan", "stable_diffusion_xl")
"""Cases that run by default: each way to lay out latents, and prompts with masks, of many lengths and pooled."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.id, marks=() if case.id in REPRESENTATIVES else pytest.mark.slow)
        for case in kit.CASES
        if not case.family.takes_reference_image
    ],
)
def test_a_run_on_cached_encodings_reads_what_the_encoders_give(case, tmp_path):
    tiny.image_folder(tmp_path / "images", count=3)
    config = DataConfig(
        instance_data_dir=str(tmp_path / "images"),
        cache_dir=str(tmp_path / "datasets"),
        resolution=case.resolution,
        max_sequence_length=case.max_sequence_length,
        cache_latents=True,
        cache_text_embeddings=True,
        cache_directory=str(tmp_path / "cache"),
    )
    source = open_source(config, tmp_path / "out")
    pipeline, family = case.pipeline, case.family
    data = TrainingData(source, family, pipeline, base_name=case.id, seed=0, batch_size=3)
    (batch,) = data.loader(first_position=0, last_position=3, step_samples=3)
    latents, condition = data.read(batch)
    with torch.no_grad():
        encoded = family.encode_prompts(pipeline, batch["caption"], case.max_sequence_length)
        shape = family.encode_images(pipeline, torch.zeros(3, 3, case.resolution, case.resolution)).shape
    assert condition.keys() == encoded.keys() and latents.shape == shape
    for name in encoded:
        assert condition[name].dtype == encoded[name].dtype
        torch.testing.assert_close(condition[name], encoded[name])
    again = TrainingData(source, family, pipeline, base_name=case.id, seed=0, batch_size=3)
    torch.testing.assert_close(again.read(batch), (latents, condition), rtol=0, atol=0)
