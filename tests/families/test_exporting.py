"""Exports generate in stock pipelines, without our package, the images of `TwinFlowPipeline`."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from safetensors.torch import load_file

from diffusers_twinflow import TwinFlowPipeline, TwinFlowScheduler, export
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.comfyui import comfyui_lora
from diffusers_twinflow.hub.files import LORA_NAME
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.hub.stock_use import StockUse
from diffusers_twinflow.models.target_folding import foldable_layers
from tests.families.kit import CASES, PROMPTS, as_pictures, noise_of
from tests.families.trained_loras import write

CLOSE = 1e-4
ROUNDING = 1e-6
"""Relative: the latents of one family are as large as 500."""
STEPS = (1, 2, 4)
FIRST = {"stable_diffusion_3"}
NO_STOCK_LORA = {"pixart_sigma"}
NO_COMFYUI = {"sana"}
HALF_PRECISION = {"stable_diffusion_3", "flux", "sana", "aura_flow", "qwen_image", "z_image", "stable_diffusion_xl"}
SD3 = next(case for case in CASES if case.id == "stable_diffusion_3")


def cases(without=frozenset(), of=frozenset(FAMILIES)):
    chosen = [case for case in CASES if case.family_name in of - without]
    return pytest.mark.parametrize(
        "case",
        [pytest.param(case, id=case.id, marks=() if case.id in FIRST else pytest.mark.slow) for case in chosen],
    )


class StockNoise(TwinFlowScheduler):
    """Draws the noise of its steps as the stock scheduler does: from torch's global generator if it is given none."""

    def step(self, *args, generator=None, **kwargs):
        return super().step(*args, generator=generator or torch.default_generator, **kwargs)


def draw(case, pipeline, steps, **options):
    pipeline.set_progress_bar_config(disable=True)
    options = case.call_options() | {"num_inference_steps": steps, "output_type": "latent"} | options
    if case.family.takes_reference_image:
        options["image"] = as_pictures(case.references(1)["reference_images"])[0]
    torch.manual_seed(0)
    output = pipeline(prompt=PROMPTS[0], generator=torch.Generator().manual_seed(0), return_dict=False, **options)
    return output[0]


def ours_of(directory, **options):
    ours = TwinFlowPipeline.from_pretrained(directory, **options)
    ours.scheduler = StockNoise.from_config(ours.scheduler.config)
    return ours


def use_stock(stock, use, ours, count):
    """Give the stock pipeline its scheduler, and return the other arguments of its call."""
    if isinstance(use, StockUse):
        stock.scheduler = FlowMatchEulerDiscreteScheduler(**use.scheduler_options)
        return {"sigmas": use.sigmas[count]}
    stock.scheduler = StockNoise.from_config(ours.scheduler.config)
    return {}


def check_stock(case, stock, use, ours, steps=STEPS):
    """The stock scheduler, or ours if the stock pipeline cannot take the grid, draws what our pipeline draws."""
    for count in steps:
        options = use_stock(stock, use, ours, count)
        torch.testing.assert_close(
            draw(case, stock, count, **options), draw(case, ours, count), rtol=ROUNDING, atol=CLOSE
        )


@cases(without=NO_STOCK_LORA)
def test_plain_lora(case, tmp_path):
    write(case, tmp_path / "lora")
    use = export(tmp_path / "lora", tmp_path / "plain")
    files = {path.name for path in (tmp_path / "plain").iterdir()}
    assert files == {LORA_NAME, "README.md"} | ({"scheduler"} if isinstance(use, str) else set())
    stock = case.build()
    stock.load_lora_weights(tmp_path / "plain")
    check_stock(case, stock, use, ours_of(tmp_path / "lora"))


@cases()
def test_whole_pipeline(case, tmp_path):
    write(case, tmp_path / "lora")
    use = export(tmp_path / "lora", tmp_path / "merged", "merged")
    absent = {name: None for name, component in case.build().components.items() if component is None}
    stock = DiffusionPipeline.from_pretrained(tmp_path / "merged", **absent)
    assert type(stock) is type(case.build())
    assert type(case.family.denoiser(stock)) is case.family.transformer_class.stock_class()
    assert not list((tmp_path / "merged").rglob("twinflow*"))
    if isinstance(use, StockUse):
        assert type(stock.scheduler) is FlowMatchEulerDiscreteScheduler
    check_stock(case, stock, use, ours_of(tmp_path / "lora"))


