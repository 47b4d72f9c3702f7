"""`info` describes a repository without reading its weights."""

import pytest
from diffusers.models.modeling_utils import ModelMixin

from diffusers_twinflow import TwinFlowPipeline, TwinFlowRepositoryConfig, enable_twinflow
from diffusers_twinflow.cli.description import describe
from diffusers_twinflow.hub import save_twinflow_model
from tests import tiny

PARAMETERS = 2 * 16 + 257 * 16 + 17 * 16


@pytest.mark.parametrize("layout", ["conditioning beside the weights", "conditioning among the weights"])
def test_time_conditioning_of_a_whole_model(tmp_path, layout):
    """Older versions wrote the second layout, which is still read."""
    pipeline = tiny.sd3_pipeline()
    enable_twinflow(pipeline.transformer)
    config = TwinFlowRepositoryConfig("full", "stable_diffusion_3", "me/base", num_inference_steps=2)
    save_twinflow_model(tmp_path, pipeline, config)
    if layout == "conditioning among the weights":
        for path in (tmp_path / "transformer").iterdir():
            path.unlink()
        ModelMixin.save_pretrained(pipeline.transformer, tmp_path / "transformer")
    assert describe(tmp_path)["time_conditioning_parameters"] == PARAMETERS
    assert TwinFlowPipeline.from_pretrained(tmp_path).transformer.twinflow_enabled
