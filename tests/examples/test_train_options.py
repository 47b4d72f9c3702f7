"""The option groups of the training script, launched as a user launches them or called where that proves the same."""

import json
import shutil
import sqlite3
import zipfile

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing import event_accumulator

from diffusers_twinflow import TwinFlowPipeline
from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.hub.grids import GridLayout
from diffusers_twinflow.options import options_of, type_of
from diffusers_twinflow.training.recipe import CLASSES
from diffusers_twinflow.training.trainer import Trainer
from tests.examples.trained_weights import equal, trained
from tests.sharding_on_cpu import FSDP
from tests.training_script import all_options

TWINFLOW = ["--twinflow_enabled", "--twinflow_adversarial_enabled"]
PROMPTS = ["--validation_prompts", "a picture", "b picture"]
JUDGE = """
calls = []

def falling(images, prompts):
    assert images.shape == (len(prompts), 3, 16, 16) and images.min() >= 0 and images.max() <= 1
    assert set(prompts) == {"a picture", "b picture"}
    calls.append(len(calls))
    return {"taste": 3.0 if calls == [0] else 5.0 - len(calls)}
"""


PROMPT_JUDGE = """
def corner(images, prompts):
    return images[[prompt == "a picture" for prompt in prompts], :, :4, :4].mean().item()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny image model and a tiny CLIP on disk."""
    from tests import tiny_scorers

    directory = tmp_path_factory.mktemp("models")
    tiny_scorers.save_image_model(directory / "vit")
    tiny_scorers.save_clip(directory / "clip")
    return directory


def tensorboard_log(directory):
    log = event_accumulator.EventAccumulator(str(directory))
    log.Reload()
    return log


@pytest.mark.slow
def test_every_tracker_offline(start, arguments, tmp_path):
    """One run that tells tensorboard, wandb, trackio and comet, each by accelerate, numbers and pictures."""
    trackers = ["--report_to", "tensorboard", "wandb", "trackio", "comet", "--tracker_project_name=digits"]
    more = ["--logging_steps=2", "--log_trajectory", "--num_validation_images=1", "--validation_base_steps=2"]
    start(arguments(*TWINFLOW, *PROMPTS, *trackers, *more), TRACKIO_DIR=str(tmp_path / "trackio")).check()
    logs = tmp_path / "out" / "logs"

    log = tensorboard_log(logs / "digits")
    numbers = {"loss", "grad_norm", "lr", "lr/time_conditioning", "teacher_decay", "samples_per_second", "memory_gib"}
    branches = {f"loss/{name}" for name in ("one_step", "any_step", "multi_step", "adversarial", "rectify")}
    assert numbers | branches | {"skipped_steps"} <= set(log.Tags()["scalars"])
    assert [event.step for event in log.Images("trajectory")] == [2, 4]
    assert [event.step for event in log.Images("validation")] == [4]

    (wandb_run,) = logs.glob("wandb/offline-run-*")
    table = json.loads(next(wandb_run.glob("files/media/table/trajectory/table_2_*.json")).read_text())
    assert table["columns"] == ["sigma", "target_time", "sign", "branch"] and len(table["data"]) == 8
    history = next(wandb_run.glob("*.wandb")).read_bytes()
    assert b"experimental/theory unverified" in history and b"loss/one_step" in history
    assert list(wandb_run.glob("files/media/images/validation_4_*.png"))

    with sqlite3.connect(tmp_path / "trackio" / "digits.db") as database:
        logged = b" ".join(row[0] for row in database.execute("SELECT metrics FROM metrics")).decode()
    assert "loss/adversarial" in logged and "trackio.image" in logged

    (comet_run,) = logs.glob("*.zip")
    with zipfile.ZipFile(comet_run) as archive:
        messages = archive.read("messages.json").decode()
    assert "loss/adversarial" in messages and messages.count("validation") > 0