@cases()
def test_one_transformer_file(case, tmp_path):
    write(case, tmp_path / "lora")
    use = export(tmp_path / "lora", tmp_path / "model", "transformer")
    assert [path.name for path in (tmp_path / "model").glob("*.safetensors")] == [
        "diffusion_pytorch_model.safetensors"
    ]
    model = case.family.transformer_class.stock_class().from_pretrained(tmp_path / "model")
    stock = case.build()
    setattr(stock, case.family.component_name, model)
    check_stock(case, stock, use, ours_of(tmp_path / "lora"))


@cases(without=NO_COMFYUI)
def test_comfyui_files(case, tmp_path):
    write(case, tmp_path / "lora")
    out = tmp_path / "for-comfyui"
    export(tmp_path / "lora", out, "comfyui", step_counts=[2, 1, 4], prompt="a cat")
    workflows = {f"workflow_{count}_steps.json" for count in STEPS}
    assert {path.name for path in out.iterdir()} == {"for-comfyui.safetensors", "README.md", *workflows}
    model = case.family.denoiser(case.build())
    plain = load_file(tmp_path / "lora" / LORA_NAME)
    found = load_file(out / "for-comfyui.safetensors")
    expected = comfyui_lora(plain, type(model).__name__, model.config)
    assert found.keys() == expected.keys() and found
    layers = foldable_layers(case.family.transformer_class, model)
    assert all(f"{case.family.component_name}.{layer}.lora_A.weight" in plain for layer in layers)
    for count in STEPS:
        nodes = json.loads((out / f"workflow_{count}_steps.json").read_text()).values()
        inputs = {node["class_type"]: node["inputs"] for node in nodes}
        sigmas = inputs["ManualSigmas"]["sigmas"].split(", ")
        assert len(sigmas) == count + 1 and sigmas[-1] == "0"
        assert inputs["KSamplerSelect"]["sampler_name"] == "lcm"
        assert inputs["LoraLoaderModelOnly"]["lora_name"] == "for-comfyui.safetensors"
        assert "a cat" in json.dumps(inputs)


