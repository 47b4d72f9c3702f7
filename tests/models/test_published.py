"""Transformers in the layouts of the TwinFlow authors and SimpleTuner, compared with their formulas."""

import json

import pytest
import torch
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings, TimestepEmbedding, Timesteps
from diffusers.models.normalization import AdaLayerNormSingle
from diffusers.models.transformers.transformer_z_image import TimestepEmbedder
from safetensors.torch import load_file, save_file
from torch import nn

from diffusers_twinflow.cli.main import main
from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.hub import load_published_transformer
from diffusers_twinflow.models import SecondEmbedder
from diffusers_twinflow.models.target_folding import CannotFoldError, Grid, fold_target
from tests.models.stock import STOCK
from tests.models.stock.spec import flat, noise, stock_class
from tests.models.trained import twinflow_class

QWEN, SD3, SANA, Z_IMAGE = (f"{name}Transformer2DModel" for name in ("QwenImage", "SD3", "Sana", "ZImage"))
TIMES, TARGETS = (0.75, 0.25), (0.0, 0.125)
WEIGHTS = "diffusion_pytorch_model.safetensors"


class QwenEmbedder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.time_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1000)
        self.timestep_embedder = TimestepEmbedding(256, width)

    def forward(self, timestep):
        return self.timestep_embedder(self.time_proj(timestep))


SECOND = {
    QWEN: ("time_text_embed_2", lambda: QwenEmbedder(16)),
    SD3: ("time_text_embed_2", lambda: CombinedTimestepTextProjEmbeddings(16, 8)),
    SANA: ("time_embed_2", lambda: AdaLayerNormSingle(8)),
    Z_IMAGE: ("t_embedder_2", lambda: TimestepEmbedder(16, mid_size=1024)),
}


def second_embedder(name):
    prefix, build = SECOND[name]
    embedder = build()
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter.copy_(noise(*parameter.shape) / (parameter.shape[-1] if parameter.ndim > 1 else 4) ** 0.5)
    return prefix, embedder


def stock_model(name):
    config = {**STOCK[name].config, "zero_cond_t": False} if name == QWEN else STOCK[name].config
    stock = STOCK[name]
    return type(stock)(config, stock.inputs).build(stock_class(name))


def publish(name, directory, tensors, **config):
    """Save the tiny model with these tensors added, its configuration as theirs."""
    stock_model(name).save_pretrained(directory)
    save_file(load_file(directory / WEIGHTS) | tensors, directory / WEIGHTS)
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | config))


@pytest.fixture(params=SECOND)
def second(request, tmp_path):
    """The name of a class, and where a checkpoint of it with a second embedder is."""
    prefix, embedder = second_embedder(request.param)
    tensors = {f"{prefix}.{key}": tensor for key, tensor in embedder.state_dict().items()}
    publish(request.param, tmp_path / "there", tensors, _class_name=f"{request.param}Wrapper")
    return request.param, tmp_path / "there"


