"""How the model of a family is called."""

import fnmatch
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from ..conditions import Condition, VelocityFunction
from ..configuration import TwinFlowConfigError
from ..models import TwinFlowTransformerMixin, uncompiled
from ..models.denoisers_by_time import DenoisersByTime, denoisers_in
from .scheduler_kind import is_flow_matching
from .second_denoiser import BOUNDARY, SECOND, options_without_second, second_of

if TYPE_CHECKING:
    from typing_extensions import Self


class Denoising:
    """The half of a `Family` that calls its model: which component it is, its times, and its velocity.

    Attributes:
        name: the family's name.
        pipeline_class: the stock pipeline class.
        component_name: name of the pipeline's component that is trained. If there is a second one for low noise, this is
            the one for high noise.
        transformer_class: the TwinFlow class of that component.
        lora_target_modules: name suffixes of the linear layers that a LoRA adapts by default. If a name contains `*`,
            it is a pattern for whole names, such as `blocks.*.proj`.
        timestep_argument: name of the timestep in the component's forward.
        takes_one_sample: whether a forward takes one sample. `velocity` then runs the model once per sample.
        reads_conditions: whether `velocity` or the model reads numbers of conditions on the host, such as the lengths of
            prompts. A recorded pass would repeat those of the batch that it was recorded with.
    """

    name: str
    pipeline_class: type[DiffusionPipeline]
    component_name: str = "transformer"
    transformer_class: type[TwinFlowTransformerMixin]
    lora_target_modules: list[str]
    timestep_argument: str = "timestep"
    takes_one_sample: bool = False
    reads_conditions: bool = False

    def bind(self, pipeline: DiffusionPipeline) -> "Self":
        """Return the family for this pipeline. Call it before `velocity`, which may depend on the scheduler.

        Raises:
            TwinFlowConfigError: if the family cannot call a model with this scheduler.
        """
        scheduler = type(pipeline.scheduler).__name__
        if not is_flow_matching(scheduler, pipeline.scheduler.config):
            raise TwinFlowConfigError(
                f"The base's scheduler is a {scheduler}, which is for diffusion models, but {self.name} is a "
                "flow-matching family: give the base its flow-matching scheduler."
            )
        return self

    def denoiser(self, pipeline: DiffusionPipeline) -> ModelMixin:
        """Return the component `component_name`, without the wrapper of `torch.compile`."""
        return uncompiled(getattr(pipeline, self.component_name))

    @property
    def denoiser_names(self) -> tuple[str, ...]:
        """The components that can denoise in the pipeline class: one, or one for high and one for low noise."""
        has_second = {SECOND, BOUNDARY} <= inspect.signature(self.pipeline_class.__init__).parameters.keys()
        return (self.component_name, SECOND) if has_second else (self.component_name,)

    def denoisers(self, pipeline: DiffusionPipeline) -> dict[str, ModelMixin]:
        """Return the components that are trained by name, without the wrapper of `torch.compile`.

        Raises:
            TwinFlowConfigError: if the pipeline lacks one.
        """
        second = second_of(pipeline)
        return {self.component_name: self.denoiser(pipeline)} | ({} if second is None else {SECOND: second})

    def network(self, pipeline: DiffusionPipeline) -> nn.Module:
        """Return what is trained as one module: the denoiser, or a `DenoisersByTime` if there are two."""
        denoisers = self.denoisers(pipeline)
        if len(denoisers) == 1:
            return denoisers[self.component_name]
        return DenoisersByTime(denoisers, pipeline.config[BOUNDARY])

    def components_of(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return the denoisers of a network that `network` built, or of a copy of it, by component name."""
        return dict(zip((self.component_name, SECOND), denoisers_in(network)))

    def load_options(self, denoisers: Sequence[str] | None) -> dict[str, Any]:
        """Return the arguments of `from_pretrained` that load a base with some of its denoisers.

        Args:
            denoisers: names of the components; `None` for all that the base has.

        Raises:
            TwinFlowConfigError: if the pipeline cannot denoise with these alone.
        """
        return options_without_second(self.denoiser_names, denoisers)

    def is_of(self, model: nn.Module) -> bool:
        """Whether this family trains models of this class, stock or TwinFlow."""
        return isinstance(uncompiled(model), self.transformer_class.stock_class())

    def lora_targets(self, model: ModelMixin) -> list[str]:
        """Return the `target_modules` of a LoRA: `lora_target_modules` with patterns replaced by the matching names."""
        names = [name for name, _ in model.named_modules()]
        found = [fnmatch.filter(names, target) if "*" in target else [target] for target in self.lora_target_modules]
        return [name for targets in found for name in targets]

    def velocity(self, model: Callable[..., Any]) -> VelocityFunction:
        """Wrap the model in a function `(x_t, t, r, sign, condition) -> velocity`, where the velocity is noise - data.

        `x_t` and the velocity have the shape of the latents of `encode_images`. `t` and `r` are in [0, 1] with 1 at
        noise, shape [B]. With `r=None` and `sign=None` the stock model is called.
        """
        raise NotImplementedError

    def timestep(self, t: torch.Tensor) -> torch.Tensor:
        """Convert times in [0, 1], with 1 at noise, to the unit of the model's forward, by default 0 to 1000."""
        return t * 1000.0

    def number_weights(
        self, shape: Sequence[int], device: torch.device | str = "cpu", part_weights: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Return the weight of each number of the samples in the loss; `None` if all count alike.

        Args:
            shape: shape of one sample, without batch dimension.
            device: device of the weights.
            part_weights: weight of each part of each sample, shape [B, parts], if samples have several parts, such as a
                video and its sound. By default all are 1.

        Returns:
            Shape [1, ...] or [B, ...]. The weights of a sample have mean 1 if all of its parts have weight 1.
        """
        return None

    def network_velocity(self, network: nn.Module) -> VelocityFunction:
        """Wrap what `network` built, or a copy of it, in a velocity function. A wrapper of several processes is called."""
        if not isinstance(getattr(network, "module", network), DenoisersByTime):
            return self.velocity(network)

        def velocity(
            x_t: torch.Tensor, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None, condition: Condition
        ) -> torch.Tensor:
            return network(self.velocity, x_t, t, r, sign, condition)

        return velocity

    def times(self, t: torch.Tensor, r: torch.Tensor | None, sign: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return the time arguments of the forward. If `r` and `sign` are `None`, the stock forward accepts them."""
        times: dict[str, torch.Tensor] = {self.timestep_argument: self.timestep(t)}
        if r is not None:
            times["target_timestep"] = self.timestep(r)
        if sign is not None:
            times["timestep_sign"] = sign
        return times
