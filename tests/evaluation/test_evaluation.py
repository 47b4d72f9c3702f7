"""Whole evaluations of tiny models, through the command."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_twinflow import TwinFlowPipeline
from diffusers_twinflow.cli import main
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.grids import GridLayout
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline

PROMPTS = ["a fox", "b", "c d"]
FID = ["--metrics", "fid", "judge", "--fid_features", "plug_ins:features", "--judge", "plug_ins:brightness"]


@pytest.fixture
def evaluate(adapter, plug_ins, tmp_path):
    """Run the command on the tiny LoRA in `tmp_path`. Returns the exit status and the rows of `scores.json` by label."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))

    def run(*arguments, name="out", model=adapter):
        plain = ["--prompts", "prompts.txt", "--device", "cpu", "--output_dir", name, "--base_steps", "4"]
        status = main(["evaluate", str(model), *plain, *map(str, arguments)])
        path = tmp_path / name / "scores.json"
        rows = json.loads(path.read_text())["rows"] if path.is_file() else []
        return status, {row["label"]: row for row in rows}

    return run


def images_of(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def test_rows_are_what_the_pipelines_draw(evaluate, adapter, base_dir, tmp_path, capsys):
    """From the noise of one seed per image; the base as the stock pipeline calls it."""
    status, rows = evaluate(*FID, "--steps", 1, 2, "--images_per_prompt", 2, "--save_images", "--seed", 5)
    assert status == 0
    few = [f"base, {name}, {steps}" for name in ("euler", "unipc", "lcm") for steps in ("1 step", "2 steps")]
    assert list(rows) == ["base, 4 steps", *few, "TwinFlow, 1 step", "TwinFlow, 2 steps"]
    assert not any(row["error"] for row in rows.values())
    assert "fid" not in rows["base, 4 steps"]["scores"] and rows["TwinFlow, 1 step"]["scores"]["fid"] > 0

    base = load_stock_pipeline(FAMILIES["stable_diffusion_3"], base_dir)
    distilled = TwinFlowPipeline.from_pretrained(adapter)
    for label, pipeline, options in (
        ("base-4-steps", base, {"num_inference_steps": 4, "max_sequence_length": 2}),
        ("base-euler-2-steps", base, {"num_inference_steps": 2, "max_sequence_length": 2}),
        ("twinflow-2-steps", distilled, {"num_inference_steps": 2}),
    ):
        saved = images_of(tmp_path / "out" / "images" / label)
        assert list(saved) == [f"{i:05d}-{j:02d}.png" for i in range(3) for j in range(2)]
        for name, seed in (("00000-00.png", 5), ("00000-01.png", 6), ("00002-01.png", 10)):
            prompt = PROMPTS[int(name[:5])]
            (drawn,) = pipeline(prompt, generator=torch.Generator().manual_seed(seed), **options).images
            assert np.array_equal(saved[name], np.asarray(drawn)), (label, name)
        brightness = np.mean([image.mean() / 255 for image in saved.values()])
        shown = next(
            row for row in rows.values() if row["label"].replace(", ", "-").replace(" ", "-").lower() == label
        )
        assert shown["scores"]["judge"] == pytest.approx(brightness, rel=1e-5)
        assert shown["seconds_per_image"] > 0 and shown["device"] == "cpu"
    assert capsys.readouterr().out.splitlines() == [
        f"out/{name}" for name in ("scores.json", "scores.md", "curves.png", "grid.png")
    ]


def test_the_frechet_distance_is_taken_to_the_base_or_to_a_folder(evaluate, tmp_path):
    """To a folder of the base's own images, the distances are the same, and the base's is zero."""
    _, to_base = evaluate(*FID, "--steps", 1, "--schedulers", "none", "--save_images")
    folder = shutil.copytree(tmp_path / "out" / "images" / "base-4-steps", tmp_path / "reference" / "deep")
    _, to_folder = evaluate(
        *FID, "--steps", 1, "--schedulers", "none", "--reference_images", folder.parent, name="folder"
    )
    label = "TwinFlow, 1 step"
    assert to_folder[label]["scores"]["fid"] == pytest.approx(to_base[label]["scores"]["fid"], rel=1e-6)
    assert to_folder["base, 4 steps"]["scores"]["fid"] == pytest.approx(0, abs=1e-3)


def test_the_grid_has_a_column_per_row_and_few_images_are_saved(evaluate, tmp_path):
    evaluate("--metrics", "judge", "--judge", "plug_ins:brightness", "--steps", 1, "--images_per_prompt", 2)
    labels = ["base, 4 steps", *(f"base, {name}, 1 step" for name in ("euler", "unipc", "lcm")), "TwinFlow, 1 step"]
    layout = GridLayout({label: [Image.new("RGB", (16, 16))] * 3 for label in labels}, PROMPTS)
    grid = Image.open(tmp_path / "out" / "grid.png")
    assert grid.size == tuple(layout.size)
    saved = images_of(tmp_path / "out" / "images" / "twinflow-1-step")
    assert list(saved) == [f"{i:05d}-00.png" for i in range(3)]
    for i, image in enumerate(saved.values()):
        assert np.array_equal(np.asarray(grid.crop(layout.boxes[i][-1])), image)
    assert Image.open(tmp_path / "out" / "curves.png").width > 0


def test_images_do_not_depend_on_the_batch(evaluate, tmp_path):
    """Also those of the scheduler that draws fresh noise at every step."""
    judge = ["--metrics", "judge", "--judge", "plug_ins:brightness", "--save_images", "--schedulers", "lcm"]
    for batch_size in (1, 2):
        evaluate(*judge, "--steps", 2, "--batch_size", batch_size, name=str(batch_size))
    for row in ("base-lcm-2-steps", "twinflow-2-steps"):
        one, two = (images_of(tmp_path / name / "images" / row) for name in ("1", "2"))
        for name in one:
            assert np.abs(one[name].astype(int) - two[name]).max() <= 2, (row, name)


def test_a_stopped_evaluation_goes_on(evaluate, tmp_path, capsys):
    """Finished rows are not drawn again, and their images are still the reference of the Fréchet distance."""
    arguments = [*FID, "--schedulers", "euler", "--steps", 1]
    status, whole = evaluate(*arguments, name="whole")
    assert status == 0
    sys.modules["plug_ins"].brightness = stop_after(4, sys.modules["plug_ins"].brightness)
    status, partial = evaluate(*arguments)
    assert status == 130 and list(partial) == list(whole)[:1]
    del sys.modules["plug_ins"]
    before = (tmp_path / "out" / "images" / "base-4-steps" / "00000-00.png").stat().st_mtime_ns
    assert evaluate(*arguments)[0] == 0
    status, rows = evaluate(*arguments)
    assert status == 0 and "All rows are finished already" in capsys.readouterr().err
    assert (tmp_path / "out" / "images" / "base-4-steps" / "00000-00.png").stat().st_mtime_ns == before
    assert [row["scores"] for row in rows.values()] == [pytest.approx(row["scores"]) for row in whole.values()]
    status, more = evaluate(*arguments, 2)
    assert status == 0 and [label for label in more if label not in rows] == [
        "base, euler, 2 steps",
        "TwinFlow, 2 steps",
    ]
    assert all(more[label] == row for label, row in rows.items())
    assert evaluate(*arguments, "--seed", 1)[0] == 1
    assert "other settings (seed)" in capsys.readouterr().err
    status, again = evaluate(*arguments, "--seed", 1, "--restart")
    assert status == 0 and list(again) == list(whole)


def stop_after(calls, judge):
    counted = iter(range(calls))

    def stopped(images, prompts):
        if next(counted, None) is None:
            raise KeyboardInterrupt
        return judge(images, prompts)

    return stopped


def test_another_adapter_in_the_same_folder_is_noticed(evaluate, adapter, tmp_path, capsys):
    copied = shutil.copytree(adapter, tmp_path / "copy")
    judge = ["--metrics", "judge", "--judge", "plug_ins:brightness", "--steps", 1, "--no-base"]
    status, rows = evaluate(*judge, model="copy")
    assert status == 0 and list(rows) == ["TwinFlow, 1 step"]
    weights = next(copied.glob("*conditioning.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert evaluate(*judge, model="copy")[0] == 1
    assert "other settings (adapter)" in capsys.readouterr().err


def test_a_whole_model_is_compared_with_the_base_it_names(evaluate, adapter, model, tmp_path):
    judge = ["--metrics", "judge", "--judge", "plug_ins:brightness", "--steps", 1, "--save_images"]
    status, rows = evaluate(*judge, "--schedulers", "euler", model=model)
    assert status == 0 and list(rows) == ["base, 4 steps", "base, euler, 1 step", "TwinFlow, 1 step"]
    evaluate(*judge, "--schedulers", "euler", model=adapter, name="lora")
    of_model, of_lora = (images_of(tmp_path / name / "images" / "base-4-steps") for name in ("out", "lora"))
    assert all(np.array_equal(of_model[name], of_lora[name]) for name in of_lora)


def test_a_scheduler_that_does_not_fit_is_reported_and_the_rest_goes_on(evaluate, base_dir, adapter, tmp_path, capsys):
    base = shutil.copytree(base_dir, tmp_path / "inverted")
    path = base / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"invert_sigmas": True}))
    judge = ["--metrics", "judge", "--judge", "plug_ins:brightness", "--steps", 1]
    status, rows = evaluate(*judge, "--schedulers", "unipc", "euler", "--base_model", base)
    assert status == 0 and "unipc does not fit the base" in rows["base, unipc, 1 step"]["error"]
    assert rows["base, unipc, 1 step"]["scores"] == {} and rows["base, euler, 1 step"]["scores"]
    assert "'base, unipc, 1 step' cannot be generated" in capsys.readouterr().err
    assert "- base, unipc, 1 step could not be generated" in (tmp_path / "out" / "scores.md").read_text()


