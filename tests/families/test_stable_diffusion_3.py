from diffusers_twinflow.families import FAMILIES


def test_components_that_were_not_saved_stay_none(base_dir):
    pipeline = FAMILIES["stable_diffusion_3"].load(base_dir)
    assert pipeline.text_encoder_3 is None and pipeline.transformer is not None
