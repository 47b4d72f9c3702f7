"""Score a TwinFlow LoRA or model in few steps, and its base, on your prompts.

To use several GPUs: accelerate launch -m diffusers_twinflow.cli evaluate my-lora --prompts prompts.txt
"""

import argparse
from typing import TYPE_CHECKING

from ..configuration import TwinFlowConfigError
from .option_flags import add_flags, given_values
from .output import note, say
from .shared_arguments import add_loading_arguments, check_drawing

if TYPE_CHECKING:
    from ..evaluation.runner import Evaluation
    from ..hub.files import LocatedRepository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s adapter --prompts PROMPTS [option ...]"
    from ..evaluation.arguments import EvaluationArguments

    parser.add_argument("adapter", help="TwinFlow LoRA or model: a folder or a Hub id.")
    add_flags(parser, EvaluationArguments)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Plan the evaluation, draw and score what is missing, and write the report.

    Raises:
        TwinFlowConfigError: if the evaluation cannot run.
    """
    from ..evaluation.arguments import EvaluationArguments
    from ..evaluation.checks import check_arguments
    from ..options import options_of

    options = EvaluationArguments(**given_values(args, options_of(EvaluationArguments)))
    check_arguments(options)
    check_drawing(argparse.Namespace(**vars(args) | vars(options)))
    if args.num_frames not in (None, 1):
        raise TwinFlowConfigError(
            f"--num_frames={args.num_frames} is not valid, because evaluate scores still images: leave it out."
        )
    from ..evaluation.plan import plan_evaluation
    from ..evaluation.processes import build_accelerator
    from ..evaluation.runner import Evaluation
    from .command_pipeline import locate

    image_settings = {name: getattr(args, name) for name in ("height", "width", "image", "dtype")}
    if args.sampling_style:
        image_settings["sampling_style"] = args.sampling_style
    repository, config = locate(args)
    plan = plan_evaluation(
        options, repository, config, base_model=args.base_model, seed=args.seed, image_settings=image_settings
    )
    evaluation = Evaluation(plan, build_accelerator(args.device))
    if evaluation.open_rows:
        draw_and_score(args, evaluation, repository)
    elif evaluation.accelerator.is_main_process:
        note("All rows are finished already. Use --restart to draw them again.")
    for path in evaluation.write_report():
        say(path)
    evaluation.accelerator.end_training()


def draw_and_score(args: argparse.Namespace, evaluation: "Evaluation", repository: "LocatedRepository") -> None:
    """Load the metrics and the models, and run the evaluation with a progress bar."""
    from tqdm.auto import tqdm

    from ..evaluation.subjects import subject_of
    from .command_pipeline import load_pipeline, refusals

    is_main = evaluation.accelerator.is_main_process
    metrics = evaluation.build_metrics()
    device = args.device or str(evaluation.accelerator.device)
    loading = argparse.Namespace(**vars(args) | {"device": device})
    pipeline, call_options = load_pipeline(loading, announce=is_main)
    subject = subject_of(pipeline, repository, args.base_model, dtype=pipeline.dtype)
    with tqdm(total=evaluation.open_images, desc="Images", disable=not is_main) as bar, refusals():
        evaluation.run(metrics, subject, call_options, bar.update)
