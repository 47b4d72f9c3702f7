"""What loading and training say about modular pipelines."""

import diffusers
import pytest

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError, TwinFlowPipeline, load_twinflow_lora
from diffusers_twinflow.hub.repository import TwinFlowRepositoryConfig
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


def test_it_cannot_be_trained(saved, image_dir):
    arguments = TrainingArguments(str(saved), instance_data_dir=str(image_dir))
    with pytest.raises(
        TwinFlowConfigError, match=r"modular pipeline \(Flux3ModularPipeline\), which cannot be trained"
    ):
        Trainer(None, arguments, TwinFlow(TwinFlowConfig(twinflow_enabled=True)))


def test_it_is_no_twinflow_repository(saved):
    with pytest.raises(TwinFlowConfigError, match=r"\(Flux3ModularPipeline\) and not a TwinFlow.*update_components"):
        TwinFlowPipeline.from_pretrained(saved)


def test_it_is_no_base(saved, tmp_path, base_dir):
    write_repository(tmp_path / "lora", str(base_dir))
    assert TwinFlowRepositoryConfig.load(tmp_path / "lora").base_model
    with pytest.raises(TwinFlowConfigError, match=r"\(Flux3ModularPipeline\), and a base must be a stock pipeline"):
        TwinFlowPipeline.from_pretrained(tmp_path / "lora", base_model=str(saved))


def test_a_lora_is_not_loaded_into_it(tmp_path, base_dir):
    write_repository(tmp_path / "lora", str(base_dir))
    modular, _ = ALONE["Flux3"]()
    with pytest.raises(TwinFlowConfigError, match="is a modular pipeline, and this needs a stock pipeline"):
        load_twinflow_lora(modular, tmp_path / "lora")
