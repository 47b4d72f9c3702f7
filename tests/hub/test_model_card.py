import json
import re
import shutil

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from diffusers_twinflow import TwinFlowPipeline
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, save_model_card, save_samples
from diffusers_twinflow.hub.model_card import is_generated_card, rewrite_model_card
from diffusers_twinflow.hub.pushable import check_pushable
from diffusers_twinflow.hub.sample_images import write_samples


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


def test_a_base_that_is_not_on_the_hub_is_no_message(directory, caplog):
    with caplog.at_level("INFO"):
        save_model_card(directory, "me/tiny", base_model="me/base")
    assert not [record for record in caplog.records if record.name.startswith("diffusers_twinflow")]


def test_license_of_the_base(directory, tmp_path):
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
    assert 'pipe.load_lora_weights("me/tiny")' in card.text
    assert "sigmas=[0.999, 0.6], num_inference_steps=2, guidance_scale=0.0" in card.text
    assert "| 1 | `[0.999]` |" in card.text


def test_it_says_why_stock_diffusers_cannot_use_it(directory):
    config = TwinFlowRepositoryConfig.load(directory)
    config.portable = {"reason": "its timestep embedding ends in a RMSNorm"}
    config.save(directory)
    text = save_model_card(directory, "me/tiny").text
    assert "stock weights cannot contain the target time: its timestep embedding ends in a RMSNorm." in text
    assert "load_lora_weights" not in text


def test_the_stock_code_it_shows_draws_what_ours_draws(directory, base_dir):
    text = save_model_card(directory, "me/tiny").text
    code = text.split("## Without diffusers-twinflow")[1].split("```python\n")[1].split("```")[0]
    assert "twinflow" not in code
    code = code.replace('"me/tiny"', repr(str(directory))).replace('"path/to/the/base"', repr(str(base_dir)))
    assert "torch.bfloat16, text_encoder_3=None, tokenizer_3=None)" in code, "the base was saved without them"
    code = code.replace('.to("cuda")', "").replace("torch.bfloat16", "torch.float32")
    code = code.replace("sigmas=[0.999, 0.6], num_inference_steps=2", "sigmas=[0.999], num_inference_steps=1")
    small = 'height=16, width=16, output_type="np", generator=torch.Generator().manual_seed(0), '
    scope = {}
    exec(code.replace("pipe(", f"pipe({small}"), scope)
    ours = TwinFlowPipeline.from_pretrained(directory, base_model=str(base_dir))
    options = {"height": 16, "width": 16, "output_type": "np", "num_inference_steps": 1}
    expected = ours("your prompt", generator=torch.Generator().manual_seed(0), **options).images[0]
    assert abs(scope["image"] - expected).max() < 1e-4


def test_the_stock_code_of_a_whole_model_leaves_out_what_it_was_saved_without(shared_model, tmp_path):
    folder = shutil.copytree(shared_model, tmp_path / "model")
    text = save_model_card(folder, "me/tiny").text
    code = text.split("## Without diffusers-twinflow")[1].split("```python\n")[1].split("```")[0]
    assert 'from_pretrained("me/tiny", dtype=torch.bfloat16, text_encoder_3=None, tokenizer_3=None)' in code


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
    width, height = Image.open(path).size
    assert width > 48 and height > 32, "three columns of 16 pixels and two rows, with labels"
    text = save_model_card(directory, "me/tiny").text
    assert "![samples/steps.png](samples/steps.png)" in text and "1. a fox" in text and "\\[link" in text