def test_validation_leaves_training_as_it_was(script, arguments, tmp_path):
    """Pictures, scores and logging between the steps move no bit of what is trained."""
    often = ["--validation_steps=1", "--num_validation_images=2", "--validation_base_steps=2", "--logging_steps=1"]
    for name, more in {"without": [], "with": [*PROMPTS, *often, "--validation_step_counts", "1", "3"]}.items():
        dropout = ["--lora_dropout=0.5", "--random_flip", "--caption_dropout_probability=0.3"]
        script.main(arguments(*TWINFLOW, f"--output_dir={tmp_path / name}", *dropout, *more))
    assert equal(trained(tmp_path / "without", 4), trained(tmp_path / "with", 4))
    grids = sorted((tmp_path / "with" / "validation").iterdir())
    assert [path.name for path in grids] == [f"step-{step:06d}.png" for step in (1, 2, 3, 4)]
    between, last = (Image.open(grids[i]) for i in (2, 3))
    column = (last.width - between.width) // 2  # five columns and three
    assert column > 16
    card = (tmp_path / "with" / "README.md").read_text()
    assert "samples/steps.png" in card and "Columns: base, 2 steps; 1 step; 2 steps; 4 steps." in card
    samples = Image.open(tmp_path / "with" / "samples" / "steps.png")
    assert samples.width == last.width - column and samples.height > 2 * 16


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([], id="default"),
        pytest.param(["--lora_layers", "all-linear"], id="all-linear", marks=pytest.mark.slow),
    ],
)
def test_the_last_column_is_what_the_saved_adapter_draws(script, arguments, tmp_path, layers):
    """With EMA weights where those are saved, and the base's column is the stock pipeline's picture."""
    prompts = ["--validation_prompts", "a picture"]
    script.main(arguments(*TWINFLOW, *prompts, *layers, "--num_validation_images=1", "--validation_base_steps=2"))
    out = tmp_path / "out"
    options = {"height": 16, "width": 16, "output_type": "np"}

    def draw(pipeline, steps, **more):
        generator = torch.Generator().manual_seed(0)
        return pipeline("a picture", num_inference_steps=steps, generator=generator, **options, **more).images[0]

    grid = Image.open(out / "validation" / "step-000004.png").convert("RGB")
    labels = ("base, 2 steps", "1 step", "2 steps", "4 steps")
    layout = GridLayout(dict.fromkeys(labels, [Image.new("RGB", (16, 16))]), ["a picture"])
    assert grid.size == tuple(layout.size)
    cells = [np.asarray(grid.crop(box)) for box in layout.boxes[0]]
    pipeline = TwinFlowPipeline.from_pretrained(out, merge=False)
    for cell, steps in zip(cells[1:], (1, 2, 4)):
        assert np.array_equal(cell, (draw(pipeline, steps) * 255).round().astype("uint8"))
    base = StableDiffusion3Pipeline.from_pretrained(
        next(a for a in arguments() if "pretrained" in a).split("=")[1], text_encoder_3=None, tokenizer_3=None
    )
    assert np.array_equal(cells[0], (draw(base, 2, max_sequence_length=2) * 255).round().astype("uint8"))


def test_scores_stop_the_run_and_keep_the_best(start, arguments, models, tmp_path):
    """A judge of the user's decides; the Fréchet distance and the prompt score are taken beside it."""
    (tmp_path / "tasteful.py").write_text(JUDGE)
    scores = ["--score_steps=1", "--judge=tasteful:falling", "--score_metric=taste", "--num_score_images=5"]
    scores += [f"--frechet_model={models / 'vit'}", f"--prompt_score_model={models / 'clip'}"]
    more = ["--early_stopping_patience=2", "--max_train_steps=9", "--checkpointing_steps=1"]
    start(arguments(*TWINFLOW, *scores, *more, "--no-save_ema")).check()
    out = tmp_path / "out"
    written = json.loads((out / "scores.json").read_text())
    assert "| taste | 2 |" in (out / "README.md").read_text()
    assert [entry["taste"] for entry in written["scores"]] == [3.0, 3.0, 2.0] and written["best_step"] == 1
    assert all(entry["frechet_distance"] >= 0 and 0 <= entry["prompt_score"] <= 100 for entry in written["scores"])
    assert json.loads((out / "twinflow_config.json").read_text())["trained"]["steps"] == 3
    best, first = load_file(out / "best" / "pytorch_lora_weights.safetensors"), trained(out, 1)
    keys = {name: name.removeprefix("transformer.").replace(".weight", ".default.weight") for name in best}
    name, key = next((name, key) for name, key in keys.items() if key in first and "lora_A" in name)
    assert torch.equal(best[name], first[key]) and not torch.equal(best[name], trained(out, 3)[key])
    assert TwinFlowPipeline.from_pretrained(out / "best").twinflow_config.trained["steps"] == 1


