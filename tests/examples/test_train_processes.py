"""The training script in several processes, and killed at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "examples" / "train_twinflow.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}

FSDP_SCRIPT = Path(__file__).with_name("fsdp_on_cpu.py")
# What `accelerate launch --config_file examples/accelerate/fsdp2.yaml` sets, in float32.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


@pytest.fixture
def run(base_dir, image_dir, tmp_path):
    """Start a run of 4 samples a step in `processes` processes; it must succeed unless `wait` is false."""

    def start(name: str, processes: int, *more: str, wait: bool = True, fsdp: bool = False) -> subprocess.Popen:
        options = {
            "pretrained_model_name_or_path": base_dir,
            "dataset_name": image_dir,
            "output_dir": tmp_path / name,
            "resolution": 16,
            "max_sequence_length": 2,
            "train_batch_size": 4 // processes,
            "max_train_steps": 3,
            "checkpointing_steps": 1,
            "rank": 2,
            # Adam with so large an epsilon is plain gradient descent: rounding does not flip the sign of an update.
            "learning_rate": 10,
            "adam_epsilon": 10,
        }
        arguments = [f"--{option}={value}" for option, value in options.items()]
        arguments += [
            "--twinflow_enabled",
            "--twinflow_adversarial_enabled",
            "--cache_latents",
            "--no-save_ema",
            *more,
        ]
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        if processes == 1:
            launch = [sys.executable]
        script, environment = (FSDP_SCRIPT, ENVIRONMENT | FSDP) if fsdp else (SCRIPT, ENVIRONMENT)
        process = subprocess.Popen(
            [*launch, str(script), *arguments], env=environment, stderr=subprocess.PIPE, start_new_session=True
        )
        if wait:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors.decode()[-3000:]
        return process

    return start


def trained(directory: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(directory / f"checkpoint-{step}" / "trained_weights.safetensors")


def teacher(directory: Path, step: int) -> dict:
    return torch.load(directory / f"checkpoint-{step}" / "custom_checkpoint_0.pkl", weights_only=False)


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_two_processes_are_one_with_the_same_batch(run, tmp_path, train_type):
    """Weights and teacher, with whole models in every process and with models spread over them."""
    pictures = ("--validation_prompts", "a picture", "--num_validation_images=1", "--validation_steps=100")
    more = (f"--train_type={train_type}", *pictures)
    run("one", 1, *more)
    run("ddp", 2, *more)
    run("fsdp", 2, *more, fsdp=True)
    one, start = (trained(tmp_path / "one", step) for step in (3, 1))
    assert max((one[name] - start[name]).abs().max() for name in one) > 1e-2
    for name in ("ddp", "fsdp"):
        assert_same_tensors(one, trained(tmp_path / name, 3))
        a, b = (teacher(tmp_path / run_name, 3) for run_name in ("one", name))
        assert a["decay"] == b["decay"] > 0
        assert_same_tensors(a["weights"], b["weights"])
    result = "pytorch_lora_weights" if train_type == "lora" else "transformer/diffusion_pytorch_model"
    assert_same_tensors(*(load_file(tmp_path / name / f"{result}.safetensors") for name in ("one", "fsdp")))


def assert_same_tensors(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=5e-5, msg=name)


def test_spread_over_two_processes_it_resumes_bit_for_bit(run, tmp_path):
    run("whole", 2, fsdp=True)
    run("stopped", 2, "--max_train_steps=2", fsdp=True)
    run("stopped", 2, "--resume_from_checkpoint=latest", fsdp=True)
    whole, resumed = (trained(tmp_path / name, 3) for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_two_processes_resume_bit_for_bit(run, tmp_path):
    run("whole", 2)
    run("stopped", 2, "--max_train_steps=2")
    run("stopped", 2, "--resume_from_checkpoint=latest")
    whole, resumed = (trained(tmp_path / name, 3) for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_killed_at_any_moment_it_can_go_on(run, tmp_path):
    """Three kills without warning, each at a random moment: what is there is complete, and the run goes on from it."""
    out, steps = tmp_path / "out", 0
    choose = random.Random(0)
    for _ in range(3):
        more = ["--max_train_steps=100000", "--checkpoints_total_limit=2", "--resume_from_checkpoint=latest"]
        process = run("out", 1, *more, wait=False)
        target, deadline = steps + 2, time.monotonic() + 90
        while last_step(out) < target and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(choose.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert last_step(out) >= target
        steps = last_step(out)
        assert all(tensor.isfinite().all() for tensor in trained(out, steps).values())
    run("out", 1, f"--max_train_steps={steps + 1}", "--resume_from_checkpoint=latest")
    assert last_step(out) == steps + 1 and not list(out.glob("*.unfinished"))


def last_step(directory: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in directory.glob("checkpoint-*[0-9]")), default=0)
