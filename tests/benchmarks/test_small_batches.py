import json

import pytest

import small_batches


@pytest.mark.slow
def test_rows_have_seconds_launches_and_where_the_time_goes(tmp_path):
    output = tmp_path / "result.json"
    arguments = ["--tiny", "--device=cpu", "--rank=2", "--warmup=1", "--runs=1", f"--output={output}"]
    assert (
        small_batches.main(small_batches.parse_args([*arguments, "--parts", "lora_eager", "flow_matching_eager"])) == 0
    )
    rows = json.loads(output.read_text())["rows"]
    assert [(row["way"], row["cuda_graphs"]) for row in rows] == [
        ("lora", False),
        ("lora", True),
        ("flow_matching", False),
    ]
    assert all(row["seconds"] > 0 and row["kernels"] > 0 and row["merged"] for row in rows)