@pytest.mark.slow
def test_two_processes_validate_score_and_report_together(start, arguments, tmp_path):
    """The losses and scores that one process has, with a copy of the model each and with a part of it each."""
    (tmp_path / "tasteful.py").write_text(PROMPT_JUDGE)
    scores = ["--score_steps=1", "--judge=tasteful:corner", "--num_score_images=8", "--max_train_steps=1"]
    more = [*PROMPTS, "--cache_latents", "--num_validation_images=1", "--report_to=tensorboard", "--logging_steps=1"]
    runs = {"one": (1, {}), "copies": (2, {}), "parts": (2, FSDP)}
    started = []
    for name, (processes, environment) in runs.items():
        place = [f"--output_dir={tmp_path / name}", f"--train_batch_size={4 // processes}"]
        started.append(start(arguments(*TWINFLOW, *scores, *more, *place), processes, **environment))
    for run in started:
        run.check()
    outputs = [tmp_path / name for name in runs]
    judged = [json.loads((out / "scores.json").read_text())["scores"][0]["judge"] for out in outputs]
    assert judged[1:] == pytest.approx([judged[0]] * 2, abs=2e-3) and judged[0] != 0
    logs = [tensorboard_log(out / "logs" / "twinflow") for out in outputs]
    for name in ("loss", "loss/one_step", "loss/any_step", "loss/multi_step", "loss/adversarial", "grad_norm"):
        one, *others = (log.Scalars(name)[0].value for log in logs)
        assert others == pytest.approx([one] * 2, rel=1e-5), name
    assert len({Image.open(out / "validation" / "step-000001.png").size for out in outputs}) == 1
    assert all((out / "best" / "pytorch_lora_weights.safetensors").is_file() for out in outputs)


@pytest.mark.slow
def test_the_average_of_flow_matching_is_sharded_like_the_model(start, arguments, tmp_path):
    """Two processes with a part of the model each save the average of one with all of it, resumed or not."""
    more = ["--train_type=full", "--use_ema", "--cache_latents", *PROMPTS, "--num_validation_images=1"]

    def run(name, processes, *options, **environment):
        place = [f"--output_dir={tmp_path / name}", f"--train_batch_size={4 // processes}"]
        return start(arguments(*more, *place, *options), processes, **environment)

    whole = [run("one", 1), run("parts", 2, **FSDP), run("stopped", 2, "--max_train_steps=2", **FSDP)]
    for started in whole:
        started.check()
    run("stopped", 2, "--resume_from_checkpoint=latest", **FSDP).check()
    path = "transformer/diffusion_pytorch_model.safetensors"
    one, parts, resumed = (load_file(tmp_path / name / path) for name in ("one", "parts", "stopped"))
    assert equal(parts, resumed)
    for name, tensor in one.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dry_run_reports_and_writes_nothing_else(start, arguments, tmp_path, processes):
    more = ["--dry_run", "--train_batch_size=3", "--gradient_accumulation_steps=2", "--max_train_steps=7200"]
    text = start(arguments(*TWINFLOW, *more, "--report_to=tensorboard", *PROMPTS), processes).check()
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} <= {"dry_run.json", "data_report.json"}
    report = json.loads((out / "dry_run.json").read_text())
    assert list(report["step_of_each_kind"]) == ["one_step", "any_step", "multi_step", "adversarial", "mixed"]
    costs = [*report["step_of_each_kind"].values(), report["image"]]
    assert all(cost["seconds"] > 0 and cost["memory_gib"] > 0 for cost in costs)
    assert report["samples_per_step"] == 6 * processes
    assert report["hours"] == pytest.approx(2 * report["step_of_each_kind"]["mixed"]["seconds"])
    assert "adversarial" in text and "7200 steps" in text


