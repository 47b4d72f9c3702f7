import json

import pytest

import small_batches

ARGUMENTS = ["--tiny", "--device=cpu", "--rank=2", "--warmup=1", "--runs=1"]


@pytest.mark.slow
def test_rows_have_seconds_launches_and_where_the_time_goes(tmp_path):
    output = tmp_path / "result.json"
    arguments = [*ARGUMENTS, f"--output={output}", "--parts", "lora_eager", "flow_matching_eager"]
    assert small_batches.main(small_batches.parse_args(arguments)) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [(row["way"], row["cuda_graphs"]) for row in rows] == [
        ("lora", True),
        ("lora", False),
        ("flow_matching", True),
        ("flow_matching", False),
    ]
    assert all(row["seconds"] > 0 and row["kernels"] > 0 and row["merged"] for row in rows)


@pytest.mark.slow
def test_parts_in_processes_keep_the_rows_that_they_wrote_before_their_limit(tmp_path):
    output = tmp_path / "result.json"
    arguments = [*ARGUMENTS, f"--output={output}", "--only_busy", "--limit=0.1", "--together_limit=300"]
    arguments += ["--together", "exact_no", "--parts", "flow_matching_eager"]
    assert small_batches.main(small_batches.parse_args(arguments)) == 1
    result = json.loads(output.read_text())
    assert [(row["part"], row["name"]) for row in result["rows"]] == [
        ("exact_no", "LoRA"),
        ("exact_no", "full weights"),
    ]
    assert all(row["equal_parameters"] == row["parameters"] > 100 for row in result["rows"])
    assert [failure["name"] for failure in result["failures"]] == ["flow_matching_eager", "flow_matching_eager"]