class ByHand(nn.Module):
    """An embedder in the stock model's place that answers with numbers of its own."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *args, **kwargs):
        return self.answer(*args, **kwargs)


def expected_output(name):
    """At t = 0.75, r = 0 on the real trajectory and t = 0.25, r = 0.125 on the twin's, by the authors' rule."""
    model, (_, more) = stock_model(name), second_embedder(name)
    if name == QWEN:
        own, time = model.time_text_embed, torch.tensor([0.75, -0.25])
        target, gap = torch.tensor([0.0, -0.125]), torch.tensor([[0.75], [-0.125]])
        model.time_text_embed = ByHand(lambda t, hidden, addition: own(t, hidden, addition) + more(target) * gap)
    elif name == SD3:
        own, time = model.time_text_embed, torch.tensor([750.0, -250.0])
        target, gap = torch.tensor([0.0, -125.0]), torch.tensor([[0.75], [-0.125]])
        model.time_text_embed = ByHand(lambda t, pooled: own(t, pooled) + more(target, pooled) * gap)
    elif name == SANA:
        own, time = model.time_embed, torch.tensor([750.0, -250.0])
        target, gap = torch.tensor([0.0, -125.0]), torch.tensor([[0.75], [-0.125]])

        def both_outputs(t, **options):
            return tuple(a + b * gap for a, b in zip(own(t, **options), more(target, **options)))

        model.time_embed = ByHand(both_outputs)
    else:
        # tau is 0.25 and -0.75, that of the targets 0 (where 1 would be the plain reversal) and -0.875
        own, time = model.t_embedder, torch.tensor([0.25, 0.75])
        gap = torch.tensor([[0.25], [0.125]])
        model.t_embedder = ByHand(lambda t: own(t) + more(torch.tensor([-250.0, -125.0])) * gap)
    stock = STOCK[name]
    return flat(model(**stock.inputs(), **{stock.timestep: time}, return_dict=False))


def our_output(name, model, signs=(1.0, -1.0), **options):
    """The same through our arguments, in the unit of the class."""
    stock = STOCK[name]
    arguments = {**stock.inputs(), stock.timestep: stock.times(*TIMES), "return_dict": False}
    return flat(model(**arguments, timestep_sign=torch.tensor(signs), **options))


@torch.no_grad()
def test_second_embedder_on_the_fly_and_converted(second, tmp_path):
    name, there = second
    expected = expected_output(name)
    targets = {"target_timestep": STOCK[name].times(*TARGETS)}

    loaded = load_published_transformer(there)
    assert type(loaded) is twinflow_class(name) and isinstance(loaded.time_conditioning, SecondEmbedder)
    torch.testing.assert_close(our_output(name, loaded, **targets), expected, atol=1e-5, rtol=1e-5)

    assert main(["convert", str(there), str(tmp_path / "here")]) == 0
    converted = twinflow_class(name).from_pretrained(tmp_path / "here")
    assert torch.equal(our_output(name, converted, **targets), our_output(name, loaded, **targets))
    converted.save_pretrained(tmp_path / "again")
    again = twinflow_class(name).from_pretrained(tmp_path / "again", low_cpu_mem_usage=False)
    assert torch.equal(our_output(name, again, **targets), our_output(name, loaded, **targets))


FEW = (0.999, 0.6)


@torch.no_grad()
def test_second_embedder_is_folded_into_a_stock_model_if_it_embeds_the_times_alone(second):
    """The stock model with the low-rank weights gives what the loaded model gives with target 0, at two times."""
    name, there = second
    loaded, stock = load_published_transformer(there), STOCK[name]
    grid = Grid(*(stock.in_unit(torch.tensor(times)) for times in (FEW, (0.0, 0.0))))
    if name in (SD3, SANA):
        with pytest.raises(CannotFoldError, match="only times can be folded"):
            fold_target(loaded, loaded.time_conditioning, {2: grid})
        return
    folded = fold_target(loaded, loaded.time_conditioning, {2: grid})
    assert folded.exact == (2,)
    plain = stock_model(name)
    before = flat(plain(**{**stock.inputs(), stock.timestep: grid.times, "return_dict": False}))
    for path, layer in folded.layers.items():
        plain.get_submodule(path).weight += layer.lora_B @ layer.lora_A
    arguments = {**stock.inputs(), stock.timestep: grid.times, "return_dict": False}
    expected = flat(loaded(**arguments, target_timestep=grid.targets))
    assert not torch.allclose(before, expected, atol=1e-2)
    torch.testing.assert_close(flat(plain(**arguments)), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_second_embedder_is_the_stock_model_at_r_equal_t_and_off(second):
    name, there = second
    stock, plain, loaded = STOCK[name], stock_model(name), load_published_transformer(there)
    arguments = {**stock.inputs(), stock.timestep: stock.times(*TIMES), "return_dict": False}
    expected = flat(plain(**arguments))
    assert torch.equal(our_output(name, loaded, (1.0, 1.0), target_timestep=stock.times(*TIMES)), expected)
    assert not torch.equal(our_output(name, loaded, (1.0, 1.0), target_timestep=stock.times(*TARGETS)), expected)
    loaded.disable_twinflow()
    assert not any(key.startswith("twinflow_") for key in loaded.config)
    assert list(loaded.state_dict()) == list(plain.state_dict())
    assert torch.equal(flat(loaded(**arguments)), expected)


def test_second_embedder_has_a_backward_and_compiles(second):
    name, there = second
    loaded, targets = load_published_transformer(there), {"target_timestep": STOCK[name].times(*TARGETS)}
    output = our_output(name, loaded, **targets)
    output.square().mean().backward()
    assert all(parameter.grad.any() for parameter in loaded.time_conditioning.parameters())
    if name == SANA:  # the one with two outputs
        torch._dynamo.reset()
        compiled = torch.compile(loaded, fullgraph=True, backend="eager")
        torch.testing.assert_close(our_output(name, compiled, **targets), output, atol=1e-5, rtol=1e-5)


def sign_checkpoint(directory):
    rows = noise(2, 16)
    key = "time_text_embed.time_sign_embed.weight"
    publish(QWEN, directory, {key: rows}, enable_time_sign_embed=True)
    return rows


@torch.no_grad()
def test_simpletuner_sign(tmp_path):
    """Both of its rows are trained, and each is added to the embedding of the timestep without its sign."""
    rows, model = sign_checkpoint(tmp_path / "there"), stock_model(QWEN)
    own = model.time_text_embed
    model.time_text_embed = ByHand(lambda t, hidden, addition: own(t, hidden, addition) + rows)
    expected = flat(model(**STOCK[QWEN].inputs(), timestep=torch.tensor(TIMES), return_dict=False))

    loaded = load_published_transformer(tmp_path / "there", dtype=torch.float64).float()
    torch.testing.assert_close(our_output(QWEN, loaded), expected, atol=1e-5, rtol=1e-5)
    assert main(["convert", str(tmp_path / "there"), str(tmp_path / "here")]) == 0
    converted = twinflow_class(QWEN).from_pretrained(tmp_path / "here")
    torch.testing.assert_close(our_output(QWEN, converted), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="knows no target_timestep"):
        our_output(QWEN, converted, target_timestep=torch.tensor(TARGETS))


@torch.no_grad()
def test_sharded(tmp_path):
    sign_checkpoint(tmp_path / "whole")
    whole = load_published_transformer(tmp_path / "whole")
    there = tmp_path / "there" / "transformer"
    there.mkdir(parents=True)
    tensors = load_file(tmp_path / "whole" / WEIGHTS)
    parts = [dict(list(tensors.items())[half::2]) for half in (0, 1)]
    for number, part in enumerate(parts):
        save_file(part, there / f"part-{number}.safetensors")
    weight_map = {key: f"part-{number}.safetensors" for number, part in enumerate(parts) for key in part}
    (there / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (there / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())

    assert main(["convert", str(tmp_path / "there"), str(tmp_path / "here"), "--subfolder", "transformer"]) == 0
    converted = twinflow_class(QWEN).from_pretrained(tmp_path / "here")
    assert torch.equal(our_output(QWEN, converted), our_output(QWEN, whole))


@pytest.mark.parametrize(
    "breakage, message",
    [
        (lambda there: (there / "config.json").unlink(), "has no config.json"),
        (lambda there: (there / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
        (lambda there: change(there, {"_class_name": "UNet1DModel"}), "for which there is no TwinFlow class"),
        (lambda there: change(there, {"num_layers": 2}), "does not fit its configuration in"),
        (lambda there: replace(there, "time_text_embed.", "elsewhere."), "is added at an unknown place"),
        (lambda there: replace(there, "time_text_embed.time_sign_embed.weight", None), "has no second embedder"),
    ],
)
def test_what_cannot_be_converted_says_why_and_leaves_nothing(tmp_path, capsys, breakage, message):
    there, here = tmp_path / "there", tmp_path / "here"
    sign_checkpoint(there)
    breakage(there)
    with pytest.raises(TwinFlowConfigError, match=message):
        load_published_transformer(there)
    assert main(["convert", str(there), str(here)]) == 1
    assert message in capsys.readouterr().err
    assert not here.exists()


def test_a_directory_in_use_is_not_written_to(tmp_path, capsys):
    sign_checkpoint(tmp_path / "there")
    assert main(["convert", str(tmp_path / "there"), str(tmp_path / "there")]) == 1
    assert "is not empty" in capsys.readouterr().err


def change(there, config):
    values = json.loads((there / "config.json").read_text())
    (there / "config.json").write_text(json.dumps(values | config))


def replace(there, prefix, other):
    """Rename tensors that hold the sign, or drop them."""
    tensors = load_file(there / WEIGHTS)
    for key in [key for key in tensors if key.startswith(prefix) and key.endswith("time_sign_embed.weight")]:
        tensor = tensors.pop(key)
        if other is not None:
            tensors[other + key.removeprefix(prefix)] = tensor
    save_file(tensors, there / WEIGHTS)
