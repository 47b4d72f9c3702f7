import pytest
import torch

from quality.building import build_transformer, build_word_tokenizer
from quality.dataset import Split
from quality.judge import Judge, agreement, extract_features
from quality.prompts import build_evaluation
from quality.scores import Scorer, diversity, pairwise_mean, real_diversity
from quality.settings import FULL, REHEARSAL
from quality.timing import steps_within


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    return Split(
        images=torch.rand(24, 3, 32, 32, generator=generator),
        texts=[f"thing {number}" for number in range(24)],
        group_texts=[f"group {number % 3}" for number in range(24)],
        groups=torch.arange(24) % 3,
        styles=torch.arange(24) % 2,
        num_groups=3,
        num_styles=2,
    )


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return Judge(REHEARSAL.judge_channels, 3, 2).eval().requires_grad_(False)


def test_diversity_is_the_mean_distance_within_a_prompt():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [1.0, 1.0]])
    assert diversity(features, 2) == pytest.approx((5 + 0) / 2)
    three = torch.tensor([[0.0], [1.0], [3.0]])
    assert diversity(three, 3) == pytest.approx((1 + 3 + 2) / 3)


def test_diversity_of_real_images_leaves_out_what_is_alone():
    features, classes = torch.tensor([[0.0], [2.0], [9.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 2, 2])
    assert real_diversity(features, classes) == pytest.approx((2 * 2 + 2 * 0) / 4)


def test_distance_goes_pair_by_pair():
    assert pairwise_mean(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])) == 3


def test_agreement_counts_group_style_and_both(judge):
    features = torch.zeros(4, 128)
    features[[0, 1], 0], features[[0, 2], 1] = 1.0, 1.0
    for layer, column in ((judge.group, 0), (judge.style, 1)):
        layer.weight.zero_()
        layer.bias.zero_()
        layer.bias[0] = 0.5
        layer.weight[1, column] = 1.0
    shares = agreement(judge, features, torch.ones(4, dtype=int), torch.ones(4, dtype=int))
    assert shares == {"agreement": 0.25, "group_agreement": 0.5, "style_agreement": 0.5}


def test_the_train_images_themselves_score_zero(judge, split):
    scorer = Scorer(judge, split, build_evaluation(split, split, REHEARSAL))
    images = split.images[torch.arange(len(scorer.evaluation.prompts)) % 24]
    scorer.set_reference(images)
    row = scorer.score(images)
    assert row["distance_to_base"] == row["pixel_error_to_base"] == 0
    assert scorer.real_row(split, split)["frechet_distance"] == pytest.approx(0, abs=1e-5)
    worse = scorer.score(1 - images)
    assert worse["frechet_distance"] > row["frechet_distance"] and worse["pixel_error_to_base"] > 0.3


def test_prompts_ask_for_what_is_counted(split):
    evaluation = build_evaluation(split, split, REHEARSAL)
    assert len(evaluation.prompts) == len(evaluation.groups) == len(evaluation.noise) == 64 + 16 + 24
    for part, captions in (("name", split.texts), ("held_out", split.texts), ("group", split.group_texts)):
        rows = evaluation.part(part)
        for prompt, group in zip(evaluation.prompts[rows], evaluation.groups[rows]):
            assert split.groups[captions.index(prompt)] == group
    grouped = [evaluation.prompts[evaluation.part("diversity")][start : start + 4] for start in range(0, 16, 4)]
    assert all(len(set(prompts)) == 1 for prompts in grouped)
    again = build_evaluation(split, split, REHEARSAL)
    assert again.prompts == evaluation.prompts and torch.equal(again.noise, evaluation.noise)


def test_the_tokenizer_has_a_token_a_word():
    tokenizer = build_word_tokenizer(["red tree", "tree trees in a bare area"], 8)
    for caption in ("red tree", "trees in a bare area"):
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(caption.split()) + 2 and len(set(ids)) == len(ids)


def test_the_real_transformer_has_its_size():
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in build_transformer(REHEARSAL).parameters())
    assert size < 1e6
    size = sum(parameter.numel() for parameter in build_transformer(FULL).parameters())
    assert 20e6 <= size <= 23e6


def test_features_do_not_depend_on_the_batch(judge, split):
    torch.testing.assert_close(extract_features(judge, split.images), extract_features(judge, split.images, 5))


def test_steps_fit_into_the_time():
    calls = []
    assert steps_within(1e6, lambda: calls.append(1), most=70) == 70
    assert steps_within(0.0, lambda: calls.append(1), least=3) == 3
    assert len(calls) == 30
