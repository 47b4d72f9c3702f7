"""Where samples and times go in the call of a denoiser."""

from dataclasses import dataclass
from math import isqrt, prod
from typing import Any

import torch

from ..configuration import TwinFlowConfigError
from .call_layout import describe
from .controlnets import ControlNetLayout

TOKENS_NDIM = 3
PATCHES_NDIM = 4


@dataclass(frozen=True)
class SamplePlace:
    """The place of the sample in the denoiser's first argument. The rest of the argument is condition.

    Attributes:
        argument: name of the argument.
        dim: the dimension with more than the sample, counted with the batch; `None` if there is none.
        start, stop: the sample's part of that dimension.
        whole: size of that dimension.
        kind: `list` or `tuple` if the argument has an entry per sample; `None` for a tensor.
        shape: shape of one sample, without batch dimension.
        dtype: dtype that the pipeline passes.
    """

    argument: str
    dim: int | None
    start: int
    stop: int
    whole: int
    kind: type | None
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def is_among_tokens(self) -> bool:
        """Whether the argument has other tokens beside the sample's, which the denoiser returns too."""
        return self.dim == 1 and len(self.shape) + 1 == TOKENS_NDIM

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sample's part of a tensor."""
        return tensor if self.dim is None else tensor.narrow(self.dim, self.start, self.stop - self.start)

    def without_sample(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of the argument with zeros instead of the sample."""
        tensor = tensor.clone()
        self.of(tensor).zero_()
        return tensor

    def fill(self, x_t: torch.Tensor, around: torch.Tensor | None) -> Any:
        """Return the denoiser's argument with these samples in it.

        Args:
            x_t: shape [B, ...].
            around: the argument as the pipeline passes it, for the parts that are not the sample.
        """
        x_t = x_t.to(self.dtype)
        if around is not None and self.dim is not None:
            x_t = torch.cat(
                [
                    around.narrow(self.dim, 0, self.start),
                    x_t,
                    around.narrow(self.dim, self.stop, around.shape[self.dim] - self.stop),
                ],
                self.dim,
            )
        return x_t if self.kind is None else self.kind(x_t.unbind(0))

    def _is_in_patches(self, output: torch.Tensor) -> bool:
        """Whether a denoiser for images returns them in patches, as HiDream's does while it trains."""
        is_image = len(self.shape) + 1 == PATCHES_NDIM and output.shape[1] == self.shape[0]
        return is_image and output[0, 0].numel() == self.shape[1] * self.shape[2]

    def read(self, output: Any) -> torch.Tensor:
        """Return the samples' part of the denoiser's output, which may have more than the sample.

        Tokens of the prompt come before those of the sample, and channels of a variance after those of the prediction.

        Raises:
            TwinFlowConfigError: if the output has less than the sample.
        """
        if isinstance(output, (list, tuple)):
            output = torch.stack(list(output))
        if output.ndim == PATCHES_NDIM and output.shape[1:] != self.shape and self._is_in_patches(output):
            output = _joined(output, *self.shape[1:])
        if output.ndim != len(self.shape) + 1 or any(
            size < wanted for size, wanted in zip(output.shape[1:], self.shape)
        ):
            raise TwinFlowConfigError(
                f"the denoiser returns {describe(output)} for samples of shape {self.shape}, so a part of its "
                f"`{self.argument}` is condition that changes with the noise, as an encoded image does. Choose a base "
                "that generates from a prompt."
            )
        for dim, (size, wanted) in enumerate(zip(output.shape[1:], self.shape), 1):
            if size != wanted:
                is_token = output.ndim == TOKENS_NDIM and dim == 1
                start = self.start if dim == self.dim and size == self.whole else size - wanted if is_token else 0
                output = output.narrow(dim, start, wanted)
        return output


def _joined(patches: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Square patches [B, C, S, P * P] as images [B, C, height, width]."""
    side = isqrt(patches.shape[-1])
    grid = patches.unflatten(-1, (side, side)).unflatten(2, (height // side, width // side))
    return grid.transpose(3, 4).flatten(4).flatten(2, 3)


@dataclass(frozen=True)
class CallLayout:
    """How the arguments of a denoiser's call are laid out, and where sample and times go.

    Attributes:
        arguments: the layout of each argument but the sample and the times.
        sample: where the sample is, or its first part.
        time_shape: shape of the timestep argument after the batch dimension.
        time_range: the timestep at pure noise and at data.
        native_target: name of the denoiser's built-in target time, if the pipeline passes one.
        takes_several: whether the pipeline's call takes several prompts.
        beside: where further parts of the sample are, such as the sound of a video. The denoiser returns them in this
            order, after the first.
        repeated_times: names of arguments that are the timestep too.
        controlnet: how the pipeline's ControlNet is called; `None` if there is none.
    """

    arguments: dict[str, Any]
    sample: SamplePlace
    time_shape: tuple[int, ...]
    time_range: tuple[float, float]
    native_target: str | None
    takes_several: bool
    beside: tuple[SamplePlace, ...] = ()
    repeated_times: tuple[str, ...] = ()
    controlnet: ControlNetLayout | None = None

    @property
    def places(self) -> tuple[SamplePlace, ...]:
        """The places of all parts of the sample."""
        return self.sample, *self.beside

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample. A sample of several parts is the row of all their numbers."""
        return (sum(self._sizes),) if self.beside else self.sample.shape

    @property
    def _sizes(self) -> list[int]:
        return [prod(place.shape) for place in self.places]

    def split_sample(self, samples: torch.Tensor) -> list[torch.Tensor]:
        """Return the parts of samples of shape [B, ...], as the denoiser takes them."""
        parts = samples.flatten(1).split(self._sizes, dim=1)
        return [part.reshape(len(part), *place.shape) for part, place in zip(parts, self.places)]

    def read(self, output: Any) -> torch.Tensor:
        """Return samples of shape `sample_shape` from what the denoiser returns for them."""
        outputs = [output] if isinstance(output, torch.Tensor) else [output[i] for i in range(len(self.places))]
        parts = [place.read(each) for place, each in zip(self.places, outputs, strict=True)]
        return torch.cat([part.flatten(1) for part in parts], dim=1) if self.beside else parts[0]

    def number_weights(
        self, device: torch.device | str = "cpu", part_weights: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Return weights that let each part of a sample count alike, or `None` if there is one part.

        Args:
            part_weights: weight of each part of each sample, shape [B, parts]. By default all are 1.

        Returns:
            Weight of each number, shape [B, N], or [1, N] if all samples have the same. The mean is 1 if all parts count.
        """
        if not self.beside:
            return None
        sizes = self._sizes
        each = sum(sizes) / len(sizes)
        weights = torch.cat([torch.full((1, size), each / size, device=device) for size in sizes], dim=1)
        if part_weights is None:
            return weights
        of_parts = part_weights.to(device, non_blocking=True).split(1, dim=1)
        return weights * torch.cat([part.expand(-1, size) for part, size in zip(of_parts, sizes)], dim=1)
