"""The link between a pipeline's scheduler, which knows the target time of each step, and its transformer."""

import weakref

import torch
from diffusers import DiffusionPipeline

from ..families import family_of
from ..models import TwinFlowTransformerMixin
from ..schedulers import TwinFlowScheduler


class SchedulerTargets:
    """The target timesteps of the scheduler that a pipeline has at the moment of the call, in the model's unit."""

    def __init__(self, pipeline: DiffusionPipeline):
        self._pipeline, self._family = weakref.ref(pipeline), family_of(pipeline)

    def __call__(self, timestep: torch.Tensor) -> torch.Tensor | None:
        scheduler = getattr(self._pipeline(), "scheduler", None)
        if not isinstance(scheduler, TwinFlowScheduler):
            return None
        config, family = scheduler.config, self._family
        at_data = config.num_train_timesteps if config.invert_sigmas else 0
        at_noise = config.num_train_timesteps - at_data
        now = at_data + family.noise_time(timestep) * (at_noise - at_data)
        target = scheduler.get_target_timesteps(now)
        return torch.where(target == now, timestep, family.timestep((target - at_data) / (at_noise - at_data)))


def is_twinflow_transformer(transformer: torch.nn.Module) -> bool:
    return isinstance(transformer, TwinFlowTransformerMixin) and transformer.twinflow_enabled


def link_target_timesteps(pipeline: DiffusionPipeline) -> None:
    """Give a two-time transformer the target time of each step of its pipeline's scheduler."""
    model = family_of(pipeline).denoiser(pipeline)
    if is_twinflow_transformer(model):
        model.set_target_timestep_source(SchedulerTargets(pipeline))
