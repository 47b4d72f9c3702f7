"""The export for ComfyUI: key names and workflows, also in ComfyUI itself if there is a checkout.

Set TWINFLOW_COMFYUI_CHECKOUT to the folder of a ComfyUI checkout to run the others, in an environment that imports it.
"""

import json
import os
from pathlib import Path

import diffusers
import pytest
import torch

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub.comfyui import LAYOUTS, comfyui_lora, comfyui_workflow, layout_of
from diffusers_twinflow.hub.comfyui.layouts import WITHOUT_LAYOUT
from diffusers_twinflow.hub.comfyui.workflow import RECIPES, WITHOUT_RECIPE
from diffusers_twinflow.models.timestep_embedders import TIMESTEP_EMBEDDERS
from tests.hub.comfyui_models import (
    PAIRS,
    apply,
    copy_weights,
    layers_of,
    load_comfyui,
    load_nodes,
    merge,
    noise,
    random_lora,
)

CHECKOUT = os.environ.get("TWINFLOW_COMFYUI_CHECKOUT")
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "comfyui.md"
needs_comfyui = pytest.mark.skipif(not CHECKOUT, reason="TWINFLOW_COMFYUI_CHECKOUT names no ComfyUI checkout")
each_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
each_recipe = pytest.mark.parametrize("family", RECIPES)

KEYS = [
    ("SD3Transformer2DModel", "transformer_blocks.3.attn.to_q", "transformer.transformer_blocks.3.attn.to_q"),
    (
        "SD3Transformer2DModel",
        "time_text_embed.timestep_embedder.linear_2",
        "transformer.time_text_embed.timestep_embedder.linear_2",
    ),
    (
        "FluxTransformer2DModel",
        "single_transformer_blocks.12.proj_mlp",
        "transformer.single_transformer_blocks.12.proj_mlp",
    ),
    ("Flux2Transformer2DModel", "time_guidance_embed.timestep_embedder.linear_2", "diffusion_model.time_in.out_layer"),
    (
        "Flux2Transformer2DModel",
        "single_transformer_blocks.7.attn.to_qkv_mlp_proj",
        "diffusion_model.single_blocks.7.linear1",
    ),
    (
        "Flux2Transformer2DModel",
        "transformer_blocks.0.ff_context.linear_out",
        "diffusion_model.double_blocks.0.txt_mlp.2",
    ),
    (
        "Flux2Transformer2DModel",
        "transformer_blocks.0.attn.add_k_proj",
        "transformer.transformer_blocks.0.attn.add_k_proj",
    ),
    (
        "ChromaTransformer2DModel",
        "distilled_guidance_layer.in_proj",
        "diffusion_model.distilled_guidance_layer.in_proj",
    ),
    (
        "ChromaTransformer2DModel",
        "distilled_guidance_layer.layers.4.linear_1",
        "diffusion_model.distilled_guidance_layer.layers.4.in_layer",
    ),
    ("Lumina2Transformer2DModel", "time_caption_embed.timestep_embedder.linear_2", "diffusion_model.t_embedder.mlp.2"),
    ("Lumina2Transformer2DModel", "layers.25.feed_forward.linear_3", "diffusion_model.layers.25.feed_forward.w3"),
    (
        "Lumina2Transformer2DModel",
        "noise_refiner.1.norm1.linear",
        "diffusion_model.noise_refiner.1.adaLN_modulation.1",
    ),
    ("WanTransformer3DModel", "condition_embedder.time_embedder.linear_2", "diffusion_model.time_embedding.2"),
    ("WanTransformer3DModel", "blocks.29.attn2.to_out.0", "diffusion_model.blocks.29.cross_attn.o"),
    (
        "LTXVideoTransformer3DModel",
        "time_embed.emb.timestep_embedder.linear_2",
        "diffusion_model.adaln_single.emb.timestep_embedder.linear_2",
    ),
    ("LTXVideoTransformer3DModel", "proj_in", "diffusion_model.patchify_proj"),
    ("UNet2DConditionModel", "time_embedding.linear_2", "lora_unet_time_embedding_linear_2"),
    (
        "UNet2DConditionModel",
        "mid_block.attentions.0.transformer_blocks.9.attn1.to_out.0",
        "lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_out_0",
    ),
    ("QwenImageTransformer2DModel", "transformer_blocks.59.img_mod.1", "transformer.transformer_blocks.59.img_mod.1"),
    ("ZImageTransformer2DModel", "t_embedder.mlp.2", "transformer.t_embedder.mlp.2"),
    ("AuraFlowTransformer2DModel", "time_step_proj.linear_2", "transformer.time_step_proj.linear_2"),
    (
        "PixArtTransformer2DModel",
        "adaln_single.emb.timestep_embedder.linear_2",
        "transformer.adaln_single.emb.timestep_embedder.linear_2",
    ),
]
AS_THEY_ARE = {
    "AuraFlowTransformer2DModel",
    "FluxTransformer2DModel",
    "PixArtTransformer2DModel",
    "QwenImageTransformer2DModel",
    "SD3Transformer2DModel",
    "ZImageTransformer2DModel",
}