@pytest.mark.parametrize(
    ("options", "rate", "conditioning_rate"),
    [
        (["--optimizer=prodigy", "--learning_rate=1"], 1e-6, 1e-6),
        (["--use_8bit_adam", "--lr_scheduler=cosine_with_restarts", "--lr_num_cycles=2"], 1e-3, 1e-3),
        (["--lr_scheduler=polynomial", "--lr_power=2"], 0.25e-3, 0.25e-3),
        (["--scale_lr", "--time_conditioning_learning_rate=1e-4"], 4e-3, 4e-4),
    ],
    ids=["prodigy", "8bit", "polynomial", "scaled"],
)
def test_optimizers_and_rates(script, arguments, tmp_path, options, rate, conditioning_rate):
    """The rates after the second of four steps, and weights that have moved."""
    script.main(
        arguments(*TWINFLOW, "--checkpointing_steps=1", "--logging_steps=2", "--report_to=tensorboard", *options)
    )
    first, last = trained(tmp_path / "out", 1), trained(tmp_path / "out", 4)
    assert all(tensor.isfinite().all() for tensor in last.values()) and not equal(first, last)
    log = tensorboard_log(tmp_path / "out" / "logs" / "twinflow")
    assert log.Scalars("lr")[0].value == pytest.approx(rate, rel=1e-3)
    assert log.Scalars("lr/time_conditioning")[0].value == pytest.approx(conditioning_rate, rel=1e-3)


def test_epochs_are_counted_in_steps(script, arguments, tmp_path):
    """Eight images, each twice an epoch, in steps of eight: two steps an epoch."""
    epochs = ["--num_train_epochs=1", "--validation_epochs=1", "--repeats=2", *PROMPTS, "--num_validation_images=1"]
    epochs += ["--validation_base_steps=1", "--validation_step_counts", "1", "--no-save_ema"]
    given = [argument for argument in arguments() if "max_train_steps" not in argument]
    script.main([*given, *TWINFLOW, *epochs, "--num_train_epochs=2", "--train_batch_size=8"])
    assert sorted(path.name for path in (tmp_path / "out" / "validation").iterdir()) == [
        "step-000002.png",
        "step-000004.png",
    ]


@pytest.mark.parametrize("train_type", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_flow_matching_keeps_an_average_where_asked(script, arguments, tmp_path, train_type):
    """The average is saved, is not the last weights, and a resumed run has the same one."""
    more = [f"--train_type={train_type}", "--learning_rate=1e-2"]
    for name, ema in {"plain": [], "averaged": ["--use_ema"], "last": ["--use_ema", "--no-save_ema"]}.items():
        script.main(arguments(*more, *ema, f"--output_dir={tmp_path / name}"))
    shutil.copytree(tmp_path / "averaged" / "checkpoint-2", tmp_path / "stopped" / "checkpoint-2")
    resumed = ["--resume_from_checkpoint=latest", f"--output_dir={tmp_path / 'stopped'}"]
    script.main(arguments(*more, "--use_ema", *resumed))
    lora, full = "pytorch_lora_weights.safetensors", "transformer/diffusion_pytorch_model.safetensors"
    path = lora if train_type == "lora" else full
    saved = {name: load_file(tmp_path / name / path) for name in ("plain", "averaged", "last", "stopped")}
    assert equal(saved["plain"], saved["last"]) and not equal(saved["averaged"], saved["last"])
    assert equal(saved["averaged"], saved["stopped"])


def test_the_saved_arguments_are_a_configuration(script, arguments, tmp_path):
    """Every option but tokens comes back from the file, and the weights in it are in the training dtype."""
    options = ["--mixed_precision=bf16", "--no-upcast_before_saving", "--hub_token=secret", "--caption_column", "text"]
    script.main(arguments(*TWINFLOW, *options, "--max_train_steps=1"))
    path = tmp_path / "out" / "training_arguments.json"
    assert "secret" not in path.read_text()
    given = vars(all_options(script.parse_args(arguments(*TWINFLOW, *options, "--max_train_steps=1"))))
    read = vars(all_options(script.parse_args(["--config", str(path)])))
    differing = {name: value for name, value in given.items() if read[name] != value}
    assert differing == {"hub_token": "secret", "use_ema": None} and read["use_ema"] is True
    weights = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_help_is_in_groups(script):
    text = script.build_parser().format_help()
    for group in (
        "Model",
        "Data",
        "Optimizer",
        "Loop",
        "Output",
        "Validation and tracking",
        "Scores",
        "Hub",
        "TwinFlow",
    ):
        assert f"\n{group}" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--optimizer=prodigy"], "learning_rate=0.001.*learning_rate=1"),
        (["--optimizer=prodigy", "--use_8bit_adam"], "use_8bit_adam"),
        (["--report_to=tensorbord"], "tensorbord.*tensorboard"),
        (["--report_to=aim"], "pip install aim"),
        (["--score_steps=2"], "--frechet_model, --prompt_score_model or --judge"),
        (["--judge=json:loads"], "needs --score_steps"),
        (["--score_steps=2", "--judge=no_such_module:judge"], "no_such_module.*module:function"),
        (["--score_steps=2", "--judge=json:nothing"], "json:nothing"),
        (["--score_steps=2", "--frechet_model=org/model"], "org/model.*are not downloaded"),
        (["--validation_steps=0"], "validation_steps=0"),
        (["--resume_from_checkpoint=checkpoint-9"], "checkpoint-9.*latest"),
        (["--hub_token=secret", "--report_to", "tensorboard", "comet"], "comet.*would log the token"),
    ],
)
def test_refused_before_anything_is_loaded(script, arguments, more, message, monkeypatch):
    monkeypatch.setattr(Trainer, "load_pipeline", None)
    with pytest.raises(SystemExit, match=f"(?s){message}"):
        script.main(arguments(*TWINFLOW, *more))


