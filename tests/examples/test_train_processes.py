"""The training script in several processes, and killed at any moment."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from fsdp_on_cpu import FSDP
from safetensors.torch import load_file
from trained_weights import assert_close, assert_same_training, equal, trained

TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_two_processes_are_one_with_the_same_batch(start, short, tmp_path, train_type):
    """Weights, teacher and result, with whole models in every process and with models spread over them."""
    pictures = ("--validation_prompts", "a picture", "--num_validation_images=1", "--validation_steps=2")
    more = (f"--train_type={train_type}", *pictures)
    runs = [start(short("one", 1, *more)), start(short("ddp", 2, *more), 2), start(short("fsdp", 2, *more), 2, **FSDP)]
    for run in runs:
        run.check()
    one, first = (trained(tmp_path / "one", step) for step in (3, 1))
    assert max((one[name] - first[name]).abs().max() for name in one) > 1e-2
    result = "pytorch_lora_weights" if train_type == "lora" else "transformer/diffusion_pytorch_model"
    for name in ("ddp", "fsdp"):
        assert_same_training(tmp_path / name, tmp_path / "one", 3)
        assert_close(*(load_file(tmp_path / run_name / f"{result}.safetensors") for run_name in (name, "one")))


def test_spread_over_two_processes_it_resumes_bit_for_bit(start, short, tmp_path):
    start(short("whole", 2), 2, **FSDP).check()
    start(short("stopped", 2, "--max_train_steps=2"), 2, **FSDP).check()
    start(short("stopped", 2, "--resume_from_checkpoint=latest"), 2, **FSDP).check()
    assert equal(trained(tmp_path / "whole", 3), trained(tmp_path / "stopped", 3))


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
