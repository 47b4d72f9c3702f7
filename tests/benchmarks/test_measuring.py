import argparse
import functools
import json

import torch

from at_real_size.latency import speedups
from at_real_size.measuring import Report, measure, measure_in_turns
from at_real_size.where_a_call_goes import covered

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


def test_works_take_turns_after_a_call_of_each():
    calls = []
    works = {name: functools.partial(calls.append, name) for name in "ab"}
    warmups = {name: functools.partial(calls.append, f"first {name}") for name in "ab"}
    rows = measure_in_turns(works, warmups, CPU, runs=2)
    assert calls == ["first a", "first b", "a", "b", "a", "b"]
    assert [row["runs"] for row in rows.values()] == [2, 2]
    assert all(row["graphs_in_timed_calls"] == 0 for row in rows.values())


def test_a_graph_that_is_made_in_a_timed_call_is_told():
    double = torch.compile(lambda x: x * 2, backend="eager")
    warmed = torch.compile(lambda x: x * 3, backend="eager")
    works = {"late": lambda: double(torch.ones(2)), "warm": lambda: warmed(torch.ones(2))}
    rows = measure_in_turns(works, {"late": lambda: None, "warm": works["warm"]}, CPU, runs=2)
    assert [row["graphs_in_timed_calls"] for row in rows.values()] == [1, 0]


def test_time_that_is_covered_twice_counts_once():
    assert covered([(0, 2), (1, 3), (1, 2), (5, 6)]) == 4
    assert covered([]) == 0


def test_speedups_compare_denoising_in_the_same_setting_of_a_model():
    def row(model, way, steps, seconds, batch=1, compiled=False, graphs=False):
        setting = {"batch": batch, "compiled": compiled, "graphs": graphs, "what": "denoising"}
        return {"part": "latency", "model": model, "way": way, "steps": steps, "seconds": seconds, **setting}

    rows = [
        row("a", "stock", 28, 28.0),
        row("a", "TwinFlow", 2, 1.0),
        row("a", "TwinFlow", 2, 3.0, batch=4),
        row("a", "TwinFlow", 2, 0.5, compiled=True),
        row("a", "stock", 28, 21.0, compiled=True),
        row("a", "TwinFlow", 2, 0.25, graphs=True),
        row("b", "TwinFlow", 1, 1.0),
        {"part": "training"},
    ]
    found = [(entry["compiled"], entry["batch"], entry["times_faster"]) for entry in speedups(rows)]
    assert found == [(False, 1, 28.0), (True, 1, 42.0)]
