"""The examples that users copy run for a few steps on the digits base."""

import importlib
import runpy
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_twinflow import TwinFlowConfig, TwinFlowPipeline
from diffusers_twinflow.cli import train
from diffusers_twinflow.hub.repository import TwinFlowRepositoryConfig
from diffusers_twinflow.methods import BRANCHES, Networks, TwinFlow
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


@pytest.mark.long
def test_the_method_of_its_own_trains_and_draws(tmp_path, monkeypatch, capsys):
    run("shortcut_method.py", tmp_path / "out", monkeypatch)
    assert "jump" in capsys.readouterr().out and (tmp_path / "out" / "digits.png").is_file()


@pytest.fixture
def custom():
    return importlib.import_module("custom_method")


def test_the_custom_branch_trains_at_the_samplers_times(custom):
    config = TwinFlowConfig(twinflow_enabled=True)
    method = TwinFlow(config, branches=[custom.SamplerSteps(share=1.0, num_inference_steps=4)])
    draw = method.draw(range(100), (2,), seed=0)
    assert sorted(set(draw.t.tolist())) == sorted(method.branches[0].grid.tolist()) and not draw.r.any()


@pytest.fixture
def shortcut():
    return importlib.import_module("shortcut_method")


class Passes:
    """A network whose velocity is 2 t + r everywhere."""

    def __call__(self, x_t, t, r, sign, condition):
        return torch.zeros_like(x_t) + (2 * t + r)[:, None]

    @contextmanager
    def activated(self):
        yield self


def test_a_shortcut_must_equal_two_of_half_its_length(shortcut):
    method = shortcut.Shortcut(shortcut.CONFIG)
    draw, latents = method.draw(range(4), (3,), seed=0), torch.ones(4, 3)
    assert (draw.r < draw.t).tolist() == [False, False, False, True]
    output = method.loss(
        latents, {}, draw, Networks(student=Passes(), student_without_grad=Passes(), teacher=Passes())
    )
    velocity = (3 * draw.t[:3, None] - (draw.noise - latents)[:3]).square().mean(1)
    middle = (draw.t[3] + draw.r[3]) / 2
    halves = (2 * draw.t[3] + middle + 2 * middle + draw.r[3]) / 2
    jump = (2 * draw.t[3] + draw.r[3] - halves).square()
    torch.testing.assert_close(output.per_sample, torch.cat([velocity, jump[None]]))


def test_shortcuts_are_drawn_by_position(shortcut):
    method = shortcut.Shortcut(shortcut.CONFIG)
    whole, part = (method.draw(positions, (2,), seed=0) for positions in (range(100), range(63, 67)))
    assert all(torch.equal(getattr(whole, name)[63:67], value) for name, value in vars(part).items())


def test_the_command_trains_with_a_method_of_its_own(shortcut, base_dir, image_dir, tmp_path, caplog):
    options = {"dataset_name": image_dir, "resolution": 16, "max_sequence_length": 2, "train_batch_size": 4, "rank": 2}
    options |= {"pretrained_model_name_or_path": base_dir, "output_dir": tmp_path / "out", "max_train_steps": 1}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    train.main([*arguments, "--twinflow_enabled"], build_method=lambda options: shortcut.Shortcut(options.twinflow))
    assert "LoRA of rank 2 with shortcut" in caplog.text
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


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
