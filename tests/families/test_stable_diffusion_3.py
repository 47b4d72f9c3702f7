from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline


def test_components_that_were_not_saved_stay_none(base_dir):
    pipeline = load_stock_pipeline(FAMILIES["stable_diffusion_3"], base_dir)
    assert pipeline.text_encoder_3 is None and pipeline.transformer is not None
