"""The declaration of a tiny stock model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch.compiler import set_stance


def noise(*shape: int) -> torch.Tensor:
    """The same numbers on every device."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), device="cpu")
    return numbers.to(torch.get_default_device())


def tokens(*shape: int, vocabulary: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(vocabulary, shape, generator=generator, device="cpu").to(torch.get_default_device())


def grid(height: int, width: int, columns: int) -> torch.Tensor:
    """Position ids of a picture, shape [height * width, columns]."""
    ids = torch.zeros(height, width, columns)
    ids[..., -2] += torch.arange(height)[:, None]
    ids[..., -1] += torch.arange(width)
    return ids.flatten(0, 1)


@dataclass(frozen=True)
class Stock:
    """One stock class at tiny size.

    Attributes:
        config: arguments of the class.
        inputs: arguments of its forward but for the times, for `batch` samples.
        at_noise, at_data: the class's timestep at noise and at data, from the pipeline that calls it.
        timestep_shape: what follows the batch in the shape of the timestep.
        native: what the class calls a target time of its own, which it must be given.
        checkpointing_broken: whether the stock class raises with gradient checkpointing on.
        backward_on_cpu: false where the stock class has a backward on CUDA only.
        compiles_itself: whether the stock class compiles FlexAttention in its forward, which torch does in one thread alone.
        not_compiled: why the stock class does not compile as one graph.
        not_compiled_by: the release of torch, as "2.11", that does not compile the stock class as one graph.
        backward_not_compiled: why the stock class's backward does not compile.
        not_offloaded: why the stock class does not run with its weights offloaded layer by layer.
        not_moved: why the stock class does not run on another device than that of its first call.
        device_tolerance: how far apart two devices' outputs may be.
    """

    config: dict[str, Any]
    inputs: Callable[[], dict[str, Any]]
    at_noise: float = 1000.0
    at_data: float = 0.0
    timestep: str = "timestep"
    timestep_shape: tuple[int, ...] = ()
    batch: int = 2
    native: str | None = None
    checkpointing_broken: bool = False
    backward_on_cpu: bool = True
    compiles_itself: bool = False
    not_compiled: str | None = None
    not_compiled_by: str | None = None
    backward_not_compiled: str | None = None
    not_offloaded: str | None = None
    not_moved: str | None = None
    device_tolerance: float = 1e-3

    def build(self, cls: type, seed: int = 0) -> torch.nn.Module:
        """The model with every parameter random, so that nothing hides behind a zero or is left uninitialised."""
        model = cls(**self.config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                numbers = torch.randn(parameter.shape, generator=generator, device="cpu")
                if parameter.ndim > 1:
                    parameter.copy_(numbers / parameter.shape[1:].numel() ** 0.5)
                else:
                    parameter.copy_((not name.endswith("bias")) + 0.1 * numbers)
        return model

    def why_not_compiled(self) -> str | None:
        """Why the installed torch does not compile the stock class as one graph, None if it does."""
        if self.not_compiled_by and torch.__version__.startswith(f"{self.not_compiled_by}."):
            return f"torch {self.not_compiled_by} cannot compile it"
        return self.not_compiled

    def in_unit(self, times: torch.Tensor) -> torch.Tensor:
        """Times in [0, 1], 1 at noise, in the class's unit."""
        return self.at_data + times * (self.at_noise - self.at_data)

    def times(self, *times: float) -> torch.Tensor:
        """One timestep a sample in the class's unit."""
        return self.in_unit(torch.tensor(times[: self.batch]))

    def arguments(self, *times: float, native_times: tuple[float, ...] | None = None) -> dict[str, Any]:
        """Arguments of the stock forward at these times in [0, 1]; its own target time is the time if not given."""
        arguments = {**self.inputs(), self.timestep: self._shaped(times), "return_dict": False}
        if self.native is not None:
            arguments[self.native] = self._shaped(native_times or times)
        return arguments

    def _shaped(self, times: tuple[float, ...]) -> torch.Tensor:
        timestep = self.times(*times).reshape(-1, *[1] * len(self.timestep_shape))
        return timestep.expand(-1, *self.timestep_shape).contiguous()


def stock_class(name: str) -> type:
    return getattr(diffusers, name)


def run(stock: Stock, model: torch.nn.Module, *times: float, native_times=None, **twinflow) -> torch.Tensor:
    """What a model gives at these times in [0, 1], one row a sample."""
    return call(stock, model, {**stock.arguments(*times, native_times=native_times), **twinflow})


def call(stock: Stock, model: torch.nn.Module, arguments: dict[str, Any]) -> torch.Tensor:
    """What a model gives, one row a sample; without the compiling that a stock class does by itself."""
    with set_stance("force_eager" if stock.not_compiled else "default"):
        return flat(model(**arguments))


def flat(output: Any) -> torch.Tensor:
    """Every number of a forward's output, one row a sample where it is batched."""
    if isinstance(output, torch.Tensor):
        return output.flatten(1)
    if isinstance(output, list):
        return torch.stack([part.flatten() for part in output])
    parts = [flat(part) for part in output if part is not None]
    if all(part.shape[0] == parts[0].shape[0] for part in parts):
        return torch.cat(parts, dim=1)
    return torch.cat([part.flatten() for part in parts])[None]
