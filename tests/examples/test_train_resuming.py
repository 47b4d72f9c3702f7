"""What a resumed run continues, what it refuses, and which checkpoints it changes."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch

from diffusers_twinflow.training.run_folder import RunFolder
from tests.examples.trained_weights import equal, trained

TWINFLOW = ["--twinflow_enabled"]
LATEST = "--resume_from_checkpoint=latest"


@pytest.fixture(scope="module")
def first(script, base_dir, image_dir, tmp_path_factory):
    """The output folder of a run of two steps with a checkpoint each."""
    from accelerate.state import AcceleratorState

    out = tmp_path_factory.mktemp("first") / "out"
    AcceleratorState._reset_state(reset_partial_state=True)
    options = {"pretrained_model_name_or_path": base_dir, "dataset_name": image_dir, "output_dir": out, "rank": 2}
    options |= {"resolution": 16, "max_sequence_length": 2, "train_batch_size": 4, "learning_rate": 1e-3}
    options |= {"max_train_steps": 2, "checkpointing_steps": 1}
    script.main([f"--{name}={value}" for name, value in options.items()] + TWINFLOW)
    AcceleratorState._reset_state(reset_partial_state=True)
    return out


@pytest.fixture
def again(script, arguments, first, tmp_path):
    """Run again in a copy of that folder."""

    def run(*more: str) -> Path:
        out = tmp_path / "out"
        if not out.exists():
            shutil.copytree(first, out)
        script.main(arguments(*TWINFLOW, "--checkpointing_steps=1", "--max_train_steps=3", *more))
        return out

    return run


def rates(out: Path, step: int) -> list[dict]:
    state = torch.load(out / f"checkpoint-{step}" / "optimizer.bin", weights_only=False)
    return [{name: group[name] for name in ("lr", "betas", "weight_decay", "eps")} for group in state["param_groups"]]


def test_numbers_of_the_optimizer_are_those_of_the_resumed_run(again):
    numbers = ["--learning_rate=1e-9", "--time_conditioning_learning_rate=2e-9", "--adam_beta1=0.5"]
    out = again(LATEST, *numbers, "--adam_weight_decay=0.25", "--adam_epsilon=1e-5", "--lr_scheduler=constant")
    same = {"betas": (0.5, 0.99), "weight_decay": 0.25, "eps": 1e-5}
    assert rates(out, 3) == [{"lr": 1e-9, **same}, {"lr": 2e-9, **same}]
    before, after = trained(out, 2), trained(out, 3)
    assert max((after[name] - before[name]).abs().max() for name in before) < 1e-6
    assert json.loads((out / "training_arguments.json").read_text())["learning_rate"] == 1e-9


def test_a_schedule_counts_from_where_the_run_stood(again):
    out = again(LATEST, "--lr_scheduler=linear", "--max_train_steps=4", "--scale_lr")
    assert [group["lr"] for group in rates(out, 3)] == pytest.approx([1e-3 * 4 * (1 - 3 / 4)] * 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rank=4"], r"--rank=4 \(it was 2\)"),
        (["--lora_alpha=7"], r"--lora_alpha=7.0 \(it was 2\)"),
        (["--lora_layers", "to_q"], r"--lora_layers=\['to_q'\] \(it was None\)"),
        (["--train_type=full"], r"--train_type=full \(it was lora\)"),
        (["--use_8bit_adam"], r"--use_8bit_adam \(it was False\)"),
        (["--seed=3", "--rank=4"], r"--rank=4 \(it was 2\), --seed=3 \(it was 0\)"),
        (["--no-twinflow_enabled"], r"--no-twinflow_enabled \(it was True\)"),
        (["--twinflow_ema_decay=0", "--twinflow_allow_no_ema_teacher"], "--twinflow_ema_decay=0.0"),
        (["--train_batch_size=2"], "2 samples per step .it was 4.*--gradient_accumulation_steps"),
    ],
)
def test_what_a_checkpoint_cannot_follow_is_refused_by_name(again, more, message):
    with pytest.raises(SystemExit, match=f"error: .*checkpoint-2' cannot be resumed with .*{message}"):
        again(LATEST, *more)


def test_a_run_that_ends_before_its_checkpoint_is_refused(again):
    with pytest.raises(
        SystemExit, match="checkpoint-2' has taken 2 steps, but the run ends after 1. Set --max_train_steps"
    ):
        again(LATEST, "--max_train_steps=1")


def test_the_same_step_in_other_parts_and_the_same_alpha_go_on(again):
    again(LATEST, "--train_batch_size=2", "--gradient_accumulation_steps=2", "--lora_alpha=2")


def test_other_data_of_another_size_is_refused(again, image_dir, tmp_path):
    shutil.copytree(image_dir, tmp_path / "moved")
    again(LATEST, f"--dataset_name={tmp_path / 'moved'}")
    (tmp_path / "moved" / "7.png").unlink()
    lines = (tmp_path / "moved" / "metadata.jsonl").read_text().splitlines()
    (tmp_path / "moved" / "metadata.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(SystemExit, match="7 samples per epoch .it was 8.: the data must stay the same"):
        again(LATEST, f"--dataset_name={tmp_path / 'moved'}", "--max_train_steps=4")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink], ids=["cut", "flipped", "missing"])
@pytest.mark.parametrize(
    "name",
    [
        "random_states_0.pkl",
        "optimizer.bin",
        "scheduler.bin",
        "trained_weights.safetensors",
        "custom_checkpoint_0.pkl",
        "checkpoint.json",
    ],
)
def test_a_damaged_checkpoint_is_left_out_and_the_one_before_taken(first, tmp_path, name, harm, caplog):
    out = tmp_path / "out"
    shutil.copytree(first, out)
    harm(out / "checkpoint-2" / name)
    if (name, harm) == ("checkpoint.json", flip):
        cut(out / "checkpoint-2" / name)
    folder = RunFolder(out)
    with caplog.at_level(logging.WARNING):
        assert folder.choose("latest") == out / "checkpoint-1"
    assert re.search(rf"checkpoint-2' is damaged \(.*{re.escape(name)}", caplog.text)
    assert "The checkpoint before it" in caplog.text
    folder.release()


def test_damaged_checkpoints_are_one_line(again, first, tmp_path, caplog):
    shutil.copytree(first, tmp_path / "out")
    cut(tmp_path / "out" / "checkpoint-2" / "random_states_0.pkl")
    with pytest.raises(SystemExit, match=r"error: .*checkpoint-2' is damaged \(random_states_0.pkl has \d+ bytes"):
        again("--resume_from_checkpoint=checkpoint-2")
    cut(tmp_path / "out" / "checkpoint-1" / "optimizer.bin")
    with pytest.raises(SystemExit, match="no checkpoint in .* is intact. Delete checkpoint-2, checkpoint-1 there"):
        again(LATEST)


def test_latest_without_checkpoints_says_so_and_starts(script, arguments, tmp_path, caplog):
    script.main(arguments(*TWINFLOW, LATEST, "--max_train_steps=1"))
    assert "has no checkpoint to resume from. Training starts at step 0" in caplog.text
    assert (tmp_path / "out" / "twinflow_config.json").is_file()
    with pytest.raises(SystemExit, match="contains a finished run without a checkpoint"):
        script.main(arguments(*TWINFLOW, LATEST, "--max_train_steps=1"))


def test_a_new_run_does_not_take_a_used_folder(again, tmp_path):
    with pytest.raises(SystemExit, match="already contains a run .checkpoint-2.*--resume_from_checkpoint latest"):
        again()
    assert (tmp_path / "out" / "checkpoint-1").is_dir()


def test_a_path_names_that_checkpoint_and_no_other(script, arguments, first, tmp_path):
    """Into a new folder; a folder with a run of its own is refused, and so is a path that is not there."""
    one = f"--resume_from_checkpoint={first / 'checkpoint-1'}"
    script.main(arguments(*TWINFLOW, one, "--checkpointing_steps=1", "--max_train_steps=2"))
    assert [path.name for path in sorted((tmp_path / "out").glob("checkpoint-*"))] == ["checkpoint-2"]
    assert equal(trained(tmp_path / "out", 2), trained(first, 2))
    with pytest.raises(SystemExit, match="already contains a run"):
        script.main(arguments(*TWINFLOW, one, "--checkpointing_steps=1", "--max_train_steps=2"))
    with pytest.raises(SystemExit, match=r"is not in '.*elsewhere' \(found: none\)"):
        script.main(arguments(*TWINFLOW, f"--resume_from_checkpoint={tmp_path / 'elsewhere' / 'checkpoint-2'}"))


def test_going_back_gives_up_later_checkpoints_but_deletes_none(again, first, tmp_path):
    """Limits and `latest` look at the run's own; a checkpoint copied there from another run is nobody's."""
    out = tmp_path / "out"
    shutil.copytree(first, out)
    shutil.copytree(first / "checkpoint-2", out / "checkpoint-9")
    manifest = json.loads((out / "checkpoint-9" / "checkpoint.json").read_text())
    (out / "checkpoint-9" / "checkpoint.json").write_text(json.dumps(manifest | {"run": "another"}))
    folder = RunFolder(out)
    assert folder.choose("latest") == out / "checkpoint-2"
    assert folder.choose("checkpoint-1") == out / "checkpoint-1"
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-1"]
    folder.remove_old_checkpoints(1)
    folder.release()
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2", "checkpoint-9"}
    again(LATEST, "--max_train_steps=2", "--learning_rate=5e-3", "--checkpoints_total_limit=1")
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-9"}
    assert not equal(trained(out, 2), trained(first, 2))


def test_two_runs_in_one_folder(script, arguments, tmp_path):
    folder = RunFolder(tmp_path / "out")
    with pytest.raises(SystemExit, match="--output_dir='.*' is in use by another run"):
        script.main(arguments(*TWINFLOW))
    folder.release()
    script.main(arguments(*TWINFLOW, "--max_train_steps=1"))


def test_an_average_of_flow_matching_takes_the_new_decay(script, arguments, tmp_path):
    options = ["--use_ema", "--checkpointing_steps=1"]
    script.main(arguments(*options, "--max_train_steps=1", "--flow_matching_ema_decay=0.5"))
    script.main(arguments(*options, "--max_train_steps=2", "--flow_matching_ema_decay=0.25", LATEST))
    state = torch.load(tmp_path / "out" / "checkpoint-2" / "custom_checkpoint_0.pkl", weights_only=False)
    assert state["decay"] == 0.25
