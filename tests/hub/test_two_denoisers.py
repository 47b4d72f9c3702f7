"""A LoRA of two denoisers and a whole model with two denoisers are pushed and pulled."""

import re

import pytest
import torch

from diffusers_twinflow import TwinFlowPipeline
from tests.families.two_denoisers import CALL, NAMES, build, run_options, train

UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo(sys.argv[2]); HfApi().upload_folder(repo_id=sys.argv[2], folder_path=sys.argv[1])
"""
PUSH = "import sys; from diffusers_twinflow.cli import main; sys.exit(main(['push', *sys.argv[1:]]))"
DRAW = f"""
import sys, torch
from pathlib import Path
source, output, way, *lines = sys.argv[1:]
if way == "ours":
    from diffusers_twinflow import TwinFlowPipeline
    pipe = TwinFlowPipeline.from_pretrained(source, dtype=torch.float32)
elif way == "stock model":
    from diffusers import DiffusionPipeline
    from diffusers_twinflow import TwinFlowScheduler
    pipe = DiffusionPipeline.from_pretrained(source)
    pipe.scheduler = TwinFlowScheduler.from_pretrained(source, subfolder="scheduler")
else:
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(way)
    exec("\\n".join(lines))
assert type(pipe).__name__ == "WanPipeline"
pipe.set_progress_bar_config(disable=True)
for count in (1, 2, 4):
    torch.manual_seed(0)
    call = {CALL!r} | {{"num_inference_steps": count, "guidance_scale": 0.0}}
    drawn = pipe(**call, generator=torch.Generator().manual_seed(0)).frames
    torch.save(drawn, Path(output) / f"{{count}}.pt")
"""
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def trained(hub, tmp_path_factory):
    """A base on the Hub, and a LoRA of it and a whole model in folders."""
    folder = tmp_path_factory.mktemp("two")
    build().save_pretrained(folder / "base")
    (folder / "prompts.txt").write_text("a\na picture\nb\n")
    train(folder / "base", folder / "lora", **run_options(folder / "prompts.txt"))
    TwinFlowPipeline.from_pretrained(folder / "lora").save_pretrained(folder / "model")
    hub.run(UPLOAD, folder / "base", "me/two-base").check()
    hub.run(PUSH, folder / "lora", "me/two-lora", "--base_model", "me/two-base").check()
    hub.run(PUSH, folder / "model", "me/two-model", "--base_model", "me/two-base").check()
    return folder


def drawn(hub, output, home, source, way, *lines):
    output.mkdir()
    hub.run(DRAW, source, output, way, *lines, home=home).check()
    return [torch.load(output / f"{count}.pt") for count in (1, 2, 4)]


@pytest.fixture(scope="module")
def expected(hub, trained, tmp_path_factory):
    """What our pipeline draws from the folder."""
    folder = tmp_path_factory.mktemp("expected")
    return drawn(hub, folder / "drawn", folder / "home", trained / "lora", "ours")


def test_both_files_are_pulled(hub, trained, expected, tmp_path):
    assert {*(path.name for path in (trained / "lora").glob("*.safetensors"))} <= hub.tree("me/two-lora")
    found = drawn(hub, tmp_path / "drawn", tmp_path / "home", "me/two-lora", "ours")
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_stock_code_of_the_card_draws_the_same(hub, trained, expected, tmp_path):
    (tmp_path / "card").mkdir()
    pull = "import sys; from huggingface_hub import hf_hub_download; print(hf_hub_download(sys.argv[1], 'README.md'))"
    path = hub.run(pull, "me/two-lora", home=tmp_path / "card").check().stdout.strip()
    with open(path) as file:
        blocks = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    code = next(block for block in blocks if "load_into_transformer_2" in block)
    assert '"me/two-lora"' in code
    found = drawn(hub, tmp_path / "drawn", tmp_path / "home", "me/two-lora", "me/two-base", *code.splitlines())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_a_whole_model_is_pulled_by_both(hub, trained, expected, tmp_path):
    for way in ("ours", "stock model"):
        for one, other in zip(
            drawn(hub, tmp_path / way, tmp_path / "home", "me/two-model", way), expected, strict=True
        ):
            torch.testing.assert_close(one, other, **CLOSE)


def test_a_lora_of_one_denoiser_is_pulled_after_one_of_both(hub, trained, tmp_path):
    """The second push deletes the second denoiser's file of the first."""
    hub.run(PUSH, trained / "lora", "me/two-again", "--base_model", "me/two-base").check()
    assert "pytorch_lora_weights_2.safetensors" in hub.tree("me/two-again")
    train(trained / "base", tmp_path / "one", denoisers=NAMES[:1], **run_options(trained / "prompts.txt"))
    hub.run(PUSH, tmp_path / "one", "me/two-again", "--base_model", "me/two-base").check()
    assert "pytorch_lora_weights_2.safetensors" not in hub.tree("me/two-again")
    found = drawn(hub, tmp_path / "pulled", tmp_path / "home", "me/two-again", "ours")
    expected = drawn(hub, tmp_path / "drawn", tmp_path / "home", tmp_path / "one", "ours")
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
