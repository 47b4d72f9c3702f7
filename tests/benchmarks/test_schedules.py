import json

import pytest

import schedules


@pytest.mark.slow
def test_a_run_is_trained_and_scored(tmp_path):
    output = tmp_path / "schedules.json"
    arguments = ["--steps=2", "--batch_size=4", "--seeds", "0", "--samples=100", f"--data_dir={tmp_path / 'data'}"]
    chosen = ["--schedules", "falls over the last 60%", f"--output={output}"]
    schedules.main(schedules.parse_benchmark_args([*arguments, *chosen]))
    (row,) = json.loads(output.read_text())["rows"]
    assert row["schedule"] == "falls over the last 60%" and row["seconds"] > 0
    assert set(row["scores"]) == {"1", "2"}
    assert all(score["frechet_distance"] > 0 and 0 <= score["agreement"] <= 1 for score in row["scores"].values())


def test_the_schedules_differ_in_the_rate_alone():
    assert all(options.keys() <= {"lr_scheduler"} for options in schedules.SCHEDULES.values())
