"""Build the metrics of an evaluation from its options."""

from collections.abc import Sequence

from ..configuration import TwinFlowConfigError
from .arguments import CLIP_SCORE, DIVERSITY, FID, INCEPTION, JUDGE, OBJECTS, TEXT, EvaluationArguments
from .checks import is_function
from .metrics import (
    Diversity,
    FrechetDistance,
    Gather,
    HubDetector,
    JudgeScore,
    Metric,
    ObjectCheck,
    PromptScore,
    RapidOCRReader,
    TextRendering,
)
from .models import ImageFeatures, PromptModel, load_model
from .plugins import load_function
from .prompts import EvaluationPrompt


def build_metrics(
    args: EvaluationArguments, prompts: Sequence[EvaluationPrompt], gather: Gather = list, *, is_shared: bool = False
) -> list[Metric]:
    """Load the models of all metrics.

    Args:
        args: options that `check_arguments` has checked.
        prompts: prompts of the evaluation.
        gather: collects the records of all processes.
        is_shared: whether the images are spread over several processes.

    Raises:
        TwinFlowConfigError: if a model cannot be loaded, or does not fit the prompts.
    """
    names = args.metric_names
    metrics: list[Metric] = []
    if FID in names:
        metrics.append(_frechet(args.fid_features, is_shared))
    if CLIP_SCORE in names or DIVERSITY in names:
        model: PromptModel = load_model(PromptModel.load, args.clip_model, "clip_model", "CLIP model of transformers")
        if CLIP_SCORE in names:
            metrics.append(PromptScore(model, is_shared=is_shared))
        if DIVERSITY in names:
            metrics.append(Diversity(model, gather))
    if JUDGE in names:
        metrics.append(JudgeScore(load_function(args.judge or "", "judge"), gather=gather))
    if OBJECTS in names:

        def load(name: str) -> HubDetector:
            return HubDetector(name, args.detector_threshold)

        detector = load_model(load, args.detector or "", "detector", "object-detection model of transformers")
        check = ObjectCheck(detector, gather)
        check.check_prompts(prompts)
        metrics.append(check)
    if TEXT in names:
        rendering = TextRendering(load_function(args.ocr, "ocr") if args.ocr else RapidOCRReader(), gather)
        rendering.check_prompts(prompts)
        metrics.append(rendering)
    return metrics


def _frechet(features: str, is_shared: bool) -> FrechetDistance:
    if features == INCEPTION:
        try:
            return FrechetDistance(is_shared=is_shared)
        except OSError as error:
            raise TwinFlowConfigError(
                f"fid_features='{features}' could not be downloaded ({error}). Check the connection, or pass a folder or a "
                "function as `fid_features`."
            ) from error
    if not is_function(features):
        kind = "image model of transformers"
        return FrechetDistance(load_model(ImageFeatures, features, "fid_features", kind), is_shared=is_shared)
    try:
        return FrechetDistance(load_function(features, "fid_features")(), is_shared=is_shared)
    except TwinFlowConfigError:
        raise
    except Exception as error:  # of the user's code, which torchmetrics runs on one image
        raise TwinFlowConfigError(
            f"fid_features='{features}' is not usable ({type(error).__name__}: {error}). It must take no arguments and "
            "return a torch module that computes features of shape [N, D] from uint8 images of shape [N, 3, H, W]."
        ) from error
