"""The Python of docs/training.md runs, on the digits base and for two steps."""

import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from tests.docs.pages import ROOT, blocks

DIGITS = ROOT / "examples" / "digits" / "base"
REPLACED = {
    "stabilityai/stable-diffusion-3.5-medium": str(DIGITS),
    "max_train_steps=2000": "max_train_steps=2",
    'mixed_precision="bf16"': "resolution=32, train_batch_size=1, gradient_accumulation_steps=1",
    "train_batch_size=4": "train_batch_size=1",
    "batch_size=4": "batch_size=1",
}
FROM_IMAGES, FROM_DATASET, FROM_LATENTS = blocks((ROOT / "docs" / "training.md").read_text(encoding="utf-8"), "python")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def run(code: str) -> dict:
    for text, replacement in REPLACED.items():
        code = code.replace(text, replacement)
    scope: dict = {}
    exec(code, scope)
    return scope


def check_result(tmp_path, trainer) -> None:
    assert trainer.step == 2 and trainer.problems == []
    described = json.loads((tmp_path / "my-lora" / "twinflow_config.json").read_text())
    assert described["trained"]["steps"] == 2
    assert (tmp_path / "my-lora" / "pytorch_lora_weights.safetensors").is_file()


def test_images_train(tmp_path):
    (tmp_path / "my-images").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "my-images" / f"{name}.png")
        (tmp_path / "my-images" / f"{name}.txt").write_text("a handwritten seven")
    check_result(tmp_path, run(FROM_IMAGES)["trainer"])


def test_a_dataset_trains(tmp_path):
    (tmp_path / "my-images").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "my-images" / "a.png")
    row = {"file_name": "a.png", "text": "a handwritten seven"}
    (tmp_path / "my-images" / "metadata.jsonl").write_text(json.dumps(row))
    check_result(tmp_path, run(FROM_DATASET)["trainer"])


@pytest.mark.slow
def test_latents_train(tmp_path):
    family = FAMILIES["stable_diffusion_3"]
    pipeline = load_stock_pipeline(family, str(DIGITS))
    with torch.no_grad():
        latents = family.encode_images(pipeline, torch.zeros(1, 3, 32, 32))
        prompts = family.encode_prompts(pipeline, ["a handwritten seven", ""], max_sequence_length=1)
    sample = {"latents": latents[0], "condition": {name: tensor[0] for name, tensor in prompts.items()}}
    torch.save({"samples": [sample], "empty": {name: tensor[1:] for name, tensor in prompts.items()}}, "encoded.pt")
    check_result(tmp_path, run(FROM_LATENTS)["trainer"])
