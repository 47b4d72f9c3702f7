"""Train a model: `Trainer`, its options and its callbacks. Needs the extra `train`."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .arguments import TrainingArguments
    from .callbacks import TrainerCallback
    from .recipe import load_recipe
    from .trainer import Trainer

__all__ = ["Trainer", "TrainerCallback", "TrainingArguments", "load_recipe"]

MODULES = {
    "Trainer": ".trainer",
    "TrainerCallback": ".callbacks",
    "TrainingArguments": ".arguments",
    "load_recipe": ".recipe",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(globals(), MODULES)
