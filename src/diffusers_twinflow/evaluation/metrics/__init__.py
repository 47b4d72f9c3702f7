"""The metrics of an evaluation. Each scores a set of images, see `Metric`."""

from typing import TYPE_CHECKING

from ...lazy_names import lazy_names

if TYPE_CHECKING:
    from .base import Gather, Metric, PerImageMetric
    from .clip import Diversity, PromptScore
    from .frechet import FrechetDistance
    from .judge import Judge, JudgeScore
    from .objects import Detection, Detector, HubDetector, ObjectCheck
    from .text import RapidOCRReader, Reader, TextRendering

__all__ = [
    "Detection",
    "Detector",
    "Diversity",
    "FrechetDistance",
    "Gather",
    "HubDetector",
    "Judge",
    "JudgeScore",
    "Metric",
    "ObjectCheck",
    "PerImageMetric",
    "PromptScore",
    "RapidOCRReader",
    "Reader",
    "TextRendering",
]
MODULES = {
    "Detection": ".objects",
    "Detector": ".objects",
    "Diversity": ".clip",
    "FrechetDistance": ".frechet",
    "Gather": ".base",
    "HubDetector": ".objects",
    "Judge": ".judge",
    "JudgeScore": ".judge",
    "Metric": ".base",
    "ObjectCheck": ".objects",
    "PerImageMetric": ".base",
    "PromptScore": ".clip",
    "RapidOCRReader": ".text",
    "Reader": ".text",
    "TextRendering": ".text",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(globals(), MODULES)
