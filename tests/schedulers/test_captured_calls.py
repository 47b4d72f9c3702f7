"""Derived families of stock pipelines, compared with the pipelines' own first evaluation."""

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.encoders import size_multiple
from tests.schedulers import pipeline_matrix
from tests.schedulers.captured_pipelines import CANNOT_BE_CAPTURED, CONTROLLED, TRAINED, WITHOUT_A_PROMPT, Captured
from tests.schedulers.stock_pipelines import PIPELINES, VARIANTS
from tests.schedulers.stock_pipelines.batches import RESIZES
from tests.smaller_pictures import resize_to

USUAL = ("prediction negated, constant mu", "inverted sigmas", "channels last", "sigmas as the model's time")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    resize_to(32 * 32, RESIZES, monkeypatch)


def each_pipeline():
    for contract in {**PIPELINES, **VARIANTS}:
        marks = () if contract in USUAL else pytest.mark.slow
        yield pytest.param(contract, marks=marks)


@pytest.mark.parametrize("contract", each_pipeline())
def test_the_first_evaluation_is_the_pipelines_own(contract):
    captured = Captured(contract)
    family = captured.family
    if contract in WITHOUT_A_PROMPT:
        with pytest.raises(TwinFlowConfigError, match="its call takes no `prompt`"):
            family.for_samples(captured.pipe, resolution=32)
        return
    if contract in CANNOT_BE_CAPTURED:
        with pytest.raises(TwinFlowConfigError, match=f"(?s){CANNOT_BE_CAPTURED[contract]}"):
            family.layout = family.find_layout(captured.pipe, captured.capture)
            captured.velocity(captured.most())
        return
    captured.first_evaluation_is_the_pipelines()


@pytest.mark.parametrize(
    "contract",
    [pytest.param(each, marks=() if each == "controlnet" else pytest.mark.slow) for each in CONTROLLED],
)
def test_a_controlnet_runs_at_each_evaluation(contract):
    Captured(contract).second_evaluation_is_the_pipelines()


@torch.no_grad()
def test_a_model_that_returns_patches_while_it_trains_gives_the_same_velocity():
    captured = Captured("prediction negated, constant mu")
    captured.family.layout = captured.family.find_layout(captured.pipe, captured.capture)
    expected = captured.velocity(1)
    captured.family.denoiser(captured.pipe).train()
    torch.testing.assert_close(captured.velocity(1), expected, rtol=1e-4, atol=1e-4)


ONE_SIZE = (
    "control by channels",  # a tensor has the size of the call
    "CogView4ControlPipeline",
    *CONTROLLED,
    "Cosmos3OmniPipeline",  # the places of a sample's tokens follow the prompt
    "channels last",  # a list of sizes
    "Kandinsky5I2IPipeline",
    "steps only, learned positions",  # no more positions than the call needs
    "HunyuanVideo15ImageToVideoPipeline",  # the size of the image
    "LongCatImageEditPipeline",
)


@pytest.mark.parametrize(
    "contract",
    [
        pytest.param(each, marks=() if each == "attention mask" else pytest.mark.slow)
        for each in TRAINED
        if each not in ONE_SIZE
    ],
)
def test_another_size_is_the_pipelines_own(contract, monkeypatch):
    Captured(contract).another_size_is_the_pipelines(monkeypatch)


@pytest.mark.slow
def test_the_page_tells_which_pipelines_train():
    for path, text in pipeline_matrix.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run `python -m tests.schedulers.pipeline_matrix`"


@pytest.mark.slow
@pytest.mark.parametrize("contract", TRAINED)
def test_sides_have_a_multiple(contract):
    captured = Captured(contract)
    assert size_multiple(captured.pipe, captured.family.denoiser(captured.pipe)) >= 1
