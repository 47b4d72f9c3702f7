import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub import TwinFlowRepositoryConfig, load_twinflow_lora, save_stock_lora
from diffusers_twinflow.hub.files import CONDITIONING_NAME, CONFIG_NAME, LORA_NAME, locate_repository
from diffusers_twinflow.hub.lora_files import save_lora
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.schedulers import TwinFlowScheduler
from diffusers_twinflow.training.saving import repository_config
from tests import tiny

FAMILY = FAMILIES["stable_diffusion_3"]


def forward(transformer, timesteps=(1000.0, 300.0), **times):
    condition = tiny.sd3_condition(2)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.ones(2, 4, 8, 8),
            timestep=torch.tensor(timesteps),
            encoder_hidden_states=condition["prompt_embeds"],
            pooled_projections=condition["pooled_prompt_embeds"],
            **times,
        ).sample


TIMES = {"target_timestep": torch.tensor([0.0, 100.0]), "timestep_sign": torch.tensor([1.0, -1.0])}


def test_round_trip(repository, base_dir):
    directory, trained = repository
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    config = load_twinflow_lora(pipeline, directory)
    torch.testing.assert_close(forward(pipeline.transformer, **TIMES), forward(trained, **TIMES))
    assert isinstance(pipeline.scheduler, TwinFlowScheduler)
    assert config.twinflow.twinflow_target_step_count == 2


def test_stock_diffusers_loads_the_lora_with_its_alpha_and_its_target_time(repository, base_dir):
    directory, trained = repository
    stock = StableDiffusion3Pipeline.from_pretrained(base_dir, text_encoder_3=None, tokenizer_3=None)
    stock.load_lora_weights(directory)
    assert type(stock.transformer) is SD3Transformer2DModel
    grid = (999.0, 600.0)
    expected = forward(trained, grid, target_timestep=torch.zeros(2))
    torch.testing.assert_close(forward(stock.transformer, grid), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "is_exact"),
    [
        ({"r": 2, "lora_alpha": 4}, True),
        ({"r": 2, "lora_alpha": 6}, False),
        ({"r": 3, "lora_alpha": 1.5, "use_rslora": True}, False),
        ({"r": 2, "lora_alpha": 1, "rank_pattern": {"attn.to_q": 4}, "alpha_pattern": {"attn.to_k": 8}}, True),
    ],
)
def test_the_scale_is_in_the_tensors(tmp_path, options, is_exact):
    """For tools that multiply the two factors and know no alpha; readers of the metadata scale by one too."""
    transformer = tiny.sd3_transformer()
    targets = ["attn.to_q", "attn.to_k"]
    transformer.add_adapter(LoraConfig(target_modules=targets, init_lora_weights=False, **options))
    transformer.set_adapters("default", 0.5)
    save_stock_lora(tmp_path, transformer, FAMILY)
    transformer.set_adapters("default", 1.0)
    tensors = load_file(tmp_path / LORA_NAME)
    loaded = tiny.sd3_transformer()
    loaded.load_lora_adapter(tmp_path, weight_name=LORA_NAME, prefix="transformer")
    for name in ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_k"):
        expected = transformer.get_submodule(name).get_delta_weight("default")
        factors = (tensors[f"transformer.{name}.lora_{half}.weight"] for half in "BA")
        for delta in (torch.matmul(*factors), loaded.get_submodule(name).get_delta_weight("default_0")):
            torch.testing.assert_close(delta, expected, atol=0 if is_exact else 1e-7, rtol=0 if is_exact else 1e-6)
    lora_config = loaded.peft_config["default_0"]
    assert lora_config.lora_alpha == lora_config.r and lora_config.alpha_pattern == lora_config.rank_pattern


def test_a_lora_of_an_older_version_keeps_its_alpha(repository, base_dir):
    directory, trained = repository
    weights = get_peft_model_state_dict(trained)
    save_lora(FAMILY, directory, LORA_NAME, weights, trained.peft_config["default"].to_dict())
    break_config(directory, portable=None)
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    load_twinflow_lora(pipeline, directory)
    layer = pipeline.transformer.transformer_blocks[0].attn.to_q
    assert layer.lora_alpha["twinflow"] == 6 and layer.r["twinflow"] == 2
    torch.testing.assert_close(forward(pipeline.transformer, **TIMES), forward(trained, **TIMES))


