"""The training script in several processes, killed at any time."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from tests.examples.trained_weights import assert_close, assert_same_training, equal, trained
from tests.families import kit, tiny_videos
from tests.sharding_on_cpu import DEEPSPEED, FSDP

WHOLE_STATE = {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}


@pytest.mark.slow
@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_two_processes_are_one_with_the_same_batch(start, short, tmp_path, train_type):
    """Weights, teacher and result, with whole models in every process and with models spread over them."""
    pictures = ("--validation_prompts", "a picture", "--num_validation_images=1", "--validation_steps=2")
    more = (f"--train_type={train_type}", *pictures)
    ways = {"ddp": {}, "fsdp": FSDP, "deepspeed": DEEPSPEED}
    halves = {"deepspeed": ("--train_batch_size=1", "--gradient_accumulation_steps=2")}
    runs = [start(short("one", 1, *more))]
    for name, environment in ways.items():
        runs.append(start(short(name, 2, *more, *halves.get(name, ())), 2, **environment))
    for run in runs:
        run.check()
    assert len(list(tmp_path.glob("deepspeed/checkpoint-3/pytorch_model/*optim_states.pt"))) == 2
    one, first = (trained(tmp_path / "one", step) for step in (3, 1))
    assert max((one[name] - first[name]).abs().max() for name in one) > 1e-2
    result = "pytorch_lora_weights" if train_type == "lora" else "transformer/diffusion_pytorch_model"
    for name in ways:
        assert_same_training(tmp_path / name, tmp_path / "one", 3)
        saved = [load_file(tmp_path / run_name / f"{result}.safetensors") for run_name in (name, "one")]
        for (
            weights
        ) in saved:  # holds the target time too, by a fit that amplifies rounding; its parts are compared above
            weights.pop("time_text_embed.timestep_embedder.linear_2.weight", None)
        assert_close(*saved)


@pytest.mark.slow
@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_two_processes_train_two_denoisers_as_one(start, short, tmp_path, train_type):
    """Some batches of a process have samples for one of the denoisers only."""
    wan = tiny_videos.wan(transformer_2=tiny_videos.wan_transformer(), boundary_ratio=0.5)
    for denoiser in (wan.transformer, wan.transformer_2):
        kit.fill_zeros(denoiser)
    wan.save_pretrained(tmp_path / "base")
    more = (f"--pretrained_model_name_or_path={tmp_path / 'base'}", f"--train_type={train_type}", "--learning_rate=1")
    runs = [start(short("one", 1, *more))]
    for name, environment in {"ddp": {}, "fsdp": FSDP, "deepspeed": DEEPSPEED}.items():
        runs.append(start(short(name, 2, *more), 2, **environment))
    for run in runs:
        run.check()
    one, first = (trained(tmp_path / "one", step) for step in (3, 1))
    for part in ("transformer.", "transformer_2."):
        assert max((one[name] - first[name]).abs().max() for name in one if name.startswith(part)) > 1e-3
    for name in ("ddp", "fsdp", "deepspeed"):
        assert_same_training(tmp_path / name, tmp_path / "one", 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "environment"),
    [("no", FSDP), ("no", FSDP | WHOLE_STATE), ("bf16", DEEPSPEED)],
    ids=["fsdp", "fsdp-whole-state", "deepspeed"],
)
def test_spread_over_two_processes_it_resumes_bit_for_bit(start, short, tmp_path, precision, environment):
    mixed = f"--mixed_precision={precision}"
    start(short("whole", 2, mixed), 2, **environment).check()
    start(short("stopped", 2, mixed, "--max_train_steps=2"), 2, **environment).check()
    start(short("stopped", 2, mixed, "--resume_from_checkpoint=latest"), 2, **environment).check()
    whole = trained(tmp_path / "whole", 3)
    assert equal(whole, trained(tmp_path / "stopped", 3))
    assert {tensor.dtype for tensor in whole.values()} == {torch.float32}
    if environment.keys() >= FSDP.keys():
        assert_has_only_what_trains(tmp_path / "whole" / "checkpoint-3", whole)


def assert_has_only_what_trains(checkpoint: Path, weights: dict[str, torch.Tensor]) -> None:
    """The model that accelerate writes with FSDP2 has the names and the sizes of the trained weights."""
    whole = checkpoint / "pytorch_model_fsdp.bin"
    if whole.exists():
        saved = {name: tensor.shape for name, tensor in torch.load(whole, weights_only=True).items()}
        size = whole.stat().st_size
    else:
        sharded = checkpoint / "pytorch_model_fsdp_0"
        entries = FileSystemReader(sharded).read_metadata().state_dict_metadata
        saved = {name.removeprefix("model."): entry.size for name, entry in entries.items()}
        size = sum(path.stat().st_size for path in sharded.iterdir())
    assert saved == {name: tensor.shape for name, tensor in weights.items()}
    header = 4096  # bytes, at most, per tensor and process
    assert size < sum(tensor.nbytes for tensor in weights.values()) + 2 * header * len(weights)


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(start, short, tmp_path):
    start(short("whole", 2), 2).check()
    start(short("stopped", 2, "--max_train_steps=2"), 2).check()
    start(short("stopped", 2, "--resume_from_checkpoint=latest"), 2).check()
    assert equal(trained(tmp_path / "whole", 3), trained(tmp_path / "stopped", 3))


@pytest.mark.slow
def test_processes_that_are_not_joined_are_refused(start, short, tmp_path):
    """As where a launcher starts two and the driver of their GPUs is gone: each would be the main one, and write."""
    run = start(short("out", 2), 2, ACCELERATE_USE_CPU="false")
    assert run.wait() == [1, 1]
    printed = "".join(output.read_text() for output in run.outputs)
    assert printed.count("error: 2 processes were launched (WORLD_SIZE), but accelerate uses only 1 on cpu") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
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
