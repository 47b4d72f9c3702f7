"""Each fault of an untrusted whole model is one clear error, if possible before anything is built."""

import json
import pickle
import shutil
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from diffusers_twinflow import TwinFlowConfigError, TwinFlowPipeline
from diffusers_twinflow.hub.files import CONDITIONING_NAME, CONFIG_NAME, SCHEDULER_NAME

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
CONDITIONING = f"transformer/{CONDITIONING_NAME}"
FUZZ = settings(
    max_examples=settings.default.max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def change_json(name, **values):
    def change(directory):
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def change_weights(change_tensors, name=WEIGHTS):
    def change(directory):
        tensors = load_file(directory / name)
        change_tensors(tensors)
        save_file(tensors, directory / name, {"format": "pt"})

    return change


def remove(name):
    return lambda directory: (directory / name).unlink()


def poison(tensors):
    tensors[sorted(name for name in tensors if tensors[name].is_floating_point())[0]].view(-1)[0] = float("nan")


def widen(tensors):
    tensors["time_sign_embed.weight"] = torch.zeros(2, 32)


def sign(tensors):
    tensors["time_sign_embed.weight"][0, 0] = 1.0


def drop_embedder(tensors):
    for name in [name for name in tensors if name.startswith("target_timestep_embedder.")]:
        del tensors[name]


def add_layer(tensors):
    tensors["one_more.weight"] = torch.zeros(2)


def many(tensors, count=2000):
    tensors.update({f"extra.{i}": torch.zeros(1) for i in range(count)})


def drop_half(tensors):
    for name in sorted(tensors)[::2]:
        del tensors[name]


def link_away(directory):
    (directory / "vae" / "config.json").rename(directory.parent / "outside")
    (directory / "vae" / "config.json").symlink_to(directory.parent / "outside")


def integers(tensors):
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].long()


