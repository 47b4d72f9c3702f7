"""A modular repository on the Hub, as diffusers writes it, is trained. The result is pushed and pulled."""

import json
from pathlib import Path

import pytest
import torch

PUSH_BASE = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi
from tests.modular import tiny
folder = Path(sys.argv[1])
tiny.anima().save_pretrained(str(folder / "whole"), repo_id="me/anima", push_to_hub=True)
api = HfApi()
api.create_repo("me/anima-vae")
api.upload_folder(repo_id="me/anima-vae", folder_path=folder / "whole" / "vae", path_in_repo="first")
index = json.loads((folder / "whole" / "modular_model_index.json").read_text())
places = {name: each[2] for name, each in index.items() if name[0] != "_" and each[0] is not None}
for name, place in places.items():
    place |= {"pretrained_model_name_or_path": "me/anima", "subfolder": name}
places["vae"] |= {"pretrained_model_name_or_path": "me/anima-vae", "subfolder": "first"}
(folder / "index").mkdir()
(folder / "index" / "modular_model_index.json").write_text(json.dumps(index))
api.create_repo("me/anima-index")
api.upload_folder(repo_id="me/anima-index", folder_path=folder / "index")
"""
TRAIN = """
import sys
from pathlib import Path
from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
base, output, train_type, repository = sys.argv[1:]
Path(output).mkdir()
(Path(output) / "prompts.txt").write_text("a\\na picture with more words\\n")
arguments = TrainingArguments(
    base, output_dir=output + "/out", prompts_file=output + "/prompts.txt", resolution=32, max_train_steps=2, rank=2,
    train_batch_size=2, learning_rate=3e-2, save_ema=False, train_type=train_type,
)
config = TwinFlowConfig(
    twinflow_enabled=True, twinflow_image_free=True, twinflow_adversarial_enabled=True, twinflow_target_step_count=2
)
trainer = Trainer(None, arguments, TwinFlow(config))
trainer.train()
assert not trainer.problems
trainer.push_to_hub(repository)
"""
DRAW = """
import sys, torch
source, output, way = sys.argv[1:4]
CALL = {"prompt": "a fox", "height": 32, "width": 32, "output_type": "pt", "num_inference_steps": 2}
if way == "ours":
    from diffusers_twinflow import TwinFlowPipeline
    modular = TwinFlowPipeline.from_pretrained(source).to_modular()
else:
    from diffusers import ModularPipeline
    from diffusers_twinflow import TwinFlowScheduler
    modular = ModularPipeline.from_pretrained(source)
    modular.load_components()
    modular.guider.disable()
    if way == "stock model":
        modular.scheduler = TwinFlowScheduler.from_pretrained(source, subfolder="scheduler")
    elif way != "base":
        names = {"modular": modular}
        exec(way, names)
        modular = names["pipe"].to_modular()
    assert type(modular).__name__ == "AnimaModularPipeline"
modular.set_progress_bar_config(disable=True)
torch.manual_seed(0)
torch.save(modular(**CALL, generator=torch.Generator().manual_seed(0)).get("latents"), output)
"""
PULL = "import sys; from huggingface_hub import hf_hub_download; print(hf_hub_download(*sys.argv[1:]))"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def base(hub, tmp_path_factory):
    """A whole repository, and one that has only an index. Its autoencoder is in a third one."""
    hub.run(PUSH_BASE, tmp_path_factory.mktemp("base")).check()
    assert hub.tree("me/anima-index") == {"modular_model_index.json"}
    assert {"modular_model_index.json", "transformer/config.json"} <= hub.tree("me/anima")
    return "me/anima-index"


def drawn(hub, path, source, way, home):
    hub.run(DRAW, source, path, way, home=home).check()
    return torch.load(path)


@pytest.fixture(scope="module")
def lora(hub, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "run"
    hub.run(TRAIN, base, folder, "lora", "me/anima-lora", home=folder.parent / "home").check()
    return folder / "out"


def test_a_lora_goes_to_the_hub_and_back(hub, base, lora, tmp_path):
    assert {"pytorch_lora_weights.safetensors", "twinflow_config.json", "README.md"} <= hub.tree("me/anima-lora")
    assert json.loads((lora / "twinflow_config.json").read_text())["base_model"] == base
    pulled = drawn(hub, tmp_path / "pulled.pt", "me/anima-lora", "ours", tmp_path / "home")
    assert torch.equal(pulled, drawn(hub, tmp_path / "local.pt", lora, "ours", tmp_path / "home"))
    before = drawn(hub, tmp_path / "base.pt", base, "base", tmp_path / "home")
    assert pulled.isfinite().all() and (pulled - before).abs().max() > 1e-3


def test_the_code_of_the_card_draws_the_same(hub, base, lora, tmp_path):
    path = hub.run(PULL, "me/anima-lora", "README.md", home=tmp_path / "card").check().stdout.strip()
    blocks = Path(path).read_text().split("```python\n")
    block = next(each for each in blocks if "load_twinflow_lora" in each.split("```")[0])
    lines = block.split("```")[0].splitlines()
    others = (".images[0]", "modular =", "unload_twinflow_lora(pipe)")
    code = "\n".join(line for line in lines if not any(each in line for each in others))
    assert '"me/anima-lora"' in code
    found = drawn(hub, tmp_path / "card.pt", base, code, tmp_path / "home")
    expected = drawn(hub, tmp_path / "ours.pt", "me/anima-lora", "ours", tmp_path / "home")
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.slow
def test_a_whole_model_goes_to_the_hub_and_back(hub, base, tmp_path):
    hub.run(TRAIN, base, tmp_path / "run", "full", "me/anima-model", home=tmp_path / "training").check()
    path = hub.run(PULL, "me/anima-model", "modular_model_index.json", home=tmp_path / "pull").check().stdout.strip()
    index = json.loads(Path(path).read_text())
    places = {each[2]["pretrained_model_name_or_path"] for name, each in index.items() if name[0] != "_" and each[0]}
    assert places == {"me/anima-model"}
    pulled = drawn(hub, tmp_path / "pulled.pt", "me/anima-model", "ours", tmp_path / "home")
    assert torch.equal(pulled, drawn(hub, tmp_path / "local.pt", tmp_path / "run" / "out", "ours", tmp_path / "home"))
    stock = drawn(hub, tmp_path / "stock.pt", "me/anima-model", "stock model", tmp_path / "another home")
    assert stock.isfinite().all() and not torch.equal(stock, pulled)  # stock classes cannot take Anima's target time
