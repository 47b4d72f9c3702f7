"""Check the options of an evaluation before anything is loaded."""

import importlib.util
from pathlib import Path

from ..configuration import TwinFlowConfigError
from ..image_files import image_suffixes
from .arguments import (
    CLIP_SCORE,
    DIVERSITY,
    FID,
    INCEPTION,
    JUDGE,
    NO_SCHEDULER,
    OBJECTS,
    TEXT,
    EvaluationArguments,
)
from .plugins import load_function

NEEDED_OPTIONS = {JUDGE: "judge", OBJECTS: "detector"}
"""The option that each of these metrics needs."""
NEED_TORCHMETRICS = (FID, CLIP_SCORE, TEXT)


def check_arguments(args: EvaluationArguments) -> None:
    """Check packages, plug-ins, folders and combinations of options before anything is loaded.

    Raises:
        TwinFlowConfigError: if the evaluation cannot run with these options.
    """
    if args.prompts is None:
        raise TwinFlowConfigError("`prompts` is missing: pass a file with one prompt per line.")
    names = args.metric_names
    for metric, needed in NEEDED_OPTIONS.items():
        if metric in names and getattr(args, needed) is None:
            raise TwinFlowConfigError(f"The metric {metric} needs `{needed}`: set it, or leave the metric out.")
        if metric not in names and getattr(args, needed) is not None:
            raise TwinFlowConfigError(f"`{needed}` has no effect without the metric {metric}: add it to `metrics`.")
    for option_name, metric in {"reference_images": FID, "ocr": TEXT}.items():
        if getattr(args, option_name) is not None and metric not in names:
            raise TwinFlowConfigError(
                f"`{option_name}` has no effect without the metric {metric}: add it to `metrics`."
            )
    if DIVERSITY in names and args.images_per_prompt == 1:
        raise TwinFlowConfigError("The metric diversity needs `images_per_prompt` of 2 or more: set it.")
    if args.needs_base_reference and not args.base:
        raise TwinFlowConfigError(
            "The metric fid needs images to compare with: pass `reference_images`, or evaluate the base too."
        )
    if NO_SCHEDULER in args.schedulers and len(set(args.schedulers)) > 1:
        raise TwinFlowConfigError(
            f"`schedulers` has {NO_SCHEDULER} and other values: pass {NO_SCHEDULER} alone, or leave it out."
        )
    _check_packages(args, names)
    if args.reference_images is not None:
        images_in(args.reference_images)
    for option_name, value in {"judge": args.judge, "ocr": args.ocr}.items():
        if value is not None:
            load_function(value, option_name)
    if FID in names and is_function(args.fid_features):
        load_function(args.fid_features, "fid_features")


def _check_packages(args: EvaluationArguments, names: list[str]) -> None:
    for package in ("matplotlib", "PIL", "tqdm"):
        _need(package, "evaluate", "evaluate")
    for name in names:
        if name in NEED_TORCHMETRICS:
            _need("torchmetrics", f"The metric {name}", "evaluate")
    if FID in names and args.fid_features == INCEPTION:
        _need("torch_fidelity", "The metric fid with Inception features", "evaluate", ", or pass `fid_features`")
    if TEXT in names and args.ocr is None:
        for package in ("rapidocr", "onnxruntime"):
            _need(package, "The metric text", "ocr", ", or pass `ocr`")


def _need(package: str, user: str, extra: str, otherwise: str = "") -> None:
    if importlib.util.find_spec(package) is None:
        raise TwinFlowConfigError(
            f"{user} needs {package}, which is not installed: pip install 'diffusers-twinflow[{extra}]'{otherwise}."
        )


def is_function(name: str) -> bool:
    """Whether `fid_features` names a function and not a folder or a Hub id."""
    return ":" in name and not Path(name).is_dir()


def images_in(folder: str | Path) -> list[Path]:
    """Return the sorted paths of the image files in a folder and its subfolders.

    Raises:
        TwinFlowConfigError: if it is not a folder, or contains no image.
    """
    if not Path(folder).is_dir():
        raise TwinFlowConfigError(f"reference_images={str(folder)!r} is not a folder: pass a folder of images.")
    suffixes = image_suffixes()
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if len(paths) < 2:
        raise TwinFlowConfigError(
            f"reference_images={str(folder)!r} contains {len(paths)} images, but fid needs at least 2: pass a folder of "
            "images."
        )
    return paths
