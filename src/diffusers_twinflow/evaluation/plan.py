"""Plan an evaluation: check the options, read the prompts and list the rows. Nothing is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..families import FAMILIES
from ..hub.files import LocatedRepository
from ..hub.repository import TwinFlowRepositoryConfig
from .arguments import EvaluationArguments
from .checks import check_arguments
from .prompts import EvaluationPrompt, read_prompts
from .rows import Row, rows_of
from .settings import settings_of
from .subjects import check_base


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation generates and measures.

    Attributes:
        args: the options.
        prompts: the prompts.
        rows: the rows to generate, the base at many steps first.
        settings: everything that the scores of a row depend on, as JSON values.
        seed: seed of the noise.
    """

    args: EvaluationArguments
    prompts: Sequence[EvaluationPrompt]
    rows: Sequence[Row]
    settings: Mapping[str, Any]
    seed: int


def plan_evaluation(
    args: EvaluationArguments,
    repository: LocatedRepository,
    config: TwinFlowRepositoryConfig,
    *,
    base_model: str | None = None,
    seed: int = 0,
    image_settings: Mapping[str, Any] | None = None,
) -> EvaluationPlan:
    """Check the options of an evaluation and plan it.

    Args:
        args: the options.
        repository: repository of the TwinFlow LoRA or model.
        config: its configuration.
        base_model: folder or Hub id of the base. Defaults to the base that the repository names.
        seed: seed of the noise.
        image_settings: what else decides about the images, such as the height and the dtype, as JSON values.

    Raises:
        TwinFlowConfigError: if the evaluation cannot run with these options.
    """
    check_arguments(args)
    prompts = read_prompts(args.prompts or "")
    if args.base:
        check_base(config, repository, base_model)
    rows = rows_of(args, FAMILIES[config.family])
    settings = settings_of(
        args,
        prompts,
        repository,
        base_model=base_model or config.base_model,
        base_steps=rows[0].steps,
        seed=seed,
        image_settings=image_settings or {},
    )
    return EvaluationPlan(args, prompts, rows, settings, seed)
