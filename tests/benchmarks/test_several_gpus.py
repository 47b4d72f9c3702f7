import json
import sys
import time

import psutil
import pytest

import several_gpus


def measured(tmp_path, *arguments: str) -> dict | list:
    output = tmp_path / "result.json"
    options = ["--tiny", "--device=cpu", "--rank=2", "--runs=1", f"--output={output}", *arguments]
    assert several_gpus.main(several_gpus.parse_args(options)) == 0
    return json.loads(output.read_text())


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_one_process_measures_a_way_in_itself(tmp_path, train_type):
    row = measured(tmp_path, f"--measure={train_type}_one")
    assert row["processes"] == 1 and row["last_gradient_norm"] > 0
    assert row["samples_per_second"] == pytest.approx(several_gpus.BATCH / row["seconds"])


@pytest.mark.slow
def test_two_processes_take_one_step_and_end(tmp_path):
    report = measured(tmp_path, "--parts", "lora_ddp", "lora_fsdp2")
    (row,) = report["rows"]
    assert (row["part"], row["processes"], row["runs"]) == ("lora_ddp", 2, 1)
    assert row["samples_per_second"] == pytest.approx(2 * several_gpus.BATCH / row["seconds"])
    assert row["last_gradient_norm"] > 0 and report["failures"] == []


def test_on_gpus_a_way_is_launched_with_its_configuration():
    args = several_gpus.parse_args(["--no-tiny", "--device=cuda", "--processes=3"])
    command = several_gpus.launch_command("full_fsdp2", args, "row.json")
    (configuration,) = (part for part in command if part.startswith("--config_file="))
    assert configuration.endswith("examples/accelerate/fsdp2.yaml") and "--num_processes=3" in command
    assert "--measure=full_fsdp2" in command and "--no-tiny" in command
    assert "accelerate.commands.launch" not in several_gpus.launch_command("full_one", args, "row.json")


def fail(tmp_path, monkeypatch, code: str) -> str:
    """The error that is noted of a way whose process runs this code."""
    monkeypatch.setattr(several_gpus, "launch_command", lambda *_: [sys.executable, "-c", code])
    output = tmp_path / "result.json"
    args = several_gpus.parse_args(["--tiny", "--device=cpu", f"--output={output}", "--parts=lora_one"])
    assert several_gpus.main(args) == 1
    (failure,) = json.loads(output.read_text())["failures"]
    return failure["error"]


def test_a_way_that_fails_is_told_with_its_words(tmp_path, monkeypatch):
    assert "no GPU left" in fail(tmp_path, monkeypatch, "raise SystemExit('no GPU left')")


def test_a_way_that_hangs_is_given_up_with_all_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(several_gpus, "LONGEST_ROW", 2)
    file = tmp_path / "child"
    child = f"open({str(file)!r}, 'w').write(str(run.pid)); run.wait()"
    child = f"import subprocess; run = subprocess.Popen(['sleep', '60']); {child}"
    assert "ended at the time limit" in fail(tmp_path, monkeypatch, child)
    pid = int(file.read_text())
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