def draw_from(case, pipeline, seed, **options):
    """Latents of the same noise for pipelines of any dtype."""
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(noise_of(case)[:1].shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
    latents = case.family.pack(noise).to(case.family.denoiser(pipeline).dtype)
    torch.manual_seed(seed)
    options = case.call_options() | {"output_type": "latent", "return_dict": False} | options
    return pipeline(prompt=PROMPTS[0], latents=latents, **options)[0].double()


@cases(of=HALF_PRECISION)
def test_bfloat16_costs_a_stock_pipeline_no_more_than_twice_what_it_costs_ours(case, tmp_path):
    """Root mean square over four seeds, against our pipeline in float32."""
    write(case, tmp_path / "lora")
    use = export(tmp_path / "lora", tmp_path / "plain")
    exact, ours = (ours_of(tmp_path / "lora", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    stock = load_stock_pipeline(case.family, tmp_path / "lora" / "base", dtype=torch.bfloat16)
    stock.load_lora_weights(tmp_path / "plain")
    for count in STEPS:
        options = {"num_inference_steps": count}
        sigmas = use_stock(stock, use, exact, count)
        expected = torch.cat([draw_from(case, exact, seed, **options) for seed in range(4)])
        found = torch.cat([draw_from(case, ours, seed, **options) for seed in range(4)])
        plain = torch.cat([draw_from(case, stock, seed, **options, **sigmas) for seed in range(4)])
        own, other = ((drawn - expected).square().mean().sqrt() for drawn in (found, plain))
        assert 0 < other <= 2 * own


@pytest.mark.parametrize("steps", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_style_any_on_its_grid(steps, tmp_path):
    write(SD3, tmp_path / "lora", sampling_style="any")
    use = export(tmp_path / "lora", tmp_path / "plain", step_counts=[steps])
    assert list(use.sigmas) == [steps] and use.scheduler_options == {}
    stock = SD3.build()
    stock.load_lora_weights(tmp_path / "plain")
    check_stock(SD3, stock, use, ours_of(tmp_path / "lora"), steps=[steps])


def test_another_style_samples_on_its_usual_grid(tmp_path):
    write(SD3, tmp_path / "lora", sampling_style="few", stochastic_ratio=1.0, gap_end=0.3)
    use = export(tmp_path / "lora", tmp_path / "merged", "merged", sampling_style="any")
    assert use.sigmas == {2: [0.999, 0.5]} and use.scheduler_options == {}
    ours = TwinFlowPipeline.from_pretrained(tmp_path / "lora")
    ours.scheduler = TwinFlowScheduler(sampling_style="any")
    stock = DiffusionPipeline.from_pretrained(tmp_path / "merged", text_encoder_3=None, tokenizer_3=None)
    drawn = draw(SD3, stock, 2, sigmas=use.sigmas[2])
    torch.testing.assert_close(drawn, draw(SD3, ours, 2), rtol=0, atol=CLOSE)


def test_the_page_of_an_export_runs_as_it_is(tmp_path, monkeypatch):
    write(SD3, tmp_path / "lora")
    monkeypatch.chdir(tmp_path)
    expected = draw(SD3, ours_of(tmp_path / "lora"), 2)
    for format in ("diffusers", "merged", "transformer"):
        export("lora", f"out/{format}", format)
        text = (tmp_path / "out" / format / "README.md").read_text()
        assert str(tmp_path) not in text
        code = text.split("```python\n")[1].split("```")[0]
        assert "twinflow" not in code
        code = code.replace('"path/to/the/base"', '"../lora/base"').replace('.to("cuda")', "")
        code = code.replace("dtype=torch.bfloat16)\npipe", "dtype=torch.float32, **ABSENT)\npipe")
        code = code.replace("dtype=torch.bfloat16)\nimage", "dtype=torch.float32, **ABSENT)\nimage")
        code = code.replace("bfloat16", "float32").replace("pipe(", "pipe(**CALL, ")
        call = SD3.call_options() | {"output_type": "latent", "generator": torch.Generator().manual_seed(0)}
        call = {name: value for name, value in call.items() if name != "guidance_scale"}
        scope = {"ABSENT": {"text_encoder_3": None, "tokenizer_3": None}, "CALL": call}
        monkeypatch.chdir(tmp_path / "out")
        torch.manual_seed(0)
        exec(code.replace('"your prompt"', repr(PROMPTS[0])), scope)
        torch.testing.assert_close(scope["image"], expected[0], rtol=0, atol=CLOSE)
        monkeypatch.chdir(tmp_path)


def test_dtype_of_the_file(tmp_path):
    """By default that of the LoRA's own file."""
    write(SD3, tmp_path / "lora")
    export(tmp_path / "lora", tmp_path / "half", dtype=torch.bfloat16)
    export(tmp_path / "lora", tmp_path / "full")
    halves, wholes = (load_file(tmp_path / name / LORA_NAME) for name in ("half", "full"))
    assert {tensor.dtype for tensor in halves.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in wholes.values()} == {torch.float32}
    (tmp_path / "half" / LORA_NAME).replace(tmp_path / "lora" / LORA_NAME)
    export(tmp_path / "lora", tmp_path / "again")
    again = load_file(tmp_path / "again" / LORA_NAME)
    assert {tensor.dtype for tensor in again.values()} == {torch.bfloat16} and again.keys() == halves.keys()


def test_a_whole_model_becomes_a_plain_one(tmp_path):
    write(SD3, tmp_path / "lora")
    TwinFlowPipeline.from_pretrained(tmp_path / "lora").save_pretrained(tmp_path / "whole")
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    ours = TwinFlowPipeline.from_pretrained(tmp_path / "whole", **absent)
    ours.scheduler = StockNoise.from_config(ours.scheduler.config)
    use = export(tmp_path / "whole", tmp_path / "model", "transformer")
    stock = SD3.build()
    stock.transformer = SD3Transformer2DModel.from_pretrained(tmp_path / "model")
    check_stock(SD3, stock, use, ours)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=name, marks=() if name in ("flux", "stable_diffusion_xl") else pytest.mark.slow)
        for name, family in FAMILIES.items()
    ],
)
def test_a_file_grows_by_less_than_two_thousandths(family):
    """Style any at 4 steps, on a LoRA of rank 16 on the default layers, at the default size of the class."""
    cls = family.transformer_class
    with torch.device("meta"):
        model = cls.stock_class()()
    targets = set(family.lora_targets(model))
    adapted = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and any(name == t or name.endswith(f".{t}") for t in targets)
    ]
    lora = 16 * sum(sum(layer.weight.shape) for layer in adapted)
    folded = 4 * sum(sum(layer.weight.shape) for layer in foldable_layers(cls, model).values())
    assert len(adapted) > 100 and 0 < folded < 0.002 * lora
