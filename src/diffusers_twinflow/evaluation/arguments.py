"""Options of an evaluation as typed dataclasses. Each field has a help text and a range of valid values."""

from dataclasses import dataclass

from ..configuration import STEP_COUNT
from ..options import check_values, option
from ..ranges import AT_LEAST_1, SHARE, Range

FID, CLIP_SCORE, JUDGE, OBJECTS, TEXT, DIVERSITY = "fid", "clip_score", "judge", "objects", "text", "diversity"
METRICS = (FID, CLIP_SCORE, JUDGE, OBJECTS, TEXT, DIVERSITY)
SCHEDULERS = EULER, UNIPC, LCM = ("euler", "unipc", "lcm")
NO_SCHEDULER = "none"
INCEPTION = "inception"


@dataclass(frozen=True)
class MetricArguments:
    """Metrics"""

    metrics: list[str] | None = option(
        None,
        "Metrics to measure; the default is clip_score and the metrics that your other options are for.",
        choices=METRICS,
    )
    reference_images: str | None = option(
        None, "Folder of reference images for fid; the default is the base's images at `base_steps`."
    )
    fid_features: str = option(
        INCEPTION,
        "Features for fid: 'inception' as usual, a folder or Hub id of a transformers image model, or a function "
        "(module:function) that returns a torch module, which computes features of shape [N, D] from uint8 images of "
        "shape [N, 3, H, W].",
    )
    clip_model: str = option(
        "openai/clip-vit-large-patch14", "Folder or Hub id of the CLIP model for clip_score and diversity."
    )
    judge: str | None = option(
        None,
        "Python function (module:function) that takes images and prompts and returns one number per image, or a "
        "dictionary of them by name.",
    )
    detector: str | None = option(
        None, "Folder or Hub id of a transformers object-detection model that knows the classes in your prompts file."
    )
    detector_threshold: float = option(0.5, "Lowest confidence of a detected object.", SHARE)
    ocr: str | None = option(
        None,
        "Python function (module:function) that takes a PIL image and returns its text; the default is the package "
        "rapidocr.",
    )


@dataclass(frozen=True)
class EvaluationArguments(MetricArguments):
    """Evaluation

    Raises:
        TwinFlowConfigError: if a value has the wrong type or is outside its range.

    Examples:
        >>> EvaluationArguments(prompts="prompts.txt", metrics=["clip_score"], steps=[1, 2])
    """

    prompts: str | None = option(
        None,
        "File with one prompt per line, or a .jsonl file with a prompt and what its image must show per line (required).",
    )
    output_dir: str = option("evaluation", "Folder for scores, curves and images.", local=True)
    steps: list[int] = option(
        [1, 2, 4, 8], "Numbers of steps for the TwinFlow model and for the base with stock schedulers.", STEP_COUNT
    )
    base_steps: int | None = option(
        None, "Number of steps of the base's best images; the default is the stock pipeline's.", STEP_COUNT
    )
    base_guidance: float | None = option(
        None, "Guidance scale for the base; the default is the stock pipeline's.", Range(least=0)
    )
    schedulers: list[str] = option(
        list(SCHEDULERS),
        "Stock schedulers to sample the base with in few steps, or 'none'.",
        choices=(*SCHEDULERS, NO_SCHEDULER),
    )
    base: bool = option(True, "Evaluate the base too.")
    images_per_prompt: int = option(1, "Number of images per prompt.", AT_LEAST_1)
    batch_size: int = option(1, "Number of images to generate per call and process.", AT_LEAST_1)
    save_images: bool = option(False, "Save all images.")
    restart: bool = option(False, "Delete earlier results in the output folder and start again.")

    def __post_init__(self) -> None:
        check_values(self)

    @property
    def metric_names(self) -> list[str]:
        """The metrics to measure, without duplicates."""
        if self.metrics is not None:
            return list(dict.fromkeys(self.metrics))
        wanted = {
            FID: self.reference_images is not None or self.fid_features != INCEPTION,
            CLIP_SCORE: True,
            JUDGE: self.judge is not None,
            OBJECTS: self.detector is not None,
            TEXT: self.ocr is not None,
            DIVERSITY: self.images_per_prompt > 1,
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]

    @property
    def stock_schedulers(self) -> list[str]:
        """The stock schedulers to sample the base with, without duplicates."""
        return [name for name in dict.fromkeys(self.schedulers) if name != NO_SCHEDULER]

    @property
    def needs_base_reference(self) -> bool:
        """Whether the base's images are the reference of the Fréchet distance."""
        return FID in self.metric_names and self.reference_images is None
