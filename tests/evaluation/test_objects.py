"""Object checks on small cases, compared with values computed by hand, and with a real detector."""

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.evaluation.metrics import Detection, HubDetector, ObjectCheck
from diffusers_twinflow.evaluation.metrics.objects import as_image, is_as_expected, relations
from diffusers_twinflow.evaluation.prompts import EvaluationPrompt, ExpectedObject
from tests.tiny_scorers import CLASSES

LEFT_DOG, RIGHT_DOG = Detection("dog", (0, 40, 20, 60)), Detection("dog", (80, 40, 100, 60))
CAT = Detection("cat", (40, 40, 60, 60))


class Found:
    """A detector that finds prepared objects, one list per image."""

    class_names = set(CLASSES)

    def __init__(self, *found):
        self.found = list(found)

    def __call__(self, images):
        return [self.found.pop(0) for _ in images]


@pytest.mark.parametrize(
    ("include", "exclude", "found", "expected"),
    [
        ([ExpectedObject("dog")], [], [LEFT_DOG], True),
        ([ExpectedObject("dog")], [], [CAT], False),
        ([ExpectedObject("dog", 2)], [], [LEFT_DOG], False),
        ([ExpectedObject("dog", 2)], [], [LEFT_DOG, RIGHT_DOG, CAT], True),
        ([ExpectedObject("dog")], [ExpectedObject("dog", 2)], [LEFT_DOG, RIGHT_DOG], False),
        ([ExpectedObject("dog")], [ExpectedObject("dog", 2)], [LEFT_DOG, CAT], True),
        ([], [ExpectedObject("cat")], [LEFT_DOG], True),
        ([ExpectedObject("cat"), ExpectedObject("dog", 1, ("left of", 0))], [], [CAT, LEFT_DOG], True),
        ([ExpectedObject("cat"), ExpectedObject("dog", 1, ("left of", 0))], [], [CAT, RIGHT_DOG], False),
        ([ExpectedObject("cat"), ExpectedObject("dog", 1, ("left of", 0))], [], [CAT, RIGHT_DOG, LEFT_DOG], True),
        ([ExpectedObject("cat"), ExpectedObject("dog", 1, ("above", 0))], [], [CAT, LEFT_DOG], False),
    ],
)
def test_counts_and_positions(include, exclude, found, expected):
    assert is_as_expected(EvaluationPrompt("a", None, tuple(include), tuple(exclude)), found) is expected


def test_relations_need_a_distance():
    """Centers 50 and 10; boxes of side 20: a tenth of the size is 2."""
    assert relations(LEFT_DOG, CAT) == {"left of"} and relations(CAT, LEFT_DOG) == {"right of"}
    near = Detection("cat", (1, 43, 21, 63))
    assert relations(LEFT_DOG, near) == {"above"} and relations(near, LEFT_DOG) == {"below"}
    assert relations(LEFT_DOG, LEFT_DOG) == set()


def test_scores_are_shares_over_all_prompts_and_per_tag():
    dog, two = ExpectedObject("dog"), ExpectedObject("dog", 2)
    prompts = [
        EvaluationPrompt("a dog", "single", (dog,)),
        EvaluationPrompt("nothing expected"),
        EvaluationPrompt("two dogs", "counting", (two,)),
        EvaluationPrompt("a red dog", "colors", (ExpectedObject("dog", color="red"),)),
        EvaluationPrompt("another dog", "single", (dog,)),
    ]
    metric = ObjectCheck(Found([LEFT_DOG], [LEFT_DOG, RIGHT_DOG], [CAT]))
    metric.check_prompts(prompts)
    metric.update(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), prompts)
    assert metric.compute() == {"objects": 2 / 3, "objects/counting": 1.0, "objects/single": 0.5}
    metric.reset()
    assert metric.compute() == {}


def test_prompts_must_fit_the_detector():
    metric = ObjectCheck(Found())
    with pytest.raises(TwinFlowConfigError, match="needs prompts with `include` or `exclude`"):
        metric.check_prompts([EvaluationPrompt("a")])
    with pytest.raises(TwinFlowConfigError, match="'horse'.*is not a class of the detector. It knows cat, dog"):
        metric.check_prompts([EvaluationPrompt("a horse", include=(ExpectedObject("horse"),))])


def test_a_detector_of_transformers(scorers):
    detector = HubDetector(str(scorers / "detector"), threshold=0.0)
    assert detector.class_names == set(CLASSES)
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = detector([as_image(image) for image in images])
    assert [len(each) for each in found] == [3, 3], "the tiny model has three detection tokens"
    assert {detection.name for each in found for detection in each} <= set(CLASSES)
    assert not any(HubDetector(str(scorers / "detector"), threshold=1.0)([as_image(images[0])]))

    metric = ObjectCheck(detector)
    metric.update(images, [EvaluationPrompt("a dog", include=(ExpectedObject("dog", 2),))] * 2)
    dogs = [sum(detection.name == "dog" for detection in each) for each in found]
    assert metric.compute() == {"objects": sum(count >= 2 for count in dogs) / 2}
