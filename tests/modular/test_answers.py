"""Errors of loading and training for modular pipelines."""

import json

import diffusers
import pytest

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora
from diffusers_twinflow.families import blocks_pipeline
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.hub.repositories import write_repository
from tests.modular.building import ALONE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a modular pipeline."""
    directory = tmp_path_factory.mktemp("modular")
    diffusers.Flux3ModularPipeline().save_pretrained(str(directory), overwrite_modular_index=True)
    assert (directory / "modular_model_index.json").is_file() and not (directory / "model_index.json").exists()
    return directory


def test_a_base_without_a_scheduler_is_refused(saved, image_dir):
    arguments = TrainingArguments(str(saved), instance_data_dir=str(image_dir))
    with pytest.raises(TwinFlowConfigError, match="has no scheduler. Give a base with one"):
        Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True)))


def test_it_is_no_twinflow_repository(saved):
    with pytest.raises(TwinFlowConfigError, match="modular pipeline and not a TwinFlow.*update_components"):
        TwinFlowPipeline.from_pretrained(saved)


def test_a_lora_is_loaded_through_the_interface_of_a_stock_pipeline(tmp_path, base_dir):
    write_repository(tmp_path / "lora", str(base_dir))
    modular, _ = ALONE["Flux3"]()
    with pytest.raises(TwinFlowConfigError, match=r"Flux3ModularPipeline is a modular pipeline.*blocks_pipeline\("):
        load_twinflow_lora(modular, tmp_path / "lora")


def test_other_blocks_are_refused():
    modular, _ = ALONE["Flux3"]()  # the denoising block alone
    with pytest.raises(TwinFlowConfigError, match="has other blocks than"):
        blocks_pipeline(modular)


def test_blocks_without_a_class_are_refused(saved, tmp_path, image_dir):
    index = json.loads((saved / "modular_model_index.json").read_text()) | {"_class_name": "ModularPipeline"}
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler", {"pretrained_model_name_or_path": None}]
    (tmp_path / "modular_model_index.json").write_text(json.dumps(index))
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "scheduler")
    arguments = TrainingArguments(str(tmp_path), instance_data_dir=str(image_dir))
    with pytest.raises(TwinFlowConfigError, match="has custom blocks"):
        Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True)))
