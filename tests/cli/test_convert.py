"""`convert` turns a checkpoint into what its run would have saved."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from diffusers_twinflow import TwinFlowPipeline
from diffusers_twinflow.cli import main

TWINFLOW = ["--twinflow_enabled", "--twinflow_target_step_count=2"]


@pytest.fixture(scope="module")
def run_of(script, base_dir, image_dir, tmp_path_factory):
    """The folder of a run of two steps with a checkpoint at each."""

    def train(*more: str):
        out = tmp_path_factory.mktemp("run") / "out"
        options = {
            "pretrained_model_name_or_path": base_dir,
            "dataset_name": image_dir,
            "output_dir": out,
            "resolution": 16,
            "max_sequence_length": 2,
            "train_batch_size": 2,
            "max_train_steps": 2,
            "checkpointing_steps": 1,
            "learning_rate": 1e-2,
            "rank": 2,
            "lora_alpha": 3,
        }
        script.main([f"--{name}={value}" for name, value in options.items()] + list(more))
        return out

    return train


@pytest.fixture(scope="module")
def lora_run(run_of):
    return run_of(*TWINFLOW, "--twinflow_ema_decay=0.5")


def weights(directory) -> dict:
    return {path.name: load_file(path) for path in directory.rglob("*.safetensors") if "checkpoint-" not in str(path)}


def assert_same(found, wanted) -> None:
    found, wanted = weights(found), weights(wanted)
    assert found.keys() == wanted.keys() and found
    for name in wanted:
        assert found[name].keys() == wanted[name].keys()
        assert all((found[name][key] == wanted[name][key]).all() for key in wanted[name]), name


def test_the_last_checkpoint_becomes_the_result(lora_run, tmp_path, capsys):
    assert main(["convert", str(lora_run / "checkpoint-2"), str(tmp_path / "lora")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'lora'}: LoRA\n"
    assert_same(tmp_path / "lora", lora_run)
    found, wanted = (json.loads((each / "twinflow_config.json").read_text()) for each in (tmp_path / "lora", lora_run))
    assert {**found, "base_model": None, "trained": None} == {**wanted, "base_model": None, "trained": None}
    assert found["trained"]["steps"] == 2 and found["trained"]["arguments"]["learning_rate"] == 1e-2
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "lora")
    assert pipeline("a", height=16, width=16).images[0].size == (16, 16)


def test_an_earlier_checkpoint_has_other_weights(lora_run, tmp_path):
    assert main(["convert", str(lora_run / "checkpoint-1"), str(tmp_path / "lora")]) == 0
    name = "pytorch_lora_weights.safetensors"
    first, last = weights(tmp_path / "lora")[name], weights(lora_run)[name]
    assert first.keys() == last.keys() and any((first[key] != last[key]).any() for key in last)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        [*TWINFLOW, "--no-save_ema"],
        [*TWINFLOW, "--no-use_ema", "--twinflow_allow_no_ema_teacher", "--no-twinflow_require_ema"],
        [*TWINFLOW, "--train_type=full"],
        ["--use_ema"],
        [],
    ],
    ids=["last_weights", "no_ema", "full", "flow_matching_ema", "flow_matching"],
)
def test_other_runs(run_of, tmp_path, more):
    out = run_of(*more)
    assert main(["convert", str(out / "checkpoint-2"), str(tmp_path / "result")]) == 0
    assert_same(tmp_path / "result", out)


def test_what_does_not_fit_is_told(lora_run, tmp_path, capsys):
    def error_of(*arguments) -> str:
        assert main(["convert", *map(str, arguments)]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    checkpoint = shutil.copytree(lora_run / "checkpoint-2", tmp_path / "checkpoint-2")
    (checkpoint / "checkpoint.json").unlink(missing_ok=True)
    assert "of a run with the same options as --arguments." in error_of(checkpoint, tmp_path / "out")
    arguments = json.loads((lora_run / "training_arguments.json").read_text())
    path = tmp_path / "training_arguments.json"
    path.write_text(json.dumps(arguments | {"rank": 4}))
    assert "does not fit the arguments of its run in" in error_of(checkpoint, tmp_path / "out")
    path.write_text(json.dumps({"rank": 4}))
    assert "lack pretrained_model_name_or_path, train_type" in error_of(checkpoint, tmp_path / "out")
    path.write_text(json.dumps(arguments))
    assert "is not empty: choose a new folder" in error_of(checkpoint, lora_run)
    cut = (checkpoint / "trained_weights.safetensors").read_bytes()[:-100]
    (checkpoint / "trained_weights.safetensors").write_bytes(cut)
    assert "trained_weights.safetensors' is damaged" in error_of(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_told_to_be_converted_first(lora_run, tmp_path, capsys):
    checkpoint = lora_run / "checkpoint-1"
    unfinished = tmp_path / "run"
    shutil.copytree(checkpoint, unfinished / "checkpoint-1")
    for folder, message in [
        (checkpoint, "is a checkpoint of a training run"),
        (unfinished, "--resume_from_checkpoint"),
    ]:
        assert main(["generate", "a", "--adapter", str(folder)]) == 1
        error = capsys.readouterr().err
        source = checkpoint if folder == checkpoint else unfinished / "checkpoint-1"
        assert message in error and f"diffusers-twinflow convert {source} NEW_FOLDER" in error