def test_the_precision_is_that_of_accelerates_configuration_unless_given(script, arguments, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")

    def trainer(*more):
        options = script.parse_args(arguments(*more))
        return Trainer(None, options.arguments, options.method())

    assert trainer().arguments.mixed_precision == "bf16"
    assert trainer("--mixed_precision=no").arguments.mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(TwinFlowConfigError, match="mixed_precision='fp8'.*bf16"):
        trainer()


def test_a_run_ends_in_time_as_if_it_were_done(script, arguments, tmp_path):
    script.main(arguments("--max_train_minutes=0", "--logging_steps=1", "--max_train_steps=500", *TWINFLOW))
    described = json.loads((tmp_path / "out" / "twinflow_config.json").read_text())
    assert described["trained"]["steps"] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learning_rate=-1"], "--learning_rate=-1.0 is not valid: it must be above 0"),
        (["--learning_rate=nan"], "--learning_rate=nan"),
        (["--seed=-1"], "--seed=-1 .*from 0 to 4294967295"),
        (["--dataloader_num_workers=-1"], "--dataloader_num_workers=-1"),
        (["--twinflow_target_step_count=2000"], "--twinflow_target_step_count=2000 .*from 1 to 1000"),
        (["--validation_step_counts", "0", "1"], "--validation_step_counts=0"),
        (["--checkpoints_total_limit=0"], "--checkpoints_total_limit=0"),
        (["--checkpoints_total_limit=-1"], "--checkpoints_total_limit=-1"),
        (["--max_grad_norm=0"], "--max_grad_norm=0.0"),
        (["--adam_epsilon=0"], "--adam_epsilon=0.0"),
        (["--lora_dropout=1"], "--lora_dropout=1.0"),
        (["--resolution=1000000"], "--resolution=1000000 needs .* GiB for its pixels"),
        (["--mixed_precision=fp12"], "--mixed_precision"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_loaded(script, arguments, more, message, monkeypatch):
    monkeypatch.setattr(Trainer, "load_pipeline", None)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        script.main(arguments(*TWINFLOW, *more))


def test_every_number_has_a_range(script):
    numbers = [option for option in options_of(*CLASSES) if type_of(option).kind in (int, float)]
    without = [option.name for option in numbers if option.metadata["allowed"] is None]
    assert without == ["local_rank"], "what launchers give"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lora_layers", "nope", "to_q"], "--lora_layers=nope: .* has no layer of that name"),
        (["--lora_layers", "to_qq"], "Close names are .*to_q"),
        (["--lora_layers", "norm1"], "--lora_layers=norm1 is not valid: a LoRA cannot be added"),
        (["--resolution=64", "--cache_latents"], "does not support samples of 64 x 64 pixels .*pos_embed_max_size"),
        (["--aspect_ratio_buckets=32,64"], "does not support samples of 32 x 64 pixels"),
        (["--resolution=1024"], "does not support samples of 1024 x 1024 pixels"),
        (["--train_batch_size=1000000"], "--train_batch_size=1000000 is 125,000 times the 8 samples"),
    ],
)
def test_what_the_base_cannot_do_is_found_before_encoding(script, arguments, more, message, monkeypatch):
    for name in ("cache_latents", "TrainingData._latents_of"):
        monkeypatch.setattr(f"diffusers_twinflow.data.training_data.{name}", None)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        script.main(arguments(*TWINFLOW, *more))
