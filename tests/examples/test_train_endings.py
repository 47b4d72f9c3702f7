"""Runs that end with a problem keep the result, and the message says what to do."""

import json
import os
import shutil
import signal
import time

import pytest

from tests.examples.trained_weights import trained

TWINFLOW = ["--twinflow_enabled"]
PROMPTS = ["--validation_prompts", "a picture", "--num_validation_images=1", "--validation_base_steps=0"]
FULL_DISK = """
import io, resource, sys
from tests.training_script import load_script
script = load_script()
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
sys.stdout = sys.stderr = io.StringIO()
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, limits[1]))
try:
    script.main()
except SystemExit as end:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sys.__stderr__.write(str(end.code))
    raise SystemExit(1)
"""


def fail(*args, **options):
    raise RuntimeError("no picture today")


def test_a_failed_picture_loses_no_result(script, arguments, tmp_path, monkeypatch, caplog):
    """Neither in the middle nor at the end; the exit code tells, and resuming draws what is missing."""
    out, options = tmp_path / "out", [*TWINFLOW, *PROMPTS, "--validation_steps=2"]
    with monkeypatch.context() as broken:
        broken.setattr("diffusers_twinflow.training.validation_images.draw_row", fail)
        with pytest.raises(
            SystemExit, match="the result is saved, but step 2: generating .*no picture today.*; step 4"
        ):
            script.main(arguments(*options))
    assert (out / "pytorch_lora_weights.safetensors").is_file() and (out / "README.md").is_file()
    assert not (out / "samples").exists() and f"saved to {out}" in caplog.text
    script.main(arguments(*options, "--resume_from_checkpoint=latest"))
    assert (out / "samples" / "steps.png").is_file() and (out / "validation" / "step-000004.png").is_file()


def test_a_failed_score_loses_no_result(script, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers_twinflow.training.scoring.Scores.measure", fail)
    with pytest.raises(SystemExit, match="step 4: scoring failed"):
        script.main(arguments(*TWINFLOW, "--score_steps=4", "--judge=json:loads"))
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


def test_a_card_that_somebody_wrote_stays(script, arguments, tmp_path, caplog):
    path = tmp_path / "out" / "README.md"
    path.parent.mkdir()
    path.write_text("# My notes\n")
    script.main(arguments(*TWINFLOW, "--max_train_steps=2"))
    assert path.read_text() == "# My notes\n" and "it is not overwritten" in caplog.text
    path.unlink()
    script.main(arguments(*TWINFLOW, "--resume_from_checkpoint=latest", "--max_train_steps=3"))
    written = path.read_text()
    script.main(arguments(*TWINFLOW, "--resume_from_checkpoint=latest", "--max_train_steps=4"))
    assert "| steps trained | 3 |" in written and "| steps trained | 4 |" in path.read_text()


@pytest.mark.parametrize("finite", [0, 2])
def test_a_run_whose_steps_were_mostly_skipped_is_an_error(script, arguments, tmp_path, monkeypatch, finite):
    import torch

    norms = []

    def clip(accelerator, parameters, max_norm):
        norms.append(1.0 if len(norms) < finite else float("nan"))
        return torch.tensor(norms[-1])

    monkeypatch.setattr("diffusers_twinflow.training.trainer.clip_grad_norm", clip)
    with pytest.raises(SystemExit, match=f"error: {5 - finite} of 5 steps were skipped.*--learning_rate"):
        script.main(arguments(*TWINFLOW, "--max_train_steps=5"))
    assert not (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists()


def test_weights_that_are_not_finite_replace_no_checkpoint(script, arguments, tmp_path):
    options = [*TWINFLOW, "--learning_rate=3e38", "--checkpoints_total_limit=1", "--checkpointing_steps=1"]
    with pytest.raises(SystemExit, match="error: the trained weights are not finite at step"):
        script.main(arguments(*options, "--max_train_steps=8"))
    assert not (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists()


def test_training_says_what_it_does(script, arguments, tmp_path, caplog):
    script.main(arguments(*TWINFLOW, *PROMPTS, "--max_train_steps=2"))
    out = tmp_path / "out"
    for text in (
        "trains: LoRA of rank 2 with TwinFlow",
        "8 samples at 16 pixels",
        "steps: 0 to 2, 4 samples each on 1 process",
        f"output: {out}",
        f"saved to {out}",
        f"validation images in {out / 'validation' / 'step-000002.png'}",
    ):
        assert text in caplog.text, text
    script.main(arguments(*TWINFLOW, "--max_train_steps=3", "--resume_from_checkpoint=latest"))
    assert f"resumed from {out / 'checkpoint-2'}" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_run_says_how_it_goes_on(start, arguments, tmp_path, number):
    run = start(arguments(*TWINFLOW, "--max_train_steps=100000"))
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "checkpoint-2").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(run.pids[0], number)
    assert run.wait() == [128 + number]
    text = run.outputs[0].read_text()
    assert f"stopped by {number.name}. To continue" in text and "--resume_from_checkpoint latest" in text
    assert "Traceback" not in text


def test_a_run_that_is_stopped_before_its_first_checkpoint_starts_again(start, arguments, tmp_path):
    run = start(arguments(*TWINFLOW, "--max_train_steps=100000", "--checkpointing_steps=100000"))
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "training_run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(run.pids[0], signal.SIGINT)
    assert run.wait() == [128 + signal.SIGINT]
    text = run.outputs[0].read_text()
    assert "stopped by SIGINT before the first checkpoint. Run the same command to start again." in text
    assert "--resume_from_checkpoint" not in text


def fill_disk(start, options, size: int) -> str:
    """Run with files that cannot grow above `size` bytes; returns the error, or nothing if everything fitted."""
    run = start(options, code=FULL_DISK.format(size=size))
    (code,) = run.wait()
    text = run.outputs[0].read_text()
    if code:
        named = "could not be written" in text and "free on that disk" in text
        assert named or "File too large" in text, (size, text[-2000:])  # the latter of the cache of datasets
    return text if code else ""


def assert_resumes(start, options, out) -> None:
    start([*options, "--resume_from_checkpoint=latest"]).check()
    assert trained(out, 2)
    assert json.loads((out / "twinflow_config.json").read_text())["trained"]["steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [400, 9_000, 60_000])
def test_a_full_disk_is_named_and_the_run_goes_on_later(start, arguments, tmp_path, size):
    """Reports fail, then files of checkpoints."""
    options = arguments(*TWINFLOW, "--max_train_steps=2", "--checkpointing_steps=1")
    assert fill_disk(start, options, size)
    assert_resumes(start, options, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_thirty_sizes_of_a_disk(start, arguments, tmp_path, part):
    options = arguments(*TWINFLOW, *PROMPTS, "--max_train_steps=2", "--checkpointing_steps=1")
    for i in range(5 * part, 5 * part + 5):
        failed = bool(fill_disk(start, options, int(100 * 1.3**i)))
        assert failed or i > 10
        if (tmp_path / "out" / "twinflow_config.json").exists():
            shutil.rmtree(tmp_path / "out")
            continue
        assert_resumes(start, options, tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
