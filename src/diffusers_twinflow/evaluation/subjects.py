"""The two models of an evaluation: the distilled model and its base."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ..configuration import TwinFlowConfigError
from ..hub.base_loading import load_base_of
from ..hub.base_loras import merge_base_loras
from ..hub.files import LocatedRepository
from ..hub.repository import LORA, TwinFlowRepositoryConfig
from ..pipelines import TwinFlowPipeline
from ..pipelines.bare_base import bare_base


class Subject(Protocol):
    """What is evaluated."""

    pipeline: TwinFlowPipeline

    def base(self) -> AbstractContextManager[DiffusionPipeline]:
        """Yield the stock pipeline of the base. The distilled pipeline cannot be called inside the `with` block."""


class LoraSubject:
    """A TwinFlow LoRA and its base, which share their weights."""

    def __init__(self, pipeline: TwinFlowPipeline) -> None:
        self.pipeline = pipeline

    def base(self) -> AbstractContextManager[DiffusionPipeline]:
        return bare_base(self.pipeline)


class ModelSubject:
    """A whole distilled model and its base. The base is loaded when it is needed, while the model waits on the CPU.

    Args:
        pipeline: pipeline of the distilled model.
        load_base: loads the stock pipeline of the base on the CPU.
    """

    def __init__(self, pipeline: TwinFlowPipeline, load_base: Callable[[], DiffusionPipeline]) -> None:
        self.pipeline, self.load_base = pipeline, load_base

    @contextmanager
    def base(self) -> Iterator[DiffusionPipeline]:
        device = self.pipeline.device
        self.pipeline.to("cpu")
        try:
            base: Any = self.load_base()
            base.set_progress_bar_config(disable=True)
            yield base.to(device)
            del base
            if device.type == "cuda":
                torch.cuda.empty_cache()
        finally:
            self.pipeline.to(device)


def check_base(config: TwinFlowRepositoryConfig, repository: LocatedRepository, base_model: str | None = None) -> None:
    """Check that the base of a TwinFlow repository is known, without loading it.

    Raises:
        TwinFlowConfigError: if the repository names no base, or names one that is neither a folder nor a Hub id.
    """
    if base_model is not None:
        return
    if config.base_model == repository.name:
        raise TwinFlowConfigError(
            f"'{repository.name}' does not name its base: pass the folder or Hub id of the base as base_model=, or "
            "evaluate without the base."
        )
    config.locate_base(repository)


def subject_of(
    pipeline: TwinFlowPipeline, repository: LocatedRepository, base_model: str | None = None, **options: Any
) -> Subject:
    """Return the models of a loaded TwinFlow repository.

    Args:
        pipeline: the loaded pipeline.
        repository: repository that it was loaded from.
        base_model: folder or Hub id of the base. Defaults to the base that the repository names.
        options: arguments that load the base of a whole model, such as `dtype`.
    """
    config = pipeline.twinflow_config
    if config.train_type == LORA:
        return LoraSubject(pipeline)

    def load_base() -> DiffusionPipeline:
        base = load_base_of(config, repository, base_model, **options)
        merge_base_loras(base, config.locate_base_loras(repository))
        return base

    return ModelSubject(pipeline, load_base)