def test_the_widget_has_an_image_of_each_prompt_at_the_trained_step_count(directory):
    blank = {
        label: [Image.new("RGB", (8, 8), colour)] * 2 for label, colour in (("2 steps", "red"), ("4 steps", "blue"))
    }
    write_samples(directory, blank | {"1 step": blank["4 steps"]}, ["one", "two"])
    write_samples(directory, {label: [images[0]] for label, images in blank.items()}, ["a fox: 'red'\n\ud800 # <b>"])
    card = save_model_card(directory, "me/tiny")
    metadata = yaml.safe_load(card.content.split("---")[1])
    assert metadata["widget"] == [{"text": "a fox: 'red' # <b>", "output": {"url": "samples/prompt-1.png"}}]
    with Image.open(directory / "samples" / "prompt-1.png") as image:
        assert TwinFlowRepositoryConfig.load(directory).num_inference_steps == 2
        assert image.getpixel((0, 0)) == (255, 0, 0)
    assert "prompt-1" not in card.text and "steps.png" in card.text
    assert "samples/prompt-1.png" in check_pushable(directory, base_model="me/base")[1]


@pytest.mark.parametrize(("name", "is_named"), [("owner/images", True), ("/home/me/images", False)])
def test_a_local_data_set_is_not_named(directory, name, is_named):
    config = TwinFlowRepositoryConfig.load(directory)
    config.trained["arguments"]["dataset_name"] = name
    config.save(directory)
    assert (name in save_model_card(directory, "me/tiny").text) is is_named


HOSTILE = "<script>alert(1)</script> | x | **y** `z` [a](javascript:b) ![c](d)\n## e \x1b[31m \ud800 -->"


def test_values_of_others_are_text_on_the_card(directory):
    """Rendered with HTML on, the card holds no element that our own text does not have."""
    path = directory / "twinflow_config.json"
    values = json.loads(path.read_text())
    values["trained"] |= {"steps": HOSTILE}
    values["trained"]["arguments"] = {"learning_rate": HOSTILE, "rank": [HOSTILE], "mixed_precision": {"a": HOSTILE}}
    values["options"]["twinflow_delta_t"] = HOSTILE
    path.write_text(json.dumps(values))
    save_model_card(directory, "me/tiny", prompts=[HOSTILE], scores={HOSTILE: 1.0})
    text = (directory / "README.md").read_text(encoding="utf-8")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    html = re.sub("<!--.*?-->", "", html, flags=re.S)
    assert "<script" not in html and "javascript:" not in re.sub(r">[^<]*<", "><", html)
    assert not re.search("<(strong|em|img)", html) and "\x1b" not in text and html.count("<h2>") == 5
    rows = [row.count("<td") for row in html.split("<tr>")]
    assert set(rows[1:]) <= {0, 2}
    assert html.count("&lt;script&gt;") == 5 + 1


def test_a_card_that_nobody_edited_is_known_and_keeps_its_scores(directory):
    card = directory / "README.md"
    save_model_card(directory, "run", prompts=["a -- <fox>"], scores={"distance": 3.25})
    assert is_generated_card(card) and "a -- <fox>" not in card.read_text()
    rewrite_model_card(directory, "me/tiny", base_model="me/base")
    text = card.read_text()
    assert is_generated_card(card) and '"me/tiny"' in text and '"run"' not in text and "me/base" in text
    assert "| distance | 3.25 |" in text
    card.write_text(text.replace("\n", "\r\n"), newline="")
    assert is_generated_card(card)
    card.write_text(text.replace("## Training", "## My training"))
    assert not is_generated_card(card)
    card.write_text("# mine\n")
    assert not is_generated_card(card) and not is_generated_card(directory / "none")


@pytest.mark.parametrize(
    "content",
    [b"---\nlicense: [unclosed\n---\n", b"---\nlicense\n---\n", b"\xff\xfe", b"---\n- a\n---\n", b" " * 2_000_000],
)
def test_a_base_with_a_card_that_cannot_be_read_has_no_license(directory, tmp_path, content):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_bytes(content)
    config = TwinFlowRepositoryConfig.load(directory)
    config.base_model = str(base)
    config.save(directory)
    assert "license" not in save_model_card(directory, "me/tiny").data.to_dict()


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n\x1a\n", b""])
def test_a_sample_that_is_no_png_has_no_labels(directory, content):
    (directory / "samples").mkdir()
    (directory / "samples" / "steps.png").write_bytes(content)
    assert "Columns" not in save_model_card(directory, "me/tiny").text
