"""The training script trains diffusion models as flows."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from tests.families import tiny_diffusion

ENABLED, ALLOWED, TWINFLOW = "--diff2flow_enabled", "--twinflow_allow_diff2flow", "--twinflow_enabled"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Tiny diffusion pipelines on disk, by name."""
    directories = {}
    for name in ("stable_diffusion", "pixart_sigma"):
        directories[name] = tmp_path_factory.mktemp(name)
        getattr(tiny_diffusion, name)().save_pretrained(directories[name])
    return directories


@pytest.fixture
def train(script, arguments, bases, tmp_path):
    def run(*options, base="stable_diffusion"):
        own = [f"--pretrained_model_name_or_path={bases[base]}", "--resolution=32", "--max_train_steps=2"]
        script.main(arguments(*own, "--max_sequence_length=16", *options))
        return tmp_path / "out"

    return run


def draw(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
    return pipeline("a picture", generator=torch.Generator().manual_seed(0), **options).images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--diff2flow_enabled .*--twinflow_allow_diff2flow"),
        ([ALLOWED], "--diff2flow_enabled"),
        ([TWINFLOW], "--diff2flow_enabled and --twinflow_allow_diff2flow"),
        ([TWINFLOW, ENABLED], "--diff2flow_enabled and --twinflow_allow_diff2flow"),
        ([TWINFLOW, ALLOWED], "--diff2flow_enabled and --twinflow_allow_diff2flow"),
    ],
    ids=str,
)
def test_without_the_bridge_a_diffusion_model_is_refused(train, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        train(*options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_plain_flow_matching_gives_a_stock_diffusion_model(train, bases, train_type):
    """The network still predicts the noise: it loads in stock diffusers and draws with its own scheduler."""
    out = train(ENABLED, f"--train_type={train_type}")
    base = StableDiffusionPipeline.from_pretrained(bases["stable_diffusion"])
    expected = draw(base)
    if train_type == "full":
        trained = StableDiffusionPipeline.from_pretrained(out)
    else:
        trained = base
        trained.load_lora_weights(out)
    assert isinstance(trained.scheduler, DDIMScheduler)
    drawn = draw(trained)
    assert drawn.isfinite().all() and not torch.allclose(drawn, expected)


@pytest.mark.parametrize(
    "variant", [["--mixed_precision=bf16"], ["--gradient_checkpointing", "--train_type=full"]], ids=" ".join
)
def test_variants_train_to_finite_weights(train, variant):
    out = train(TWINFLOW, "--twinflow_adversarial_enabled", ENABLED, ALLOWED, *variant)
    trained = load_file(out / "checkpoint-2" / "trained_weights.safetensors")
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in trained.values())
    scheduler = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "TwinFlowScheduler"
    assert {name: scheduler[name] for name in tiny_diffusion.SCHEDULE} == tiny_diffusion.SCHEDULE
    assert scheduler["prediction_type"] == "epsilon"


def test_a_lora_that_stock_diffusers_cannot_hold_is_refused(train):
    with pytest.raises(SystemExit, match="train_type=lora.*PixArtTransformer2DModel"):
        train(ENABLED, base="pixart_sigma")


def test_a_flow_family_with_a_diffusion_scheduler_is_refused(script, arguments, base_dir, tmp_path):
    directory = tmp_path / "mixed"
    directory.mkdir()
    for entry in base_dir.iterdir():
        if entry.name not in ("scheduler", "model_index.json"):
            (directory / entry.name).symlink_to(entry)
    index = json.loads((base_dir / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (directory / "model_index.json").write_text(json.dumps(index))
    DDIMScheduler().save_pretrained(directory / "scheduler")
    options = [f"--pretrained_model_name_or_path={directory}", TWINFLOW, ENABLED, ALLOWED]
    with pytest.raises(SystemExit, match="DDIMScheduler.*stable_diffusion_3 is a flow-matching family"):
        script.main(arguments(*options))
