"""Recipes as SimpleTuner's users have them, in the training script's parser and in a run."""

import json

import pytest
import torch

from diffusers_twinflow import TwinFlowPipeline
from diffusers_twinflow.integrations.simpletuner.defaults import DEFAULTS, LORA_DEFAULTS, OPTIMIZER_DEFAULTS
from diffusers_twinflow.integrations.simpletuner.option_table import RENAMED
from tests import tiny
from tests.training_script import SCRIPT, all_options

RUN = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
TWINFLOW = {
    "distillation_method": None,
    "use_ema": True,
    "twinflow_enabled": True,
    "twinflow_target_step_count": 2,
    "twinflow_estimate_order": 2,
    "twinflow_enhanced_ratio": 0.5,
    "twinflow_delta_t": 0.01,
    "twinflow_target_clamp": 1.0,
    "validation_guidance": 0.0,
    "validation_num_inference_steps": 2,
}
USUAL = TWINFLOW | {
    "model_type": "lora",
    "lora_type": "standard",
    "lora_rank": 4,
    "learning_rate": 1e-4,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 10,
    "optimizer": "adamw_bf16",
    "train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "max_train_steps": 100,
    "num_train_epochs": 0,
    "checkpoint_step_interval": 50,
    "checkpoints_total_limit": 5,
    "data_backend_config": "multidatabackend.json",
    "output_dir": "output/models",
    "resume_from_checkpoint": "latest",
    "mixed_precision": "bf16",
    "base_model_precision": "no_change",
    "quantize_via": "cpu",
    "vae_batch_size": 1,
    "cache_dir_text": "cache/text",
    "compress_disk_cache": True,
    "disable_bucket_pruning": True,
    "aspect_bucket_rounding": 2,
    "minimum_image_size": 0,
    "caption_dropout_probability": 0.1,
    "resolution": 1024,
    "resolution_type": "pixel_area",
    "seed": 42,
    "report_to": "none",
    "tracker_project_name": "lora-training",
    "tracker_run_name": "twinflow",
    "push_to_hub": False,
    "push_checkpoints_to_hub": False,
    "hub_model_id": "my-lora",
    "validation_prompt": "a red fox in the snow",
    "validation_prompt_library": False,
    "validation_negative_prompt": "blurry, cropped",
    "validation_guidance_rescale": 0.0,
    "validation_resolution": "1024x1024",
    "validation_seed": 42,
    "validation_steps": 50,
    "num_eval_images": 25,
    "ema_update_interval": 25,
    "ema_device": "cpu",
    "ema_cpu_only": True,
    "attention_mechanism": "diffusers",
}
RECIPES = {
    "sd3": {
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-3.5-medium",
        "flow_schedule_shift": 3,
        "validation_guidance_skip_layers": [7, 8, 9],
        "text_encoder_3_precision": "no_change",
    },
    "flux": {"model_flavour": "dev", "flux_lora_target": "all", "base_model_precision": "int8-quanto"},
    "sana": {
        "pretrained_model_name_or_path": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
        "delete_problematic_images": True,
        "evaluation_type": "clip",
        "lora_alpha": 128,
    },
    "qwen_image": {"model_flavour": "v1.0", "optimizer": "optimi-lion", "vae_enable_tiling": True},
    "z_image": {"model_flavour": "base", "gradient_checkpointing_interval": 2, "dynamo_backend": "inductor"},
}
DATA = {
    "id": "mine",
    "type": "local",
    "dataset_type": "image",
    "instance_data_dir": "images",
    "caption_strategy": "textfile",
    "metadata_backend": "discovery",
    "crop": True,
    "crop_style": "center",
    "crop_aspect": "square",
    "resolution_type": "pixel_area",
    "minimum_image_size": 0,
    "cache_dir_vae": "cache/vae/{model_family}/mine",
    "disabled": False,
    "repeats": 1,
}
TEXT = {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text"}


def write_recipe(place, recipe, dashes=False, **data):
    """A recipe beside its data configuration, in a folder of its own; the images are in the working directory."""
    tiny.image_folder(place / "images")
    (place / "images" / "metadata.jsonl").unlink()
    for image in sorted((place / "images").glob("*.png")):
        image.with_suffix(".txt").write_text(f"{'ab'[int(image.stem) % 2]} picture\n")
    (place / "config").mkdir()
    (place / "config" / "multidatabackend.json").write_text(json.dumps([DATA | data, TEXT]))
    path = place / "config" / "config.json"
    path.write_text(json.dumps({f"--{name}" if dashes else name: value for name, value in recipe.items()}))
    return path


@pytest.mark.parametrize("dashes", [False, True], ids=["plain", "dashes"])
@pytest.mark.parametrize("family", RECIPES)
def test_a_recipe_is_read_by_the_training_script(script, tmp_path, monkeypatch, family, dashes):
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path, USUAL | {"model_family": family} | RECIPES[family], dashes, resolution=768)
    with pytest.warns(UserWarning, match="has no effect") as warned:
        args = all_options(script.parse_args(["--config", str(path)]))
    assert args.twinflow_enabled and args.use_ema and args.twinflow_target_step_count == 2
    assert (args.rank, args.max_train_steps, args.checkpointing_steps, args.resolution) == (4, 100, 50, 768)
    assert (args.instance_data_dir, args.caption_strategy, args.repeats) == ("images", "textfile", 2)
    assert args.center_crop and args.validation_prompts == ["a red fox in the snow"]
    assert "/" in args.pretrained_model_name_or_path and args.optimizer == "adamw"
    text = " ".join(str(warning.message) for warning in warned)
    assert (args.lora_dropout, args.gradient_checkpointing, args.adam_weight_decay) == (0.1, True, 0.01)
    assert args.quantize_base == ("torchao_int8" if family == "flux" else None)
    assert "defaults of SimpleTuner" in text and "lora_dropout=0.1" in text and "rank=" not in text
    for name in ("'quantize_via'", "'ema_device'", "'optimizer'", "'multidatabackend.json: cache_dir_vae'"):
        assert name in text