def plain(module: str, rows: int = 6, columns: int = 4, rank: int = 2, component: str = "transformer", seed: int = 0):
    return {
        f"{component}.{module}.lora_A.weight": noise(rank, columns, seed=seed),
        f"{component}.{module}.lora_B.weight": noise(rows, rank, seed=seed + 1),
    }


def component_of(class_name: str) -> str:
    return "unet" if class_name.startswith("UNet") else "transformer"


def stock_classes(family) -> set[str]:
    return {base.__name__ for base in family.transformer_class.__mro__}


@pytest.mark.parametrize(("class_name", "module", "key"), KEYS, ids=[f"{case[0]}-{case[1]}" for case in KEYS])
def test_layer_gets_the_key_that_comfyui_reads(class_name, module, key):
    lora = plain(module, component=component_of(class_name))
    halves = ("lora_down", "lora_up") if class_name.startswith("UNet") else ("lora_A", "lora_B")
    exported = comfyui_lora(lora, class_name, {})
    assert exported.keys() == {f"{key}.{half}.weight" for half in halves}
    for weight, before in zip(exported.values(), lora.values(), strict=True):
        torch.testing.assert_close(weight, before, rtol=0, atol=0)


def test_classes_whose_plain_file_comfyui_reads():
    assert {name for name, layout in LAYOUTS.items() if layout.is_plain} == AS_THEY_ARE


@each_pair
def test_every_layer_has_a_place(pair):
    with torch.device("meta"):
        model = getattr(diffusers, pair.class_name)(**pair.config)
    lora = {
        f"{pair.component}.{name}.lora_{half}.weight": torch.empty(shape, device="meta")
        for name, layer in layers_of(model).items()
        for half, shape in (("A", (2, layer.weight[0].numel())), ("B", (len(layer.weight), 2)))
    }
    exported = comfyui_lora(lora, pair.class_name, model.config)
    fused = [part for part in layers_of(model) if layout_of(pair.class_name).fused_part(part)]
    assert len(exported) == len(lora) - 2 * len(fused) + 2 * len(fused) // 3
    if pair.class_name in AS_THEY_ARE:
        assert exported.keys() == lora.keys()


@pytest.mark.parametrize("class_name", LAYOUTS)
def test_last_layer_of_the_timestep_embedder_has_a_place(class_name):
    embedders = TIMESTEP_EMBEDDERS[class_name]
    for path in embedders.paths:
        module = ".".join(filter(None, (path, embedders.output_layer)))
        assert layout_of(class_name).key(module) is not None, module


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_has_an_export_or_a_reason(family):
    classes = stock_classes(family)
    assert classes & (LAYOUTS.keys() | WITHOUT_LAYOUT.keys())
    assert (family.name in RECIPES) != (family.name in WITHOUT_RECIPE)
    assert (family.name in RECIPES) == bool(classes & LAYOUTS.keys())


def test_fused_layer_adds_what_its_parts_add():
    config = {"hidden_size": 8, "num_attention_heads": 4, "num_kv_heads": 2}
    ranks = {"to_q": 3, "to_k": 1, "to_v": 2}
    rows = {"to_q": 8, "to_k": 4, "to_v": 4}
    lora, expected = {}, []
    for index, name in enumerate(ranks):
        lora |= (part := plain(f"layers.5.attn.{name}", rows[name], 8, ranks[name], seed=10 * index))
        down, up = part.values()
        expected.append(up @ down)
    exported = comfyui_lora(lora, "Lumina2Transformer2DModel", config)
    down, up = (exported[f"diffusion_model.layers.5.attention.qkv.lora_{half}.weight"] for half in "AB")
    assert down.shape == (6, 8) and len(exported) == 2
    torch.testing.assert_close(up @ down, torch.cat(expected))


