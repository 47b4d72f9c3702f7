"""The training script with --push_to_hub, and loading the result, each in a new process."""

import json
from pathlib import Path

import pytest

from tests.training_script import SCRIPT

RUN = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
LOUD_RUN = f"""
import logging
requests = logging.getLogger("huggingface_hub.utils._http")
requests.setLevel(logging.DEBUG)
requests.addHandler(logging.StreamHandler())
{RUN}
"""
DRAW = """
import sys, torch
from diffusers_twinflow import TwinFlowPipeline
pipe = TwinFlowPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
images = pipe("a picture", generator=torch.Generator().manual_seed(0), output_type="np").images
print(type(pipe).__name__, images.shape, images.tobytes().hex())
"""
UPLOAD = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo(sys.argv[2]); HfApi().upload_folder(repo_id=sys.argv[2], folder_path=sys.argv[1])
"""
FROM_PYTHON = """
import sys
from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
base, images, output, repository = sys.argv[1:]
arguments = TrainingArguments(
    base, instance_data_dir=images, output_dir=output, resolution=16, max_sequence_length=2, rank=2,
    train_batch_size=4, max_train_steps=1, hub_base_model="me/tiny-base",
)
trainer = Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True, twinflow_target_step_count=2)))
try:
    trainer.push_to_hub(repository)
except TwinFlowConfigError as error:
    print("before:", error)
trainer.train()
trainer.push_to_hub(repository)
print("arguments:", trainer.arguments.hub_model_id)
"""
TOKEN = "hf_writer"


def arguments(base_dir, image_dir, output_dir, **changes):
    options = {
        "pretrained_model_name_or_path": base_dir,
        "instance_data_dir": image_dir,
        "output_dir": output_dir,
        "resolution": 16,
        "max_sequence_length": 2,
        "rank": 2,
        "train_batch_size": 4,
        "max_train_steps": 2,
        "learning_rate": 1e-2,
        "validation_prompts": "a picture",
        "num_validation_images": 1,
        "validation_base_steps": 0,
        "twinflow_target_step_count": 2,
        "hub_base_model": "me/tiny-base",
    } | changes
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [*given, "--twinflow_enabled", "--push_to_hub"]


@pytest.fixture(scope="module")
def hub_with_base(hub, base_dir):
    hub.run(UPLOAD, base_dir, "me/tiny-base").check()
    return hub


def assert_nowhere(text: str, *places: Path) -> None:
    for place in places:
        for path in [place, *place.rglob("*")]:
            assert path.is_dir() or text.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("train_type", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_what_is_trained_is_pushed_and_draws_the_same_elsewhere(
    hub_with_base, base_dir, image_dir, tmp_path, train_type
):
    hub, output_dir, home = hub_with_base, tmp_path / "run", tmp_path / "another machine"
    command = arguments(base_dir, image_dir, output_dir, train_type=train_type, hub_model_id=f"trained-{train_type}")
    command += ["--hub_token", TOKEN, "--hub_private_repo", "--report_to", "tensorboard"]
    trained = hub.run(LOUD_RUN, *command, token=None, HF_DEBUG="1").check()
    assert "curl -X POST" in trained.stderr and hub.url in trained.stderr, "the client logs its requests"
    name = f"me/trained-{train_type}"
    assert len(hub.history(name)) == 2
    assert not [path for path in hub.tree(name) if path.startswith(("checkpoint", "logs", "training_arguments"))]
    assert {"README.md", "samples/steps.png", "twinflow_config.json"} <= hub.tree(name)

    assert TOKEN not in trained.stdout + trained.stderr
    assert_nowhere(TOKEN, output_dir)
    pulled = hub.run(DRAW, name, home=home).check().stdout
    assert pulled == hub.run(DRAW, output_dir, home=home).check().stdout
    assert pulled.startswith("StableDiffusion3Pipeline (1, 16, 16, 3)")
    (config,) = home.rglob("twinflow_config.json")
    values = json.loads(config.read_text())
    assert values["base_model"] == "me/tiny-base" and values["train_type"] == train_type
    assert str(tmp_path) not in config.read_text() and str(base_dir) not in config.read_text()


@pytest.mark.parametrize(
    ("changes", "token", "message"),
    [
        ({"hub_model_id": "me/new"}, None, "you are not logged in to push"),
        pytest.param(
            {"hub_model_id": "me/new"}, "hf_unknown", "you are not logged in to push", marks=pytest.mark.slow
        ),
        ({"hub_model_id": "me/new"}, "hf_my_reader", "can only read"),
        pytest.param({"hub_model_id": "a b"}, "hf_writer", "is not a Hub id", marks=pytest.mark.slow),
        pytest.param(
            {"hub_model_id": "me/new", "hub_base_model": ""}, "hf_writer", "--hub_base_model", marks=pytest.mark.slow
        ),
        pytest.param({"hub_model_id": ""}, "hf_writer", "needs --hub_model_id", marks=pytest.mark.slow),
    ],
)
def test_refused_before_anything_is_loaded(hub, base_dir, image_dir, tmp_path, changes, token, message):
    refused = hub.run(RUN, *arguments(base_dir, image_dir, tmp_path / "run", **changes), token=token)
    assert refused.returncode == 1 and message in refused.stderr and "Traceback" not in refused.stderr
    assert hub.history("me/new") == [] and not (tmp_path / "run").exists()


def test_a_refused_push_keeps_the_result_and_says_how_to_go_on(hub_with_base, base_dir, image_dir, tmp_path):
    hub, output_dir = hub_with_base, tmp_path / "run"
    hub.fault("POST /api/models/me/later/commit", status=403)
    refused = hub.run(RUN, *arguments(base_dir, image_dir, output_dir, hub_model_id="me/later"))
    assert refused.returncode == 1 and f"diffusers-twinflow push {output_dir} me/later" in refused.stderr
    assert "me/later' is on the Hub without files" in refused.stderr and "Traceback" not in refused.stderr
    assert hub.tree("me/later") == set()
    again = "import sys; from diffusers_twinflow.cli import main; sys.exit(main(sys.argv[1:]))"
    hub.run(again, "push", output_dir, "me/later", "--base_model", "me/tiny-base").check()
    assert "twinflow_config.json" in hub.tree("me/later")


def test_the_trainer_pushes_when_it_is_called(hub_with_base, base_dir, image_dir, tmp_path):
    hub, output_dir = hub_with_base, tmp_path / "run"
    done = hub.run(FROM_PYTHON, base_dir, image_dir, output_dir, "from-python").check()
    assert "before:" in done.stdout and str(output_dir) in done.stdout
    assert "arguments: None" in done.stdout
    assert {"README.md", "pytorch_lora_weights.safetensors", "twinflow_config.json"} <= hub.tree("me/from-python")
    assert '"me/from-python"' in (output_dir / "README.md").read_text()
    pulled = hub.run(DRAW, "me/from-python", home=tmp_path / "another machine").check().stdout
    assert pulled == hub.run(DRAW, output_dir).check().stdout
