"""Scores of small cases, compared with values computed by hand."""

import math

import pytest
import torch
from PIL import Image

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.evaluation.metrics import (
    Diversity,
    FrechetDistance,
    JudgeScore,
    PromptScore,
    RapidOCRReader,
    TextRendering,
)
from diffusers_twinflow.evaluation.metrics.clip import mean_distance
from diffusers_twinflow.evaluation.models import PromptModel, load_model
from diffusers_twinflow.evaluation.prompts import EvaluationPrompt


def plain(*reds: int) -> torch.Tensor:
    """Images of one color each, which differ in red alone."""
    images = torch.zeros(len(reds), 3, 16, 16, dtype=torch.uint8)
    images[:, 0] = torch.tensor(reds)[:, None, None]
    return images


def named(*texts: str) -> list[EvaluationPrompt]:
    return [EvaluationPrompt(text) for text in texts]


class Red(torch.nn.Module):
    num_features = 1

    def forward(self, images):
        return images.float().mean((2, 3))[:, :1]


def test_the_frechet_distance_of_two_gaussians():
    """Means 1 and 6, standard deviations sqrt(2) and 2 sqrt(2): (6 - 1)^2 + (2 sqrt(2) - sqrt(2))^2 = 27."""
    metric = FrechetDistance(Red())
    metric.add_reference(plain(0, 2))
    for _ in range(2):  # a second set is compared with the same reference
        for red in (4, 8):
            metric.update(plain(red), named("a"))
        assert metric.compute()["fid"] == pytest.approx(27, rel=1e-6)
        metric.reset()


@pytest.fixture(scope="module")
def clip(scorers):
    return PromptModel.load(str(scorers / "clip"), local_files_only=True)


def test_the_clip_score_is_the_mean_cosine(clip):
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    tokens = clip.processor(text=["a b", "c d e"], return_tensors="pt", padding=True)
    with torch.no_grad():
        texts = clip.get_text_features(tokens["input_ids"], tokens["attention_mask"])
        cosines = torch.nn.functional.cosine_similarity(clip(images), texts)
    metric = PromptScore(clip)
    metric.update(images[:1], named("a b"))
    metric.update(images[1:], named("c d e"))
    assert metric.compute()["clip_score"] == pytest.approx(max(0, 100 * cosines.mean().item()), rel=1e-4)
    assert cosines.mean() != 0


def test_a_long_prompt_keeps_its_end_token(clip):
    tokens = clip.processor(text=["word " * 40], return_tensors="pt", padding=True)
    assert tokens["input_ids"].shape == (1, 16)
    assert tokens["input_ids"][0, -1] == clip.processor.processor.tokenizer.eos_token_id
    metric = PromptScore(clip)
    metric.update(plain(0), named("word " * 40))
    assert 0 <= metric.compute()["clip_score"] <= 100


def test_the_distance_of_features():
    assert mean_distance(torch.eye(3)) == 1 and mean_distance(torch.ones(2, 1)) == 0
    angle = math.radians(60)
    assert mean_distance(torch.tensor([[1, 0], [math.cos(angle), math.sin(angle)]])) == pytest.approx(0.5)


def test_diversity_compares_images_of_one_prompt_only(clip):
    noise = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    metric = Diversity(clip)
    metric.update(torch.cat([plain(9), noise[:1]]), named("same", "different"))
    metric.update(torch.cat([plain(9), noise[1:], plain(200)]), named("same", "different", "alone"))
    first, second = clip(noise).detach()
    assert metric.compute()["diversity"] == pytest.approx((0 + 1 - (first @ second).item()) / 2, abs=1e-5)
    metric.reset()
    metric.update(plain(1), named("alone"))
    assert metric.compute() == {}


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        (lambda images, prompts: images[:, 0].mean((1, 2)) * 255, {"judge": 4.0}),
        (lambda images, prompts: [len(prompt) for prompt in prompts], {"judge": 2.0}),
        (lambda images, prompts: len(images), {"judge": (2 * 2 + 1 * 1) / 3}),
        (
            lambda images, prompts: {"one": 1, "taste": torch.tensor([len(prompt) for prompt in prompts])},
            {"one": 1.0, "taste": 2.0},
        ),
        (lambda images, prompts: images.mean() * 0 + 7, {"judge": 7.0}),
    ],
    ids=["tensor", "list", "number per call", "dictionary", "scalar tensor"],
)
def test_a_judge_gives_numbers_in_many_forms(judge, expected):
    metric = JudgeScore(judge)
    metric.update(plain(0, 3), named("a", "bb"))
    metric.update(plain(9), named("ccc"))
    assert metric.compute() == pytest.approx(expected)
    metric.reset()
    assert metric.compute() == {}


@pytest.mark.parametrize(
    ("result", "message"), [([1.0], "1 numbers as 'judge' for 2 images"), ("good", "must return numbers")]
)
def test_a_judge_that_returns_something_else_is_named(result, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        JudgeScore(lambda images, prompts: result).update(plain(0, 3), named("a", "b"))


def test_records_of_other_processes_count():
    metric = JudgeScore(lambda images, prompts: images.mean() * 0 + 1, gather=lambda own: [*own, {"judge": (9.0, 3)}])
    metric.update(plain(0), named("a"))
    assert metric.compute() == {"judge": (1 + 9) / 4}


def test_the_text_in_an_image():
    """The first is one edit from what is wanted, the second contains it beside five letters, the third has none of it."""
    read = iter(["HEL O", "say Hello to", "x"])
    metric = TextRendering(lambda image: next(read))
    wanted = EvaluationPrompt("a sign", text="Hello")
    metric.update(plain(0, 1, 2), [wanted, EvaluationPrompt("no text"), wanted])
    metric.update(plain(3), [wanted])
    assert metric.compute() == pytest.approx({"text": (0.8 + 0 + 0) / 3, "text_exact": 1 / 3})
    with pytest.raises(TwinFlowConfigError, match="text needs prompts with `text`"):
        metric.check_prompts(named("a"))


@pytest.mark.slow
def test_rapidocr_reads_a_drawn_text():
    pytest.importorskip("rapidocr")
    from PIL import ImageDraw, ImageFont

    image = Image.new("RGB", (256, 96), "white")
    ImageDraw.Draw(image).text((20, 24), "Hello World", fill="black", font=ImageFont.load_default(36))
    reader = RapidOCRReader()
    assert reader(image).split() == ["Hello", "World"]
    assert reader(Image.new("RGB", (64, 64))) == ""


def test_a_model_that_is_not_there_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TwinFlowConfigError, match="clip_model='.+' cannot be loaded .*CLIP model"):
        load_model(PromptModel.load, str(tmp_path), "clip_model", "CLIP model")
