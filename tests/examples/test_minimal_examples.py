"""The two examples that users copy run for a few steps on the digits base."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_twinflow import TwinFlowConfig, TwinFlowPipeline
from diffusers_twinflow.hub.repository import TwinFlowRepositoryConfig
from diffusers_twinflow.methods import BRANCHES, TwinFlow
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.callbacks import HealthCallback, TrainerCallback
from diffusers_twinflow.training.trainer import Trainer

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, output_dir: Path, monkeypatch) -> None:
    """Run an example as a script, for two steps of few samples."""
    options = {"output_dir": output_dir, "steps": 2, "batch_size": 6, "images": 10, "rank": 2}
    monkeypatch.setattr(sys, "argv", [name, *(f"--{option}={value}" for option, value in options.items())])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_minimal_loop_saves_a_lora_that_draws(tmp_path, monkeypatch, capsys):
    run("minimal_twinflow.py", tmp_path / "out", monkeypatch)
    printed = capsys.readouterr().out
    assert "step 1 of 2: one_step" in printed and "adversarial" in printed
    config = TwinFlowRepositoryConfig.load(tmp_path / "out")
    assert config.twinflow.twinflow_adversarial_enabled and config.trained["steps"] == 2
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "out")
    image = pipeline("a handwritten seven", generator=torch.manual_seed(0)).images[0]
    assert image.size == (32, 32) and Image.open(tmp_path / "out" / "digits.png").size == (320, 32)


def test_the_custom_branch_and_loss_train(tmp_path, monkeypatch, capsys):
    run("custom_method.py", tmp_path / "out", monkeypatch)
    assert "sampler_steps" in capsys.readouterr().out
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


@pytest.fixture
def custom():
    return importlib.import_module("custom_method")


def test_the_custom_branch_trains_at_the_samplers_times(custom):
    config = TwinFlowConfig(twinflow_enabled=True)
    method = TwinFlow(config, branches=[custom.SamplerSteps(share=1.0, num_inference_steps=4)])
    draw = method.draw(range(100), (2,), seed=0)
    assert sorted(set(draw.t.tolist())) == sorted(method.branches[0].grid.tolist()) and not draw.r.any()


class Losses(TrainerCallback):
    """Keeps what is logged."""

    def on_log(self, trainer, step, values):
        self.values = values


def test_the_trainer_trains_with_the_custom_method(custom, base_dir, image_dir, tmp_path):
    arguments = TrainingArguments(
        dataset_name=str(image_dir),
        output_dir=str(tmp_path / "out"),
        resolution=16,
        max_sequence_length=2,
        train_batch_size=6,
        max_train_steps=1,
        logging_steps=1,
        rank=2,
    )
    method = custom.MyTwinFlow(custom.CONFIG, branches=[*BRANCHES, custom.SamplerSteps(1.0, num_inference_steps=4)])
    losses = Losses()
    trainer = Trainer(base_dir, arguments, method, callbacks=[HealthCallback(), losses])
    trainer.train()
    assert {"loss/sampler_steps", "loss/mean_error", "loss/rectify"} < losses.values.keys()
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()
