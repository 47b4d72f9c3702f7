"""Impossible exports raise one clear error, and nothing is written."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
from peft import LoraConfig

from diffusers_twinflow import TwinFlowConfigError, TwinFlowScheduler, export
from diffusers_twinflow.hub import save_twinflow_lora
from diffusers_twinflow.hub.files import CONFIG_NAME
from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel
from diffusers_twinflow.training.quantization import quantization_config
from diffusers_twinflow.writing import DiskError
from tests import tiny
from tests.hub.repositories import repository_config, train_conditioning


def refused(source, output, *arguments, **options) -> str:
    """The error of an export that leaves no trace."""
    before = sorted(output.parent.rglob("*")) if output.parent.exists() else None
    with pytest.raises(TwinFlowConfigError) as error:
        export(source, output, *arguments, **options)
    assert (sorted(output.parent.rglob("*")) if output.parent.exists() else None) == before
    return str(error.value)


@pytest.fixture
def copy(shared_repository, tmp_path):
    return shutil.copytree(shared_repository, tmp_path / "lora")


def change(directory, **values):
    path = directory / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def write_lora(directory, base_dir, targets, *, scheduler=None, conditioned=True):
    transformer = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    if conditioned:
        transformer.enable_twinflow()
        train_conditioning(transformer)
    transformer.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    directory.mkdir()
    config = repository_config("lora", str(base_dir))
    save_twinflow_lora(directory, transformer, config, scheduler or TwinFlowScheduler())
    return directory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gguf"}, "format='gguf' is not valid. Use one of diffusers, comfyui, merged, transformer."),
        ({"sampling_style": "one"}, "sampling_style='one' is not valid. Use one of few, any, multi."),
        ({"step_counts": [0]}, "step_counts=[0] is not valid. Use whole numbers from 1 to 1000"),
        ({"step_counts": []}, "step_counts=[] is not valid"),
        ({"step_counts": [1.5]}, "step_counts=[1.5] is not valid"),
    ],
)
def test_arguments(shared_repository, tmp_path, options, message):
    assert refused(shared_repository, tmp_path / "a" / "out", **options).startswith(message)


def test_output_that_exists(shared_repository, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("out", "file"):
        assert "exists and is not empty: choose a new folder" in refused(shared_repository, tmp_path / name)


@pytest.mark.parametrize("format", ["diffusers", "comfyui", "merged", "transformer"])
def test_grid_that_contradicts_another(shared_repository, tmp_path, format):
    options = {"sampling_style": "any", "step_counts": [2, 1, 4]}
    message = refused(shared_repository, tmp_path / "a" / "out", format, **options)
    assert message.startswith(
        "step_counts=[2, 1, 4] do not fit into one file with sampling_style='any'. These fit: 2."
    )
    assert "At the times of 1, 4 steps" in message


def test_grid_that_is_too_long(shared_repository, tmp_path):
    """Style any needs one rank for each evaluation, and the tiny embedder has 16 inputs."""
    message = refused(shared_repository, tmp_path / "a" / "out", sampling_style="any", step_counts=[40])
    assert "cannot be exported for 40 steps: the last layer of its timestep embedder has 16 inputs" in message


@pytest.mark.parametrize("format", ["diffusers", "merged"])
def test_adapter_without_time_conditioning(base_dir, tmp_path, format):
    plain = write_lora(tmp_path / "plain", base_dir, ["to_q"], conditioned=False)
    message = refused(plain, tmp_path / "a" / "out", format)
    assert "has no time conditioning, so there is nothing to export" in message


def test_family_without_a_mapping_for_comfyui(copy, tmp_path):
    change(copy, family="sana")
    message = refused(copy, tmp_path / "a" / "out", "comfyui")
    assert "ComfyUI has no Sana model. Export it as a plain diffusers LoRA instead." in message


def test_options_that_comfyui_has_no_sampler_for(base_dir, tmp_path):
    lora = write_lora(tmp_path / "lora", base_dir, ["to_q"], scheduler=TwinFlowScheduler(stochastic_ratio=0.5))
    assert "exist only in TwinFlowScheduler" in refused(lora, tmp_path / "a" / "out", "comfyui")
    use = export(lora, tmp_path / "plain")
    assert use == "Only `TwinFlowScheduler` has the sampling options of this model."
    loaded = TwinFlowScheduler.from_pretrained(tmp_path / "plain", subfolder="scheduler")
    assert loaded.config.stochastic_ratio == 0.5


def test_family_whose_pipeline_loads_no_lora(copy, tmp_path):
    change(copy, family="pixart_sigma")
    message = refused(copy, tmp_path / "a" / "out")
    assert "PixArtSigmaPipeline cannot load LoRAs. Use merged or transformer." in message


@pytest.mark.parametrize("format", ["diffusers", "comfyui"])
def test_whole_model_in_a_format_for_loras(shared_model, tmp_path, format):
    message = refused(shared_model, tmp_path / "a" / "out", format)
    assert re.match(
        rf"format='{format}' is only for LoRAs, but '.+' is a whole model. Use merged or transformer.", message
    )


def test_quantized_base_in_a_format_with_all_weights(shared_repository, tmp_path):
    quantization = quantization_config("torchao_int8", ["transformer"], torch.float32)
    for format in ("merged", "transformer"):
        message = refused(shared_repository, tmp_path / "a" / "out", format, quantization_config=quantization)
        assert message.startswith("the transformer is quantized")
    export(shared_repository, tmp_path / "plain", quantization_config=quantization)


def test_output_inside_a_file(shared_repository, tmp_path):
    (tmp_path / "file").touch()
    message = refused(shared_repository, tmp_path / "file" / "out")
    assert message.endswith(f"'{tmp_path / 'file'}' is a file. Choose another folder.")


def test_what_is_no_repository(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is not a TwinFlow repository" in refused(tmp_path / "empty", tmp_path / "a" / "out")


@pytest.mark.skipif(os.name != "posix", reason="the limit on files is POSIX's")
@pytest.mark.parametrize("format", ["diffusers", "comfyui", "merged", "transformer"])
def test_a_full_disk_leaves_nothing(shared_repository, tmp_path, format):
    """Files of this process can be 6,000 bytes long while it exports."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(DiskError, match="out' could not be written"):
            export(shared_repository, tmp_path / "out", format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def test_the_repository_is_left_alone(shared_repository, tmp_path):
    def contents():
        return {path: path.read_bytes() for path in shared_repository.rglob("*") if path.is_file()}

    before = contents()
    for format in ("diffusers", "comfyui", "merged", "transformer"):
        export(shared_repository, tmp_path / format, format)
    assert contents() == before


def test_an_empty_folder_is_filled(shared_repository, tmp_path):
    (tmp_path / "out").mkdir()
    export(shared_repository, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