def test_every_metric_at_once(evaluate, scorers, tmp_path):
    lines = [
        {"prompt": "a dog", "tag": "one", "include": [{"class": "dog"}]},
        {"prompt": "a cat", "tag": "one", "exclude": [{"class": "dog"}]},
        {"prompt": "a sign", "text": "hello"},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, rows = evaluate(
        "--prompts=prompts.jsonl",
        "--fid_features=plug_ins:features",
        "--judge=plug_ins:brightness",
        "--ocr=plug_ins:read",
        f"--clip_model={scorers / 'clip'}",
        f"--detector={scorers / 'detector'}",
        "--detector_threshold=0",
        "--images_per_prompt=2",
        "--steps=1",
        "--schedulers=none",
    )
    assert status == 0
    scores = rows["TwinFlow, 1 step"]["scores"]
    assert set(scores) == {"fid", "clip_score", "judge", "objects", "objects/one", "text", "text_exact", "diversity"}
    assert scores["text"] == pytest.approx(0.8) and scores["objects"] == scores["objects/one"]
    settings = json.loads((tmp_path / "out" / "scores.json").read_text())["settings"]
    assert settings["prompts_checked_for_objects"] == 2 and settings["fid_reference"] == "base, 4 steps"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "none.txt"], "--prompts='none.txt' cannot be read"),
        (["--prompts", "empty.txt"], "contains no prompt"),
        (["--metrics", "judge"], "The metric judge needs --judge"),
        (["--metrics", "objects"], "The metric objects needs --detector"),
        (["--metrics", "diversity"], "needs --images_per_prompt of 2 or more"),
        (["--metrics", "text", "--ocr", "plug_ins:read"], "needs prompts with `text`"),
        (
            ["--metrics", "clip_score", "--judge", "plug_ins:brightness"],
            "--judge has no effect without the metric judge",
        ),
        (["--metrics", "clip_score", "--reference_images", "."], "--reference_images has no effect"),
        (["--judge", "plug_ins:nothing"], "--judge='plug_ins:nothing' cannot be loaded"),
        (["--metrics", "fid", "--fid_features", "plug_ins:nothing"], "--fid_features='plug_ins:nothing' cannot be"),
        (["--metrics", "fid", "--fid_features", "plug_ins:no_features"], "must take no arguments and return a torch"),
        (["--metrics", "fid", "--fid_features", "plug_ins:for_floats"], "is not usable (RuntimeError: "),
        (["--metrics", "fid", "--fid_features", "plug_ins:features", "--no-base"], "pass --reference_images"),
        (
            ["--metrics", "fid", "--fid_features", "plug_ins:features", "--reference_images", "images"],
            "contains 0 images",
        ),
        (["--clip_model", "empty"], "--clip_model='empty' cannot be loaded"),
        (["--schedulers", "none", "euler"], "--schedulers has none and other values"),
        (["--num_frames", "5"], "--num_frames=5 is not valid"),
        (["--height", "0"], "--height=0 must be 1 or more"),
        (["--steps", "0"], "--steps=0 is not valid"),
        (["--images_per_prompt", "0"], "--images_per_prompt=0 is not valid"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_loaded(evaluate, arguments, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(TwinFlowPipeline, "from_pretrained", None)
    status, _ = evaluate(*arguments)
    error = capsys.readouterr().err
    assert status == 1 and message in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "arguments", "message"),
    [
        ("torchmetrics", ["--metrics", "clip_score"], "The metric clip_score needs torchmetrics"),
        ("torch_fidelity", ["--metrics", "fid"], "or pass --fid_features"),
        ("rapidocr", ["--metrics", "text"], "pip install 'diffusers-twinflow[ocr]', or pass --ocr"),
        ("matplotlib", ["--judge", "plug_ins:brightness"], "pip install 'diffusers-twinflow[evaluate]'"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(evaluate, package, arguments, message, capsys, monkeypatch):
    found = __import__("importlib").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == package else found(name, *more)
    )
    monkeypatch.setattr(TwinFlowPipeline, "from_pretrained", None)
    assert evaluate(*arguments)[0] == 1
    error = capsys.readouterr().err
    assert message in error and f"needs {package}, which is not installed" in error


def test_an_adapter_without_a_base_is_refused(evaluate, adapter, tmp_path, capsys):
    copied = shutil.copytree(adapter, tmp_path / "copy")
    config = copied / "twinflow_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model": "/no/such/base"}))
    assert evaluate("--judge", "plug_ins:brightness", "--metrics", "judge", model=copied)[0] == 1
    assert "names the base model '/no/such/base', which is neither a directory" in capsys.readouterr().err


