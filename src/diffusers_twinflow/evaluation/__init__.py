"""Evaluate a TwinFlow model and its base: metrics, the runner and the report. Needs the extra `evaluate`."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .arguments import EvaluationArguments
    from .metrics.base import Metric
    from .plan import EvaluationPlan, plan_evaluation
    from .prompts import EvaluationPrompt, read_prompts
    from .runner import Evaluation
    from .subjects import LoraSubject, ModelSubject, Subject, subject_of

__all__ = [
    "Evaluation",
    "EvaluationArguments",
    "EvaluationPlan",
    "EvaluationPrompt",
    "LoraSubject",
    "Metric",
    "ModelSubject",
    "Subject",
    "plan_evaluation",
    "read_prompts",
    "subject_of",
]
MODULES = {
    "Evaluation": ".runner",
    "EvaluationArguments": ".arguments",
    "EvaluationPlan": ".plan",
    "EvaluationPrompt": ".prompts",
    "LoraSubject": ".subjects",
    "Metric": ".metrics.base",
    "ModelSubject": ".subjects",
    "Subject": ".subjects",
    "plan_evaluation": ".plan",
    "read_prompts": ".prompts",
    "subject_of": ".subjects",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(globals(), MODULES)
