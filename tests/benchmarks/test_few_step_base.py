import json

import pytest

import few_step_base


@pytest.mark.slow
def test_every_way_is_trained_and_scored(tmp_path):
    output = tmp_path / "rows.json"
    arguments = ["--distillation_steps=2", "--steps=2", "--batch_size=4", "--samples=100"]
    given = [*arguments, f"--data_dir={tmp_path / 'data'}", f"--output={output}"]
    few_step_base.main(few_step_base.parse_benchmark_args(given))
    rows = json.loads(output.read_text())["rows"]
    assert [row["name"] for row in rows] == list(few_step_base.WAYS)
    for row in rows:
        assert set(row["scores"]) == {"1", "2", "4"}
        assert all(score["frechet_distance"] > 0 for score in row["scores"].values())


def test_only_the_few_step_models_guidance_is_left_out():
    assert few_step_base.WAYS["TwinFlow"][1] == {"twinflow_enhanced_ratio": 0.0}
