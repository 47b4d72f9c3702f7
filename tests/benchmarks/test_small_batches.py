import json
import shutil

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


@pytest.mark.slow
def test_starts_take_the_same_steps_with_an_empty_and_a_filled_cache_and_in_another_version(tmp_path, monkeypatch):
    """The blocks run without the compiler here, because it takes minutes on a CPU."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    other = shutil.copytree("src", tmp_path / "src")
    output = tmp_path / "result.json"
    arguments = [*ARGUMENTS, f"--output={output}", "--limit=500", f"--before={other}"]
    arguments += ["--starts", "lora", "flow_matching", "--again", "lora"]
    with (other / "diffusers_twinflow/__init__.py").open("a", encoding="utf-8") as file:
        file.write('\n__version__ = "before"\n')
    assert small_batches.main(small_batches.parse_args(arguments)) == 0
    rows = json.loads(output.read_text())["rows"]
    starts = ["lora_first", "lora_again", "flow_matching_first"]
    assert [row["part"] for row in rows] == [start + version for start in starts for version in ("", "_before")]
    assert all((row["package_version"] == "before") == row["part"].endswith("_before") for row in rows)
    lora, flow_matching = (
        {str(row["warmup_gradient_norms"]) for row in rows if row["way"] == way} for way in ("lora", "flow_matching")
    )
    assert len(lora) == len(flow_matching) == 1 and lora != flow_matching
