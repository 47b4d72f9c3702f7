"""The training script as a user runs it, on a tiny Stable Diffusion 3."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusion3Pipeline
from safetensors.torch import load_file
from tensorboard.backend.event_processing import event_accumulator

from diffusers_twinflow.pipelines import TwinFlowPipeline
from tests.training_script import ENVIRONMENT, SCRIPT, all_options

TWINFLOW = ["--twinflow_enabled", "--twinflow_adversarial_enabled"]


def draw(pipeline, **options):
    generator = torch.Generator().manual_seed(0)
    return pipeline("a picture", generator=generator, output_type="pt", **options).images


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_twinflow_trains_and_loads(script, arguments, tmp_path, train_type):
    validation = ["--validation_prompts", "a picture", "b picture", "--num_validation_images=1"]
    script.main(arguments(*TWINFLOW, f"--train_type={train_type}", *validation))
    out = tmp_path / "out"
    assert (out / "validation" / "step-000004.png").is_file()
    pipeline = TwinFlowPipeline.from_pretrained(out)
    assert pipeline.transformer.twinflow_enabled
    conditioning = pipeline.transformer.time_conditioning.state_dict()
    assert conditioning["time_sign_embed.weight"][1].any() and not conditioning["time_sign_embed.weight"][0].any()
    images = draw(pipeline)
    assert pipeline.scheduler.num_inference_steps == 1
    assert torch.equal(images, draw(TwinFlowPipeline.from_pretrained(out)))


@pytest.mark.parametrize(
    "variant",
    [
        ["--gradient_checkpointing", "--mixed_precision=bf16", "--train_type=full"],
        pytest.param(["--gradient_checkpointing", "--train_type=full"], marks=pytest.mark.slow),
        pytest.param(["--gradient_checkpointing"], marks=pytest.mark.slow),
        pytest.param(["--mixed_precision=bf16"], marks=pytest.mark.slow),
        pytest.param(["--mixed_precision=bf16", "--train_type=full"], marks=pytest.mark.slow),
        ["--twinflow_image_free", "--twinflow_split_passes"],
        ["--lora_dropout=0.5", "--proportion_empty_prompts=0.5", "--random_flip"],
        ["--no-use_ema", "--twinflow_allow_no_ema_teacher"],
        ["--twinflow_ema_decay=1.0", "--train_type=full"],
    ],
    ids=" ".join,
)
def test_variants_train_to_finite_weights(script, arguments, tmp_path, variant):
    script.main(arguments(*TWINFLOW, *variant, "--max_train_steps=2"))
    trained = load_file(tmp_path / "out" / "checkpoint-2" / "trained_weights.safetensors")
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in trained.values())
    assert draw(TwinFlowPipeline.from_pretrained(tmp_path / "out")).isfinite().all()


def test_tensorboard_gets_losses_by_branch_and_pictures(script, arguments, tmp_path):
    validation = ["--validation_prompts", "a picture", "--num_validation_images=1"]
    script.main(arguments(*TWINFLOW, *validation, "--report_to=tensorboard", "--logging_steps=2"))
    log = event_accumulator.EventAccumulator(str(tmp_path / "out" / "logs" / "twinflow"))
    log.Reload()
    assert {"loss", "grad_norm", "lr", "loss/one_step", "loss/adversarial"} <= set(log.Tags()["scalars"])
    assert [event.step for event in log.Scalars("skipped_steps")] == [2, 4]
    assert [event.step for event in log.Images("validation")] == [4]


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_flow_matching_gives_a_stock_model(script, arguments, base_dir, tmp_path, train_type):
    script.main(arguments(f"--train_type={train_type}", "--weighting_scheme=logit_normal"))
    out = tmp_path / "out"
    assert not (out / "twinflow_config.json").exists()
    none = {"text_encoder_3": None, "tokenizer_3": None}
    options = {"num_inference_steps": 2, "max_sequence_length": 2}
    base = StableDiffusion3Pipeline.from_pretrained(base_dir, **none)
    if train_type == "full":
        trained = StableDiffusion3Pipeline.from_pretrained(out, **none)
    else:
        trained = StableDiffusion3Pipeline.from_pretrained(base_dir, **none)
        trained.load_lora_weights(out)
    assert not torch.equal(draw(trained, **options), draw(base, **options))


@pytest.mark.parametrize("train_type", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_resume_is_never_having_stopped(script, arguments, tmp_path, train_type):
    options = [*TWINFLOW, f"--train_type={train_type}", "--cache_latents", "--cache_text_embeddings", "--no-save_ema"]
    options += ["--lr_scheduler=cosine", "--gradient_accumulation_steps=2", "--lora_dropout=0.5"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    script.main(arguments(*options, f"--output_dir={whole}"))
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    more = ["--resume_from_checkpoint=latest", "--checkpoints_total_limit=1"]
    script.main(arguments(*options, f"--output_dir={stopped}", *more))
    assert [path.name for path in stopped.glob("checkpoint-*")] == ["checkpoint-4"]
    name = "checkpoint-4/trained_weights.safetensors"
    expected, resumed = load_file(whole / name), load_file(stopped / name)
    for key in expected:
        assert torch.equal(expected[key], resumed[key]), key


def test_configuration_file_and_arguments_over_it(script, arguments, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"rank": 7, "twinflow_enabled": True, "use_ema": False, "lora_layers": ["a", "b"]}))
    args = all_options(script.parse_args(["--config", str(path), "--rank=3"]))
    assert (args.rank, args.twinflow_enabled, args.use_ema, args.lora_layers) == (3, True, False, ["a", "b"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pretrained_model_name_or_path=nowhere/at-all"], "nowhere/at-all"),
        (["--dataset_name=/nowhere"], "dataset_name='/nowhere'"),
        (["--caption_column=words"], "caption_column='words'.*text"),
        (["--twinflow_target_step_count=0"], "twinflow_target_step_count=0"),
        (["--twinflow_enabled", "--no-use_ema"], "--twinflow_allow_no_ema_teacher"),
        (["--train_batch_size=0"], "train_batch_size=0"),
        (["--resume_from_checkpoint=checkpoint-9"], "checkpoint-9"),
    ],
)
def test_bad_input_is_one_clear_error(script, arguments, more, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read when the hub is imported
    with pytest.raises(SystemExit, match=f"(?s){message}"):
        script.main(arguments(*more))


@pytest.mark.parametrize(("options", "message"), [({"rnak": 4}, "rank"), ({"mixed_precision": "fp12"}, "fp12")])
def test_bad_configuration_files(script, arguments, tmp_path, capsys, options, message):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(options))
    with pytest.raises(SystemExit) as stopped:
        script.main(arguments(f"--config={path}"))
    assert message in str(stopped.value) + capsys.readouterr().err


def test_a_diffusion_model_is_refused(script, arguments, base_dir, tmp_path):
    directory = tmp_path / "epsilon"
    directory.mkdir()
    index = json.loads((base_dir / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (directory / "model_index.json").write_text(json.dumps(index))
    DDIMScheduler().save_pretrained(directory / "scheduler")
    with pytest.raises(SystemExit, match="--diff2flow_enabled and --twinflow_allow_diff2flow"):
        script.main(arguments(*TWINFLOW, f"--pretrained_model_name_or_path={directory}"))


@pytest.mark.slow
def test_interrupted_run_keeps_its_last_checkpoint(start, arguments, tmp_path):
    """Launched by accelerate, stopped by SIGTERM in the middle, resumed from where it was."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", str(SCRIPT)]
    long = arguments(*TWINFLOW, "--max_train_steps=100000", "--cache_latents", "--cache_text_embeddings")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*launch, *long], env=os.environ | ENVIRONMENT, start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("checkpoint-*[0-9]"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
    last = max(int(path.name.split("-")[1]) for path in out.glob("checkpoint-*[0-9]"))
    start(arguments(*TWINFLOW, f"--max_train_steps={last + 1}", "--resume_from_checkpoint=latest")).check()
    config = json.loads((out / "twinflow_config.json").read_text())
    assert config["trained"]["steps"] == last + 1