def test_fused_layer_leaves_missing_parts_alone():
    config = {"hidden_size": 8, "num_attention_heads": 4, "num_kv_heads": 2}
    lora = plain("context_refiner.1.attn.to_v", 4, 8)
    down, up = comfyui_lora(lora, "Lumina2Transformer2DModel", config).values()
    expected = torch.zeros(16, 8)
    expected[12:] = lora["transformer.context_refiner.1.attn.to_v.lora_B.weight"] @ down
    torch.testing.assert_close(up @ down, expected)


def test_export_leaves_its_input_alone():
    lora = plain("blocks.0.attn1.to_q")
    before = {key: weight.clone() for key, weight in lora.items()}
    comfyui_lora(lora, "WanTransformer3DModel", {})
    assert lora.keys() == before.keys()
    for key, weight in lora.items():
        torch.testing.assert_close(weight, before[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("lora", "class_name", "config", "message"),
    [
        (plain("a"), "SanaTransformer2DModel", {}, "ComfyUI has no Sana model"),
        (plain("a"), "OmniGenTransformer2DModel", {}, "not in our table"),
        (plain("pos_embed.other"), "SD3Transformer2DModel", {}, "no name that we know .*pos_embed.other"),
        ({"transformer.proj_out.alpha": torch.ones(())}, "SD3Transformer2DModel", {}, "not a weight of a plain LoRA"),
        (plain("proj_out", component="text_encoder"), "SD3Transformer2DModel", {}, "not a weight of a plain LoRA"),
        (
            {"transformer.proj_out.lora_A.weight": torch.ones(1, 1)},
            "SD3Transformer2DModel",
            {},
            "has no 'proj_out.lora_B.weight'",
        ),
        (
            plain("layers.0.attn.to_k", 8),
            "Lumina2Transformer2DModel",
            {"hidden_size": 8, "num_attention_heads": 4, "num_kv_heads": 2},
            "has 8 rows and the model's configuration says 4",
        ),
    ],
)
def test_export_names_what_is_missing(lora, class_name, config, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        comfyui_lora(lora, class_name, config)


def nodes_of(workflow: dict, class_type: str) -> list[dict]:
    return [node["inputs"] for node in workflow.values() if node["class_type"] == class_type]


@each_recipe
def test_workflow_is_one_connected_graph(family):
    workflow = json.loads(json.dumps(comfyui_workflow(family, [0.9, 0.4], "twinflow.safetensors", "a cat")))
    used = set()
    for number, node in workflow.items():
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert int(value[0]) < int(number)
                used.add(value[0])
    ends = [node["class_type"] for number, node in workflow.items() if number not in used]
    assert ends in (["SaveImage"], ["SaveVideo"])
    assert nodes_of(workflow, "LoraLoaderModelOnly")[0]["lora_name"] == "twinflow.safetensors"
    assert "a cat" in json.dumps(workflow)


def test_workflow_samples_on_the_grid():
    workflow = comfyui_workflow("flux", [0.999, 0.2345678], "lora.safetensors", "a cat", seed=7)
    assert nodes_of(workflow, "ManualSigmas") == [{"sigmas": "0.999, 0.2345678, 0"}]
    assert nodes_of(workflow, "KSamplerSelect") == [{"sampler_name": "lcm"}]
    assert nodes_of(workflow, "RandomNoise") == [{"noise_seed": 7}]
    assert nodes_of(workflow, "FluxGuidance")[0]["guidance"] == 1.0
    assert not nodes_of(workflow, "ModelSamplingSD3")


def test_workflow_has_no_exponents():
    (sigmas,) = nodes_of(comfyui_workflow("flux", [1.0, 1e-5, 0.0], "lora.safetensors", ""), "ManualSigmas")
    assert sigmas == {"sigmas": "1, 0.00001, 0"}


def test_workflow_counts_noise_of_a_diffusion_model_in_its_unit():
    arguments = ("stable_diffusion_xl", [0.75, 0.5], "lora.safetensors", "")
    assert nodes_of(comfyui_workflow(*arguments), "ManualSigmas") == [{"sigmas": "3, 1, 0"}]
    flow = comfyui_workflow(*arguments, flow_matching=True)
    assert nodes_of(flow, "ManualSigmas") == [{"sigmas": "0.75, 0.5, 0"}]
    assert nodes_of(flow, "ModelSamplingSD3")[0]["shift"] == 1.0


def test_workflow_without_new_noise_is_euler():
    workflow = comfyui_workflow("wan", [0.9], "lora.safetensors", "", stochastic_ratio=0.0, frames=17)
    assert nodes_of(workflow, "KSamplerSelect") == [{"sampler_name": "euler"}]
    assert nodes_of(workflow, "EmptyHunyuanLatentVideo")[0]["length"] == 17


def test_workflow_takes_other_files():
    files = {"ckpt_name": "mine.safetensors"}
    workflow = comfyui_workflow("stable_diffusion_3", [0.9], "lora.safetensors", "", files=files)
    assert nodes_of(workflow, "CheckpointLoaderSimple") == [{"ckpt_name": "mine.safetensors"}]


@pytest.mark.parametrize(
    ("family", "sigmas", "options", "message"),
    [
        ("sana", [0.9], {}, "ComfyUI has no Sana model"),
        ("unknown", [0.9], {}, "we have no workflow for it"),
        ("flux", [], {}, "are not valid noise levels"),
        ("flux", [0.0], {}, "are not valid noise levels"),
        ("flux", [0.5, 0.5], {}, "are not valid noise levels"),
        ("flux", [1.5, 0.5], {}, "are not valid noise levels"),
        ("flux", [0.5, -0.5], {}, "are not valid noise levels"),
        ("flux", [float("nan")], {}, "are not valid noise levels"),
        ("stable_diffusion", [1.0, 0.5], {}, "sigmas start at 1"),
        ("flux", [0.9], {"stochastic_ratio": 0.5}, "has no sampler in ComfyUI"),
        ("flux", [0.9], {"frames": 5}, "makes images"),
        ("flux", [0.9], {"flow_matching": False}, "is a flow-matching model"),
        ("flux", [0.9], {"files": {"ckpt_name": "a"}}, "no input 'ckpt_name' for flux"),
    ],
)
def test_workflow_names_what_is_wrong(family, sigmas, options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        comfyui_workflow(family, sigmas, "lora.safetensors", "", **options)


def test_documentation_has_a_row_per_family():
    rows = DOCUMENTATION.read_text(encoding="utf-8").splitlines()
    for name, family in FAMILIES.items():
        (row,) = [row for row in rows if row.startswith(f"| `{name}` |")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        classes = stock_classes(family)
        assert cells[1:3] == ["yes" if classes & told else "no" for told in (AS_THEY_ARE, LAYOUTS.keys())]


@pytest.fixture(scope="module")
def comfyui():
    return load_comfyui(CHECKOUT)


@needs_comfyui
@pytest.mark.slow
@each_pair
def test_comfyui_draws_the_velocity_of_the_merged_lora(pair, comfyui):
    """Before the LoRA both models agree, so the test's copy of the base is right; after it they still do."""
    model, native = pair.build(), pair.build_native(comfyui)
    copy_weights(comfyui, pair, model, native)
    x_t, t = pair.point(native)
    before = pair.velocity(model, x_t, t)
    tolerance = 1e-4 * before.abs().max().item()
    torch.testing.assert_close(pair.native_velocity(native, x_t, t), before, rtol=0, atol=tolerance)
    lora = random_lora(pair, model)
    apply(comfyui, native, comfyui_lora(lora, pair.class_name, model.config))
    merge(pair, model, lora)
    after = pair.velocity(model, x_t, t)
    tolerance = 1e-4 * after.abs().max().item()
    assert (after - before).abs().max() > 100 * tolerance
    torch.testing.assert_close(pair.native_velocity(native, x_t, t), after, rtol=0, atol=tolerance)


@needs_comfyui
@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 0.0])
@pytest.mark.parametrize("family", ["flux", "lumina2", "wan", "stable_diffusion_xl"])
def test_comfyui_takes_the_steps_of_the_workflow(family, ratio, comfyui):
    """The workflow's sampler and sigmas against the formula of one step, with the same noise."""
    pair, sigmas = PAIRS[family], [0.9, 0.6, 0.2]
    workflow = comfyui_workflow(family, sigmas, "lora.safetensors", "", stochastic_ratio=ratio)
    model, native = pair.build(), pair.build_native(comfyui)
    copy_weights(comfyui, pair, model, native)
    if pair.is_diffusion:  # ComfyUI takes whole timesteps alone
        levels = native.model_sampling.sigmas[torch.tensor([850, 600, 150])]
        sigmas = (levels / (1 + levels)).tolist()
        workflow = comfyui_workflow(family, sigmas, "lora.safetensors", "", stochastic_ratio=ratio)
    nodes = load_nodes()
    (grid,) = nodes["ManualSigmas"].execute(**nodes_of(workflow, "ManualSigmas")[0]).result
    sampler = comfyui.samplers.sampler_object(nodes_of(workflow, "KSamplerSelect")[0]["sampler_name"])
    noises = [noise(2, *pair.shape, seed=seed) for seed in range(len(sigmas))]

    x = sigmas[0] * noises[0]
    for index, (sigma, target) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        velocity = pair.velocity(model, x, torch.full((2,), sigma))
        data, fresh = x - sigma * velocity, x + (1 - sigma) * velocity
        if ratio and target:
            fresh = noises[index + 1]
        x = (1 - target) * data + target * fresh

    drawn = comfyui_sample(pair, native, sampler, grid, noises)
    torch.testing.assert_close(drawn, x, rtol=0, atol=2e-4 * x.abs().max().item())


def comfyui_sample(pair, native, sampler, grid, noises):
    """What ComfyUI's sampler draws from a tiny model, with noise of our own."""

    class Denoiser:
        inner_model = None

        def get_model_object(self, name):
            return getattr(native, name)

        def __call__(self, x, sigma, **extra):
            condition = pair.condition()
            context = condition["prompt_embeds"]
            return native.apply_model(x, sigma, c_crossattn=context, **pair.arguments(native, condition))

    denoiser = Denoiser()
    denoiser.inner_model = denoiser.model_patcher = denoiser
    fresh = iter(noises[1:])
    options = {"noise_sampler": lambda *_: next(fresh)} if sampler.sampler_function.__name__ == "sample_lcm" else {}
    start = native.model_sampling.noise_scaling(grid[0], noises[0].clone(), torch.zeros_like(noises[0]))
    with torch.no_grad():
        return sampler.sampler_function(denoiser, start, grid, disable=True, **options)


@needs_comfyui
@each_recipe
def test_comfyui_has_the_nodes_of_the_workflow(family, comfyui):
    workflow, nodes = comfyui_workflow(family, [0.9, 0.4], "lora.safetensors", "a cat"), load_nodes()
    for node in workflow.values():
        check_node(node, workflow, nodes)


@needs_comfyui
def test_comfyui_has_the_nodes_of_a_flow_on_a_diffusion_base(comfyui):
    workflow = comfyui_workflow("stable_diffusion", [0.9], "lora.safetensors", "", flow_matching=True)
    nodes = load_nodes()
    for node in workflow.values():
        check_node(node, workflow, nodes)


def check_node(node, workflow, nodes):
    """The inputs of a node are those that its class takes, of their types and within their limits."""
    types = nodes[node["class_type"]].INPUT_TYPES()
    known = {**types["required"], **types.get("optional", {})}
    assert types["required"].keys() <= node["inputs"].keys() <= known.keys(), node
    for name, value in node["inputs"].items():
        kind, options = (*known[name], {})[:2]
        if isinstance(value, list):
            source = workflow[value[0]]["class_type"]
            assert nodes[source].RETURN_TYPES[value[1]] == kind, (node, name)
        elif name == "image" or (name.rstrip("123").endswith("_name") and name != "sampler_name"):
            assert value.endswith((".safetensors", ".png"))
        elif kind in ("INT", "FLOAT"):
            assert options["min"] <= value <= options["max"]
            assert kind == "FLOAT" or (value - options["min"]) % options.get("step", 1) == 0, (node, name)
        elif kind == "STRING":
            assert isinstance(value, str)
        else:
            choices = kind if isinstance(kind, list) else options["options"]
            choices = [choice["key"] if isinstance(choice, dict) else choice for choice in choices]
            assert value in choices, (node, name)