def lie_about_sizes(directory):
    content = (directory / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header[sorted(set(header) - {"__metadata__"})[0]]["shape"] = [1 << 40, 1 << 20]
    text = json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


class Trap:
    def __reduce__(self):
        return open, ("pickle-was-loaded", "w")


def pickled(component, stem):
    def change(directory):
        for path in (directory / component).glob("*.safetensors"):
            path.unlink()
        with (directory / component / f"{stem}.bin").open("wb") as file:
            pickle.dump(Trap(), file)

    return change


def leaving_index(directory):
    values = {"metadata": {}, "weight_map": {"a": "../../secret.safetensors"}}
    (directory / f"{WEIGHTS}.index.json").write_text(json.dumps(values))


FAULTS = {
    "no index": (remove("model_index.json"), "no model_index.json"),
    "pipeline of another class": (change_json("model_index.json", _class_name="FluxPipeline"), "_class_name="),
    "transformer of another class": (
        change_json("model_index.json", transformer=["diffusers", "FluxTransformer2DModel"]),
        "SD3Transformer2DModel",
    ),
    "code to import": (change_json("model_index.json", vae=["os", "system"]), "vae=.*diffusers or transformers"),
    "code of its own": (change_json("model_index.json", scheduler=["pipeline", "Sorcery"]), "scheduler="),
    "a component that is none": (change_json("model_index.json", wand=["diffusers", "AutoencoderKL"]), "wand="),
    "a class that is none": (change_json("model_index.json", vae=["diffusers", "logging"]), "vae="),
    "config of another class": (change_json("transformer/config.json", _class_name="os.system"), "os.system"),
    "conditioning neither on nor off": (
        change_json("transformer/config.json", twinflow_enabled="yes"),
        "must be true or false",
    ),
    "conditioning off in the config": (
        change_json("transformer/config.json", _twinflow_conditioning=None),
        "config.json does not say which",
    ),
    "conditioning of no kind": (
        change_json("transformer/config.json", _twinflow_conditioning=["sorcery"]),
        "cannot be loaded.*sorcery",
    ),
    "conditioning announced twice": (change_json("transformer/config.json", twinflow_enabled=True), "missing keys"),
    "a billion layers": (change_json("transformer/config.json", num_layers=10**9), "num_layers=1000000000"),
    "positions without end": (
        change_json("transformer/config.json", pos_embed_max_size=10**5),
        "needs more weights",
    ),
    "a huge sample": (change_json("transformer/config.json", sample_size=10**6), "sample_size=1000000"),
    "a number without end": (change_json("transformer/config.json", in_channels=10**30), "in_channels=1000"),
    "half of a text encoder": (
        change_weights(drop_half, "text_encoder/model.safetensors"),
        "missing keys such as .*would be random",
    ),
    "half of an autoencoder": (
        change_weights(drop_half, "vae/diffusion_pytorch_model.safetensors"),
        "missing keys such as .*would be random",
    ),
    "a million heads": (change_json("transformer/config.json", num_attention_heads=1048576), "needs more weights"),
    "heads that arrive as a float": (
        change_json("transformer/config.json", num_attention_heads=2.0),
        "num_attention_heads=2.0: it must be a whole number",
    ),
    "quantised": (change_json("vae/config.json", quantization_config={"quant_method": "gptq"}), "quantized weights"),
    "a file from outside": (link_away, "a link to a place outside"),
    "an encoder of a billion layers": (
        change_json("text_encoder/config.json", num_hidden_layers=10**9),
        "text_encoder/config.json has num_hidden_layers",
    ),
    "config of another size": (change_json("transformer/config.json", num_attention_heads=4), "cannot be loaded"),
    "no transformer config": (remove("transformer/config.json"), "transformer/config.json is missing"),
    "config of 2 MB": (lambda d: (d / "transformer/config.json").write_bytes(b" " * 2_000_000), "at most 1000000"),
    "no weights": (remove(WEIGHTS), "no safetensors weights"),
    "pickled transformer": (pickled("transformer", "diffusion_pytorch_model"), "pickle files are not loaded"),
    "pickled autoencoder": (pickled("vae", "diffusion_pytorch_model"), "'vae' has no safetensors weights"),
    "pickled text encoder": (pickled("text_encoder", "pytorch_model"), "'text_encoder' has no safetensors"),
    "weights of noise": (lambda d: (d / WEIGHTS).write_bytes(b"noise"), "size of its header is not valid"),
    "header that lies": (lie_about_sizes, "not a valid safetensors"),
    "index that leaves": (leaving_index, "names files that are not safetensors files in its folder"),
    "integers": (change_weights(integers), "I64"),
    "NaN": (change_weights(poison), "'transformer' has values that are not finite"),
    "NaN in the autoencoder": (
        change_weights(poison, "vae/diffusion_pytorch_model.safetensors"),
        "'vae' has values that are not finite",
    ),
    "conditioning of another width": (change_weights(widen, CONDITIONING), "(?s)cannot be loaded.*time_sign_embed"),
    "positive sign row": (change_weights(sign, CONDITIONING), "embedding of the sign \\+1"),
    "half a conditioning": (change_weights(drop_embedder, CONDITIONING), "(?s)cannot be loaded.*Missing key"),
    "NaN in the conditioning": (
        change_weights(poison, CONDITIONING),
        "'transformer' has values that are not finite",
    ),
    "a conditioning of 2,000 tensors": (change_weights(many, CONDITIONING), "has 20.. tensors"),
    "an encoder of 20,000 tensors": (
        change_weights(lambda tensors: many(tensors, 20_000), "text_encoder/model.safetensors"),
        "at most 16384",
    ),
    "no conditioning": (remove(CONDITIONING), f"{CONDITIONING_NAME} is missing"),
    "one tensor more": (change_weights(add_layer), "unexpected keys such as 'one_more.weight'"),
    "no scheduler": (remove(SCHEDULER_NAME), f"has no {SCHEDULER_NAME}"),
    "scheduler of another class": (change_json(SCHEDULER_NAME, _class_name="os.system"), "os.system"),
    "no steps": (change_json(CONFIG_NAME, num_inference_steps=0), "num_inference_steps"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(shared_model, tmp_path, fault, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = shutil.copytree(shared_model, tmp_path / "broken")
    spoil, message = FAULTS[fault]
    spoil(directory)
    with pytest.raises(TwinFlowConfigError, match=message):
        TwinFlowPipeline.from_pretrained(directory)
    assert not (tmp_path / "pickle-was-loaded").exists()


def test_a_whole_model_draws_with_its_conditioning(shared_model):
    pipeline = TwinFlowPipeline.from_pretrained(shared_model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.transformer.twinflow_enabled and type(pipeline.scheduler).__name__ == "TwinFlowScheduler"
    picture = pipeline("a fox", generator=torch.Generator().manual_seed(0), output_type="pt").images
    with torch.no_grad():
        for parameter in pipeline.transformer.time_conditioning.parameters():
            parameter.zero_()
    assert not torch.equal(
        pipeline("a fox", generator=torch.Generator().manual_seed(0), output_type="pt").images, picture
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def fuzzed(shared_model, tmp_path_factory):
    return shutil.copytree(shared_model, tmp_path_factory.mktemp("fuzzed") / "model")


@pytest.mark.parametrize("name", ["model_index.json", "transformer/config.json", "text_encoder/config.json"])
@given(data=st.data())
@FUZZ
def test_fuzz_json_values(fuzzed, name, data):
    path = fuzzed / name
    original = path.read_text()
    values = json.loads(original)
    key = data.draw(st.sampled_from(sorted(values)))
    path.write_text(json.dumps(values | {key: data.draw(JSON)}))
    try:
        TwinFlowPipeline.from_pretrained(fuzzed)
    except TwinFlowConfigError as error:
        assert str(error)
    finally:
        path.write_text(original)


@given(data=st.data())
@FUZZ
def test_fuzz_bytes_of_the_weights(fuzzed, data):
    path = fuzzed / WEIGHTS
    original = path.read_bytes()
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content), 20_000) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path.write_bytes(bytes(content))
    try:
        TwinFlowPipeline.from_pretrained(fuzzed)
    except TwinFlowConfigError as error:
        assert str(error)
    finally:
        path.write_bytes(original)