RUN = """
import sys
import torch
from diffusers_twinflow.cli import main
code = main(["evaluate", *sys.argv[1:]])
assert code or not torch.distributed.is_initialized(), "the processes did not leave their group"
sys.exit(code)
"""


@pytest.mark.slow
def test_two_processes_score_as_one(start, adapter, scorers, plug_ins, tmp_path):
    """Every metric of every row, also with more prompts for one process than for the other."""
    lines = [
        {"prompt": "a dog", "tag": "one", "include": [{"class": "dog"}]},
        {"prompt": "a sign", "text": "hello"},
        {"prompt": "a cat", "include": [{"class": "cat"}]},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = [adapter, "--prompts=prompts.jsonl", "--images_per_prompt=2", "--steps=2", "--base_steps=4"]
    arguments += ["--fid_features=plug_ins:features", "--judge=plug_ins:brightness", "--ocr=plug_ins:read"]
    arguments += [f"--clip_model={scorers / 'clip'}", f"--detector={scorers / 'detector'}", "--detector_threshold=0"]
    for name, processes in (("one", 1), ("two", 2)):
        printed = start([*arguments, f"--output_dir={name}"], processes, code=RUN).check()
        assert printed.count("Loading") == 1
    one, two = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("one", "two"))
    assert one["settings"] == two["settings"] and len(one["rows"]) == 5
    for row, other in zip(one["rows"], two["rows"], strict=True):
        assert other["scores"] == pytest.approx(row["scores"], rel=1e-6, abs=1e-9), row["label"]
    assert Image.open(tmp_path / "two" / "grid.png").tobytes() == Image.open(tmp_path / "one" / "grid.png").tobytes()

    (tmp_path / "one.txt").write_text("a")
    refused = start([adapter, "--prompts=one.txt", "--judge=plug_ins:brightness", "--metrics=judge"], 2, code=RUN)
    assert set(refused.wait()) == {1}
    errors = "".join(path.read_text() for path in refused.outputs)
    assert errors.count("number of processes (2) is larger") == 1
