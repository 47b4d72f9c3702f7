import shutil

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from diffusers_twinflow import TwinFlowPipeline
from diffusers_twinflow.hub import save_model_card, save_samples
from diffusers_twinflow.hub.push import check_pushable


@pytest.fixture
def directory(shared_repository, tmp_path):
    return shutil.copytree(shared_repository, tmp_path / "run")


def test_metadata(directory):
    save_model_card(directory, "me/tiny", base_model="me/base")
    data = ModelCard.load(directory / "README.md").data
    assert data.base_model == "me/base" and data.library_name == "diffusers" and data.pipeline_tag == "text-to-image"
    assert data.tags == ["twinflow", "lora", "diffusers", "stable-diffusion-3", "text-to-image"]
    assert "README.md" in check_pushable(directory, base_model="me/base")[1]


def test_a_local_base_is_not_named(directory, base_dir):
    card = save_model_card(directory, "me/tiny")
    assert card.data.base_model is None and str(base_dir) not in str(card)
    assert "base_model=" in card.text


def test_license_of_the_base(directory, tmp_path):
    from diffusers_twinflow.hub import TwinFlowRepositoryConfig

    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: tiny-license\nlicense_link: LICENSE.md\n---\n")
    config = TwinFlowRepositoryConfig.load(directory)
    config.base_model = str(base)
    config.save(directory)
    data = save_model_card(directory, "me/tiny").data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "tiny-license")


def test_what_it_says(directory):
    card = save_model_card(directory, "me/tiny", base_model="me/base", scores={"Fréchet distance": 3.91234})
    for text in ('from_pretrained("me/tiny"', 'load_twinflow_lora(pipe, "me/tiny")', "| steps trained | 7 |", "3.912"):
        assert text in card.text
    assert "Missing are then the time conditioning" in card.text
    (directory / "twinflow_time_conditioning.safetensors").unlink()
    assert "Missing are then the few-step scheduler" in save_model_card(directory, "me/tiny").text


def test_the_code_it_shows_runs(directory, base_dir):
    text = save_model_card(directory, "me/tiny").text
    code = text.split("```python\n")[1].split("```")[0]
    assert code.count('"me/tiny"') == 1
    code = code.replace('"me/tiny"', repr(str(directory))).replace('"path/to/the/base"', repr(str(base_dir)))
    scope = {}
    exec(code.replace('"cuda"', '"cpu"').replace("bfloat16", "float32"), scope)
    assert scope["image"].size == (16, 16)


def test_samples_are_shown_with_their_prompts(directory):
    pipeline = TwinFlowPipeline.from_pretrained(directory)
    pipeline.set_progress_bar_config(disable=True)
    path = save_samples(directory, pipeline, ["a fox", "a [link](x) `tick`"])
    assert Image.open(path).size == (48, 32)
    text = save_model_card(directory, "me/tiny").text
    assert "![samples/steps.png](samples/steps.png)" in text and "1. a fox" in text and "\\[link" in text


@pytest.mark.parametrize(("name", "is_named"), [("owner/images", True), ("/home/me/images", False)])
def test_a_local_data_set_is_not_named(directory, name, is_named):
    from diffusers_twinflow.hub import TwinFlowRepositoryConfig

    config = TwinFlowRepositoryConfig.load(directory)
    config.trained["arguments"]["dataset_name"] = name
    config.save(directory)
    assert (name in save_model_card(directory, "me/tiny").text) is is_named