@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_base_in_a_folder_is_found_again(tmp_path, base_dir, script, monkeypatch, is_absolute):
    """An absolute path holds if the result alone moves, a relative one if both move together."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base_dir, "work/base")
    base = str(tmp_path / "work" / "base") if is_absolute else "work/base"
    arguments = script.parse_args(["--pretrained_model_name_or_path", base, "--output_dir", "work/lora"])
    saved = repository_config(arguments.arguments, {}, TwinFlowConfig(), FAMILY, 7)
    Path("work/lora").mkdir()
    saved.save("work/lora")
    if is_absolute:
        moved = shutil.move("work/lora", tmp_path / "elsewhere")
    else:
        moved = Path(shutil.move("work", tmp_path / "elsewhere")) / "lora"
    repository = locate_repository(moved)
    found = TwinFlowRepositoryConfig.load_located(repository).locate_base(repository)
    assert (Path(found) / "model_index.json").is_file()


def test_a_file_is_refused_with_the_folder_to_pass(repository):
    directory, _ = repository
    for load in (TwinFlowRepositoryConfig.load, TwinFlowPipeline.from_pretrained):
        with pytest.raises(TwinFlowConfigError, match=f"is a file. Pass its folder, '{directory}'"):
            load(directory / LORA_NAME)


def test_an_unknown_option_of_a_folder_is_refused(repository, base_dir):
    with pytest.raises(TypeError, match="'adapter' is not a Hub option"):
        load_twinflow_lora(load_stock_pipeline(FAMILY, base_dir), repository[0], adapter="x")


def test_a_dtype_that_is_a_text_is_refused(repository):
    with pytest.raises(TwinFlowConfigError, match="dtype='bfloat16' is a string"):
        TwinFlowPipeline.from_pretrained(repository[0], dtype="bfloat16")


def test_what_a_repository_holds(repository):
    directory, _ = repository
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert names == {LORA_NAME, CONDITIONING_NAME, CONFIG_NAME, "scheduler/scheduler_config.json"}
    assert json.loads((directory / CONFIG_NAME).read_text())["guidance_scale"] == 0.0


def test_a_configuration_that_names_other_layers_as_folded_is_refused(repository, base_dir):
    directory, _ = repository
    portable = json.loads((directory / CONFIG_NAME).read_text())["portable"]
    for layers, message in [
        ({"proj_out": 1}, "not a timestep embedder"),
        ({"x": 0}, "'portable'"),
        ([1], "'portable'"),
    ]:
        break_config(directory, portable=portable | {"layers": layers})
        with pytest.raises(TwinFlowConfigError, match=message):
            load_twinflow_lora(load_stock_pipeline(FAMILY, base_dir), directory)
    [name] = portable["layers"]
    break_config(directory, portable=portable | {"layers": {name: 9}})
    with pytest.raises(TwinFlowConfigError, match="no such layer of rank 9"):
        load_twinflow_lora(load_stock_pipeline(FAMILY, base_dir), directory)


def break_config(directory, **values):
    path = directory / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def break_conditioning(directory, change):
    path = directory / CONDITIONING_NAME
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def widen(tensors):
    tensors["time_sign_embed.weight"] = torch.zeros(2, 32)


def poison(tensors):
    tensors["time_sign_embed.weight"][1, 0] = float("nan")


def sign(tensors):
    tensors["time_sign_embed.weight"][0, 0] = 1.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / CONFIG_NAME).unlink(), "no twinflow_config.json"),
        (lambda d: (d / LORA_NAME).unlink(), "no pytorch_lora_weights"),
        (lambda d: break_config(d, family="sorcery"), "family='sorcery'"),
        (lambda d: break_config(d, train_type="full"), "is a full model"),
        (lambda d: break_conditioning(d, widen), "has width 16"),
        (lambda d: break_conditioning(d, poison), "not finite"),
        (lambda d: break_conditioning(d, sign), "embedding of the sign \\+1"),
    ],
)
def test_broken_repositories_leave_the_pipeline_as_it_was(repository, base_dir, spoil, message):
    directory, _ = repository
    spoil(directory)
    pipeline = load_stock_pipeline(FAMILY, base_dir)
    scheduler, before = pipeline.scheduler, forward(pipeline.transformer)
    with pytest.raises(TwinFlowConfigError, match=message):
        load_twinflow_lora(pipeline, directory)
    assert pipeline.scheduler is scheduler and type(pipeline.transformer) is SD3Transformer2DModel
    assert torch.equal(forward(pipeline.transformer), before)
