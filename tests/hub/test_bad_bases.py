"""The base of an untrusted LoRA is checked like a whole model, before anything is built from it."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.base_loading import load_base
from diffusers_twinflow.hub.files import CONFIG_NAME
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from tests.hub.hostile import KINDS, Trap, attempt, good_repositories

FAMILY = FAMILIES["stable_diffusion_3"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def change_json(name, **values):
    def change(directory):
        path = directory / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))

    return change


def drop_half(component):
    def change(directory):
        (path,) = (directory / component).glob("*.safetensors")
        tensors = load_file(path)
        save_file(dict(sorted(tensors.items())[::2]), path, {"format": "pt"})

    return change


def shard_to(name, content):
    """An index that names one file for all tensors of the transformer."""

    def change(directory):
        folder = directory / "transformer"
        tensors = load_file(folder / WEIGHTS)
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, name)}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(content)

    return change


def tokenizer_with_code(directory):
    change_json("model_index.json", tokenizer=["transformers", "AutoTokenizer"])(directory)
    change_json("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Sorcery", None]})(directory)


def pipe(directory):
    (directory / "vae" / WEIGHTS).unlink()
    os.mkfifo(directory / "vae" / WEIGHTS)


def link_to_nothing(directory):
    (directory / "vae" / "config.json").unlink()
    (directory / "vae" / "config.json").symlink_to("nowhere")


FAULTS = {
    "half of a text encoder": (drop_half("text_encoder"), "missing keys such as .*would be random"),
    "half of an autoencoder": (drop_half("vae"), "missing keys such as .*would be random"),
    "half of a transformer": (drop_half("transformer"), "missing keys such as .*would be random"),
    "a million heads": (
        change_json("transformer/config.json", num_attention_heads=1048576),
        "needs more weights and buffers than its files contain",
    ),
    "four million heads": (
        change_json("transformer/config.json", num_attention_heads=4194304),
        "needs more weights",
    ),
    "endless heads": (change_json("transformer/config.json", attention_head_dim=2**24), "needs more weights"),
    "a billion layers": (change_json("transformer/config.json", num_layers=10**9), "num_layers=1000000000"),
    "more layers than weights": (
        change_json("transformer/config.json", num_layers=40),
        "cannot be built.*expected shape",
    ),
    "positions without end": (
        change_json("transformer/config.json", pos_embed_max_size=10**5),
        "needs more weights",
    ),
    "a wide encoder": (change_json("text_encoder/config.json", hidden_size=2**22), "needs more|cannot be built"),
    "a large vocabulary": (change_json("text_encoder/config.json", vocab_size=2**23), "needs more weights"),
    "a fraction of a layer": (
        change_json("transformer/config.json", num_layers=2.0),
        "num_layers=2.0: it must be a whole",
    ),
    "a fraction of a sample": (
        change_json("transformer/config.json", sample_size=32.5),
        "sample_size=32.5: it must be",
    ),
    "index of a pickle": (shard_to("x.bin", pickle.dumps(Trap())), "no safetensors weights|are not safetensors files"),
    "index that leaves": (shard_to("../x.safetensors", b""), "no safetensors weights|are not safetensors files"),
    "pickle called safetensors": (shard_to("x.safetensors", pickle.dumps(Trap())), "size of its header is not valid"),
    "adapter of another model": (
        change_json("text_encoder/adapter_config.json", base_model_name_or_path="/etc"),
        "names another model to load",
    ),
    "tokenizer with code": (tokenizer_with_code, "needs custom code"),
    "class that loads data": (
        change_json("model_index.json", text_encoder=["transformers", "RagRetriever"]),
        "text_encoder=.*must be a model",
    ),
    "module": (change_json("model_index.json", vae=["os", "system"]), "vae=.*must be a model"),
    "pipe": (pipe, "is not a regular file"),
    "link to nothing": (link_to_nothing, "is not a regular file"),
    "no index": (lambda d: (d / "model_index.json").unlink(), "no model_index.json"),
    "no component": (lambda d: shutil.rmtree(d / "vae"), "'vae' has no safetensors weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(shared_repository, base_dir, tmp_path, fault, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = shutil.copytree(base_dir, tmp_path / "base")
    spoil, message = FAULTS[fault]
    spoil(base)
    with pytest.raises(TwinFlowConfigError, match=message) as error:
        TwinFlowPipeline.from_pretrained(shared_repository, base_model=str(base))
    assert str(base) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_hub_repository_does_not_choose_a_folder_of_the_working_directory(
    shared_repository, base_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base_dir, tmp_path / "outputs")
    directory = shutil.copytree(shared_repository, tmp_path / "repository")
    for name in ("outputs", "me/outputs"):
        change_json(CONFIG_NAME, base_model=name)(directory)
        with pytest.raises(TwinFlowConfigError, match="could not be downloaded"):
            TwinFlowPipeline.from_pretrained(directory)
        shutil.copytree(base_dir, tmp_path / "me" / "outputs", dirs_exist_ok=True)
    assert TwinFlowPipeline.from_pretrained(directory, base_model="me/outputs").twinflow_config.base_model == name


def as_old_autoencoder(directory):
    """As Stable Diffusion 1.5 was published: its attention has other names."""
    path = directory / "vae" / WEIGHTS
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for name in list(tensors):
        for new, old in names.items():
            if f".attentions.0.{new}." in name:
                tensors[name.replace(new, old)] = tensors.pop(name)
    assert any(".query." in name for name in tensors)
    save_file(tensors, path, {"format": "pt"})


def in_shards(directory):
    model = load_stock_pipeline(FAMILY, directory).transformer
    shutil.rmtree(directory / "transformer")
    model.save_pretrained(directory / "transformer", max_shard_size="30KB")
    assert len(list((directory / "transformer").glob("*.safetensors"))) > 1


def unused_weights(directory):
    path = directory / "text_encoder" / "model.safetensors"
    save_file(load_file(path) | {"logit_scale": torch.ones(1)}, path, {"format": "pt"})


@pytest.mark.parametrize("change", [as_old_autoencoder, in_shards, unused_weights])
def test_what_bases_are_published_as_is_loaded(base_dir, tmp_path, change):
    base = shutil.copytree(base_dir, tmp_path / "base")
    change(base)
    expected, loaded = load_stock_pipeline(FAMILY, base_dir), load_base(FAMILY, str(base), use_safetensors=True)
    for name in ("transformer", "vae", "text_encoder"):
        states = getattr(expected, name).state_dict(), getattr(loaded, name).state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_a_variant_is_loaded_and_checked(base_dir, tmp_path):
    load_stock_pipeline(FAMILY, base_dir).save_pretrained(tmp_path, variant="fp16")
    assert load_base(FAMILY, str(tmp_path), variant="fp16", use_safetensors=True).transformer is not None
    (path,) = (tmp_path / "vae").glob("*.safetensors")
    save_file(dict(sorted(load_file(path).items())[::2]), path, {"format": "pt"})
    with pytest.raises(TwinFlowConfigError, match="would be random"):
        load_base(FAMILY, str(tmp_path), variant="fp16", use_safetensors=True)
    vae = load_stock_pipeline(FAMILY, base_dir).vae
    assert load_base(FAMILY, str(tmp_path), variant="fp16", use_safetensors=True, vae=vae).vae is vae


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_repositories(tmp_path, kind):
    """Twenty of each kind; `python -m tests.hub.hostile 500` draws more."""
    good = good_repositories(tmp_path)
    assert attempt(kind, None, good).end == "loaded"
    usual = attempt(kind, None, good)
    for number in range(20):
        outcome = attempt(kind, number, good)
        assert outcome.end in ("loaded", "refused"), outcome
        assert outcome.seconds < 10 and outcome.peak_bytes < usual.peak_bytes + 500 * 2**20, outcome