def test_every_new_name_is_an_option_of_the_script(script):
    defaults = [DEFAULTS, LORA_DEFAULTS, *OPTIMIZER_DEFAULTS.values()]
    names = {*(option.to for option in RENAMED.values()), *(name for values in defaults for name in values)}
    assert {f"--{name}" for name in names} <= set(script.build_parser()._option_string_actions)


def test_whole_numbers_as_floats_and_arguments_win(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = {
        "model_family": "sd3",
        "model_type": "lora",
        "max_train_steps": 100.0,
        "lora_alpha": 8.0,
        "use_ema": "true",
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    with pytest.warns(UserWarning, match="defaults of SimpleTuner.* rank=16"):
        args = all_options(script.parse_args(["--config", "recipe.json", "--rank", "32"]))
    assert (args.max_train_steps, args.lora_alpha, args.rank, args.use_ema) == (100, 8.0, 32, True)


@pytest.mark.slow
def test_a_recipe_trains_unchanged(hub, base_dir, tmp_path):
    changes = {
        "pretrained_model_name_or_path": str(base_dir),
        "model_family": "sd3",
        "output_dir": "trained",
        "max_train_steps": 3,
        "lr_warmup_steps": 1,
        "checkpoint_step_interval": 2,
        "validation_steps": 3,
        "validation_resolution": "16x16",
        "mixed_precision": "no",
        "tokenizer_max_length": 2,
        "num_validation_images": 1,
    }
    path = write_recipe(tmp_path, USUAL | changes, resolution=16)
    code = f"import os; os.chdir({str(tmp_path)!r}); " + RUN
    hub.run(code, "--config", path, token=None).check()
    pipeline = TwinFlowPipeline.from_pretrained(tmp_path / "trained", merge=False)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.twinflow_config.trained["steps"] == 3 and pipeline.twinflow_config.num_inference_steps == 2
    assert (tmp_path / "trained" / "checkpoint-2").is_dir()
    adapted = {n: tensor for n, tensor in pipeline.transformer.named_parameters() if "lora_B" in n}
    layers = {n.split(".attn.")[1].removesuffix(".lora_B.twinflow.weight") for n in adapted}
    assert layers == {"to_q", "to_k", "to_v", "to_out.0"} and all(tensor.any() for tensor in adapted.values())
    image = pipeline("a picture", generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert torch.isfinite(image).all()
