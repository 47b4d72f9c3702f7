import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from base import load_base
from comparison import samples_of_digit, save_comparison
from demo import PROMPTS, parse_args
from judge import DigitJudge, extract_features
from PIL import Image
from report import format_targets, targets
from score import Column, base_column, draw_samples, format_table, initial_noise, score_column, twinflow_column

from tests.training_script import ROOT


def test_columns_count_the_evaluations(base_dir):
    pipeline = load_base(base_dir)
    columns = [base_column(pipeline, 50, 2.0), base_column(pipeline, 1, 1.0), twinflow_column(pipeline, 4)]
    assert [(column.name, column.evaluations) for column in columns] == [
        ("base, 100 evaluations", 100),
        ("base, 1 evaluation", 1),
        ("TwinFlow, 4 steps", 4),
    ]


@pytest.mark.parametrize(("guidance_scale", "evaluations"), [(2.0, 6), (1.0, 3)])
def test_evaluations_are_those_the_transformer_makes(base_dir, guidance_scale, evaluations):
    pipeline, seen = load_base(base_dir), []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    column = base_column(pipeline, 3, guidance_scale)
    draw_samples(column, initial_noise(pipeline, 10, seed=0), batch_size=10, seed=0)
    assert sum(seen) == 10 * evaluations == 10 * column.evaluations


def test_samples_do_not_depend_on_the_batches(base_dir):
    pipeline = load_base(base_dir)
    column, latents = base_column(pipeline, 1, 1.0), initial_noise(pipeline, 20, seed=0)
    whole = draw_samples(column, latents, batch_size=20, seed=0)
    torch.testing.assert_close(draw_samples(column, latents, batch_size=8, seed=0), whole, atol=1e-5, rtol=0)


def test_row_of_scores():
    images = torch.rand(40, 3, 32, 32)
    asked = []

    def draw(prompts, latents, generator):
        asked.extend(prompts)
        return images[len(asked) - len(prompts) : len(asked)]

    judge = DigitJudge().eval().requires_grad_(False)
    reference = extract_features(judge, images)
    row, drawn = score_column(Column("same", 1, draw), judge, reference, torch.zeros(40, 4, 8, 8), batch_size=16)
    assert asked == PROMPTS * 4 and torch.equal(drawn, images)
    assert row["frechet_distance"] == pytest.approx(0, abs=1e-6) and 0 <= row["agreement"] <= 1
    assert "same" in format_table([row])


def test_cells_hold_the_samples_of_their_digit(striped_columns):
    images = striped_columns["TwinFlow, 1 step"]
    cell = torch.from_numpy(samples_of_digit(images, 7, 2)).permute(2, 0, 1)
    assert torch.equal(cell, torch.cat([images[7], images[17]], dim=2))


def test_comparison_picture(striped_columns, tmp_path):
    save_comparison(striped_columns, PROMPTS, tmp_path / "comparison.png", samples_per_cell=2)
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.width > 400 and picture.height > 1000


def test_targets_are_judged_as_measured():
    base, one_step = {"agreement": 0.98, "frechet_distance": 4.0}, {"agreement": 0.961, "frechet_distance": 6.1}
    rows = targets(base, one_step, 0.99, {"training": 300.0, "total": 481.0}, 0.0)
    assert [row["reached"] for row in rows] == [True, True, False, True, False, True]
    assert format_targets(rows).count("MISSED") == 2


def test_unknown_arguments_go_to_the_training_script():
    args, extra = parse_args(["--num_samples", "200", "--max_train_steps", "3"])
    assert args.num_samples == 200 and extra == ["--max_train_steps", "3"]


@pytest.mark.parametrize("arguments", [["--num_samples", "55"], ["--base_guidance_scale", "1"]])
def test_arguments_that_make_no_sense_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        parse_args(arguments)
    assert f"{arguments[0]}=" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_shows_no_messages_of_libraries(tmp_path):
    """In a new interpreter, because libraries print messages when they are imported."""
    command = [sys.executable, "examples/digits/demo.py", "--output_dir", str(tmp_path / "out")]
    command += ["--data_dir", str(tmp_path / "data"), "--num_samples", "100", "--max_train_steps", "2"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "== scoring" in run.stdout
    found = re.findall(r".*(?:torchao|\[transformers\]|Warning|Loading|Generating|deprecat).*", run.stdout)
    assert not found


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_with_one_line(tmp_path):
    folders = ["--output_dir", str(tmp_path / "demo"), "--data_dir", str(tmp_path / "data")]
    command = [sys.executable, "examples/digits/demo.py", *folders]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as process:
        assert any(line.startswith("== judge") for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors
    assert errors.endswith("The demo was stopped. Run it again to start from the beginning.\n")
