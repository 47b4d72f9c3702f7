"""The training script in several processes, and killed at any moment."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from trained_weights import equal, trained

TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture
def short(arguments, tmp_path):
    """Arguments of a run of 4 samples a step."""

    def build(name: str, processes: int, *more: str) -> list[str]:
        options = {
            "output_dir": tmp_path / name,
            "train_batch_size": 4 // processes,
            "max_train_steps": 3,
            "checkpointing_steps": 1,
            # Adam with so large an epsilon is plain gradient descent: rounding does not flip the sign of an update.
            "learning_rate": 10,
            "adam_epsilon": 10,
        }
        switches = ["--twinflow_enabled", "--twinflow_adversarial_enabled", "--cache_latents", "--no-save_ema"]
        return arguments(*(f"--{option}={value}" for option, value in options.items()), *switches, *more)

    return build


def teacher(directory: Path, step: int) -> dict:
    return torch.load(directory / f"checkpoint-{step}" / "custom_checkpoint_0.pkl", weights_only=False)


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_two_processes_are_one_with_the_same_batch(start, short, tmp_path, train_type):
    for processes in (1, 2):
        start(short(str(processes), processes, f"--train_type={train_type}"), processes).check()
    one, two = (trained(tmp_path / name, 3) for name in "12")
    first = trained(tmp_path / "1", 1)
    assert max((one[name] - first[name]).abs().max() for name in one) > 1e-2
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=5e-5)
    one, two = (teacher(tmp_path / name, 3) for name in "12")
    assert one["decay"] == two["decay"] > 0
    for name in one["weights"]:
        torch.testing.assert_close(one["weights"][name], two["weights"][name], rtol=1e-4, atol=5e-5)


def test_two_processes_resume_bit_for_bit(launch, start, short, tmp_path):
    launch(short("whole", 2), *TWO_PROCESSES)
    start(short("stopped", 2, "--max_train_steps=2"), 2).check()
    start(short("stopped", 2, "--resume_from_checkpoint=latest"), 2).check()
    assert equal(trained(tmp_path / "whole", 3), trained(tmp_path / "stopped", 3))


def test_killed_at_any_moment_it_can_go_on(start, short, tmp_path):
    """Three kills without warning, each at a random moment: what is there is complete, and the run goes on from it."""
    out, steps = tmp_path / "out", 0
    choose = random.Random(0)
    for _ in range(3):
        more = ["--max_train_steps=100000", "--checkpoints_total_limit=2", "--resume_from_checkpoint=latest"]
        run = start(short("out", 1, *more))
        target, deadline = steps + 2, time.monotonic() + 90
        while last_step(out) < target and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(choose.uniform(0, 0.3))
        os.killpg(run.pids[0], signal.SIGKILL)
        assert run.wait() == [-signal.SIGKILL]
        assert last_step(out) >= target
        steps = last_step(out)
        assert all(tensor.isfinite().all() for tensor in trained(out, steps).values())
    start(short("out", 1, f"--max_train_steps={steps + 1}", "--resume_from_checkpoint=latest")).check()
    assert last_step(out) == steps + 1 and not list(out.glob("*.unfinished"))


def last_step(directory: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in directory.glob("checkpoint-*[0-9]")), default=0)
