import argparse
import json

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from at_real_size.latency import scheduler_seconds, speedups
from at_real_size.measuring import Report, measure

CPU = torch.device("cpu")


def report(path=None, minutes=1.0) -> Report:
    return Report(argparse.Namespace(device="cpu", tiny=True), path, minutes)


def test_a_part_that_fails_is_noted_and_the_next_one_runs(tmp_path):
    path = tmp_path / "results" / "out.json"
    notes = report(str(path))
    for name in ("first", "second"):
        with notes.guarded(name):
            if name == "first":
                raise torch.OutOfMemoryError("too big")
            notes.add({"name": name})
    written = json.loads(path.read_text())
    assert written["rows"] == [{"name": "second"}]
    assert [failure["name"] for failure in written["failures"]] == ["first"]
    assert "too big" in written["failures"][0]["traceback"]
    assert notes.exit_code() == 1


def test_nothing_begins_when_the_time_is_over():
    assert not report().is_over("part")
    late = report(minutes=0)
    assert late.is_over("part")
    assert late.exit_code() == 1


def test_timed_calls_come_after_the_warmup():
    calls = []
    row = measure(lambda: calls.append(1), CPU, warmup=2, runs=3)
    assert len(calls) == 5
    assert len(row["all_seconds"]) == row["runs"] == 3


def test_steps_of_a_scheduler_are_timed_and_then_left_alone():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(3)
    sample = torch.zeros(1, 1, 2, 2)
    with scheduler_seconds(scheduler, CPU) as taken:
        for t in scheduler.timesteps:
            scheduler.step(sample, t, sample)
    assert taken["calls"] == 3 and taken["host_seconds"] > 0
    assert "step" not in vars(scheduler)


def test_speedups_compare_denoising_within_a_model():
    def row(model, way, steps, seconds, what="denoising"):
        return {"part": "latency", "model": model, "way": way, "steps": steps, "seconds": seconds, "what": what}

    rows = [
        row("a", "stock", 28, 28.0),
        row("a", "TwinFlow", 2, 1.0),
        row("a", "TwinFlow", 2, 2.0, "picture"),
        row("b", "TwinFlow", 1, 1.0),
        {"part": "training"},
    ]
    assert speedups(rows) == [{"model": "a", "way": "TwinFlow", "steps": 2, "stock_steps": 28, "times_faster": 28.0}]
