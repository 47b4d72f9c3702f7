"""Runs that are killed during file operations, or at random, end with the files of an uninterrupted run."""

import json
import os
import random
import shutil
import signal
import struct
import time
from pathlib import Path

import pytest

JUDGE = """
def brightness(images, prompts):
    return images.mean().item()
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training_script import load_script

OUT, AT, COUNT = str(Path("out").resolve()), int(os.environ["DIE_AT"]), Path("count")
calls = [0]

def counted(function):
    def call(*args, **kwargs):
        first = args[0] if args else ""
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.path.abspath(os.fspath(first))
        if path.startswith(OUT):
            calls[0] += 1
            if calls[0] == AT:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

for name in ("replace", "rename", "fsync", "mkdir", "rmdir", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
load_script().main()
COUNT.write_text(str(calls[0]))
"""
IDS = {"id", "run", "history"}
PARTS = 8
"""Parts of the long tests, which can run at the same time."""


def options(arguments, *more: str) -> list[str]:
    """A run with everything that writes: checkpoints with a limit, scores with the best model, validation."""
    scores = ["--score_steps=1", "--judge=brightness_judge:brightness", "--num_score_images=2"]
    pictures = ["--validation_prompts", "a picture", "--num_validation_images=1", "--validation_steps=2"]
    others = ["--validation_base_steps=0", "--checkpoints_total_limit=1", "--twinflow_enabled", "--output_dir=out"]
    return arguments(*scores, *pictures, *others, *more)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of an output folder by path. Ids of runs differ from run to run and are left out."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".twinflow.lock"):
        content = path.read_bytes()
        if path.name in ("training_run.json", "checkpoint.json"):
            content = json.dumps({k: v for k, v in json.loads(content).items() if k not in IDS}).encode()
        if path.suffix == ".safetensors":  # the order of its metadata differs from call to call
            length = struct.unpack("<Q", content[:8])[0]
            header = json.loads(content[8 : 8 + length])
            content = json.dumps(header, sort_keys=True).encode() + content[8 + length :]
        found[str(path.relative_to(folder))] = content
    return found


def assert_same(found: dict[str, bytes], wanted: dict[str, bytes], what: str) -> None:
    assert found.keys() == wanted.keys(), what
    assert [name for name in wanted if found[name] != wanted[name]] == [], what


@pytest.fixture
def whole(start, arguments, tmp_path):
    """The files of a run that nobody stops, and how many calls into the operating system change its folder."""
    (tmp_path / "brightness_judge.py").write_text(JUDGE)
    start(options(arguments), code=KILLED, DIE_AT="0").check()
    files = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert {"scores.json", "best/twinflow_config.json", "validation/step-000002.png", "README.md"} <= files.keys()
    return files, int((tmp_path / "count").read_text())


def kill_at_points(start, arguments, tmp_path, whole, points) -> None:
    wanted, _ = whole
    for point in points:
        run = start(options(arguments), code=KILLED, DIE_AT=str(point))
        assert run.wait() == [-signal.SIGKILL], (point, run.outputs[0].read_text()[-2000:])
        start(options(arguments, "--resume_from_checkpoint=latest")).check()
        assert_same(contents(tmp_path / "out"), wanted, f"killed at call {point}")
        shutil.rmtree(tmp_path / "out")


def kill_at_random(start, arguments, tmp_path, whole, numbers: range, seconds: float) -> None:
    for i in numbers:
        choose = random.Random(i)
        number = choose.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        run = start(options(arguments))
        time.sleep(choose.uniform(0, seconds))
        os.kill(run.pids[0], number)
        run.wait()
        start(options(arguments, "--resume_from_checkpoint=latest")).check()
        assert_same(contents(tmp_path / "out"), whole[0], f"kill {i} by {number}")
        shutil.rmtree(tmp_path / "out")


@pytest.mark.slow
def test_killed_inside_a_file_operation(start, arguments, tmp_path, whole):
    calls = whole[1]
    assert calls > 100
    kill_at_points(start, arguments, tmp_path, whole, [round(calls * part) for part in (0.3, 0.62, 0.95)])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_inside_many_file_operations(start, arguments, tmp_path, whole, request, part):
    count = request.config.getoption("--kill-points")
    calls = whole[1]
    points = sorted({1 + i * calls // count for i in range(count)})
    kill_at_points(start, arguments, tmp_path, whole, points[part::PARTS])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_random(start, arguments, tmp_path, whole, request, part):
    count = request.config.getoption("--kill-points")
    kill_at_random(start, arguments, tmp_path, whole, range(part, max(1, count // 6), PARTS), seconds=8)
