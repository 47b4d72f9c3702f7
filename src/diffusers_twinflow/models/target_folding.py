"""Fold the target time into low-rank weights of a stock model, so that the stock model can sample on a fixed grid.

On a grid each time `t` has one target time `r`, so the time conditioning's addition to a timestep embedding depends
only on `t`. The embedder ends in a linear layer with input `h(t)`. A low-rank update `B A` of that layer adds the same
if `A h(t)` gives the right coefficients at each time of the grid. The style "few" has `r = 0` at every time and needs
rank 1. Other styles need up to one rank per evaluation.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from .adapter_layers import base_layer, is_adapter_layer
from .modeling_twinflow import TwinFlowTransformerMixin, find_submodule, submodule
from .second_embedder import SecondEmbedder
from .time_conditioning import TimeConditioning
from .unsharded import Copied, shallow_copy

Key = TypeVar("Key", bound=Hashable)

EXACT = 1e-5
"""Largest error on a grid, relative to the largest addition, that counts as exact: the rounding of float32."""
SAME_DIRECTION = 1e-6
BETWEEN_POINTS = 257
RIDGE = 1e-10


class CannotFoldError(ValueError):
    """Raised if a model's target time cannot be written as low-rank weights. The message says why."""


@dataclass(frozen=True)
class Grid:
    """The evaluations of one sampling call.

    Attributes:
        times: shape [N], in the model's unit, as its forward gets them.
        targets: shape [N], the target time of each evaluation, in the same unit.
    """

    times: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class FoldedLayer:
    """A low-rank update of one linear layer, at scale 1.

    Attributes:
        lora_A: shape [rank, in_features].
        lora_B: shape [out_features, rank].
    """

    lora_A: torch.Tensor
    lora_B: torch.Tensor


@dataclass(frozen=True)
class FoldedTarget:
    """The target time of a model as low-rank weights.

    Attributes:
        layers: the update of each stock layer, by the layer's name in the model.
        exact: the grids on which the update is exact.
        error_between: the largest error at any time between noise and data, relative to the largest addition. `None`
            if the grids have several target times, because then no value is right between the times.
    """

    layers: dict[str, FoldedLayer]
    exact: tuple[Hashable, ...]
    error_between: float | None


def fold_target(
    transformer: TwinFlowTransformerMixin,
    conditioning: nn.Module,
    grids: Mapping[Key, Grid],
    *,
    adapter_names: Sequence[str] = (),
) -> FoldedTarget:
    """Write the target time of a TwinFlow model as low-rank weights of its stock layers.

    Args:
        transformer: a TwinFlow model with its weights in memory. It is not changed.
        conditioning: the model's time conditioning.
        grids: the grids on which the update must be exact, the most important one first. The keys are up to the caller,
            such as step counts. A grid is left out if the layer has too few inputs for it and the grids before it.
        adapter_names: the adapters that are active when the weights are used.

    Returns:
        `FoldedTarget`: the update of each layer, and the grids on which it is exact.

    Raises:
        CannotFoldError: if the model's embedder does not end in a linear layer, if the conditioning is of a kind that
            cannot be folded, or if not even the first grid fits.
    """
    reason = why_not_foldable(type(transformer), transformer, conditioning)
    if reason is not None or not isinstance(conditioning, (TimeConditioning, SecondEmbedder)):
        raise CannotFoldError(reason)
    conditioning = _plain_container(conditioning, ()).to(torch.float64)
    problems = _problems(transformer, conditioning, grids, adapter_names)
    exact: tuple[Hashable, ...] = ()
    solutions: list[_Solution] = []
    for name in grids:
        candidate = [problem.solve((*exact, name)) for problem in problems]
        if all(solution.error <= EXACT for solution in candidate):
            exact, solutions = (*exact, name), candidate
    if not exact:
        raise CannotFoldError(
            f"the last layer of its timestep embedder has {problems[0].inputs.shape[-1]} inputs, which are too few for "
            "the times of the grid"
        )
    between = [solution.error_between for solution in solutions if solution.error_between is not None]
    layers = {problem.layer_name: solution.layer for problem, solution in zip(problems, solutions)}
    return FoldedTarget(layers, exact, max(between) if len(between) == len(solutions) else None)


def adds_target(cls: type[TwinFlowTransformerMixin], transformer: ModelMixin, conditioning: nn.Module | None) -> bool:
    """Whether the output of a model with this conditioning depends on the target time."""
    if not isinstance(conditioning, TimeConditioning):
        return conditioning is not None
    return conditioning.target_timestep_embedder is not None or cls._has_native_target(transformer)


def why_not_foldable(
    cls: type[TwinFlowTransformerMixin], transformer: ModelMixin, conditioning: nn.Module
) -> str | None:
    """Return the reason why a model's target time cannot be folded into its stock layers, or `None` if it can."""
    if isinstance(conditioning, SecondEmbedder):
        if conditioning.rule.of_time is None:
            return "its second embedder also embeds the prompt or the modulation, and only times can be folded"
    elif not isinstance(conditioning, TimeConditioning):
        return f"its conditioning is a {type(conditioning).__name__}, which is more than a sum"
    elif conditioning.target_timestep_embedder is None:
        return "the stock model takes a target time itself, so nothing is added to its timestep embedding"
    for path in _embedder_paths(cls, transformer):
        layer = _output_layer(cls, transformer, path)
        if not isinstance(layer, nn.Linear):
            return f"its timestep embedding ends in a {type(layer).__name__}, and only a linear layer can carry it"
    return None


def parts_to_fold(transformer: ModelMixin) -> tuple[str, ...]:
    """Return the name prefixes of the stock weights that `fold_target` reads; empty for a stock model."""
    cls = type(transformer)
    if not issubclass(cls, TwinFlowTransformerMixin):
        return ()
    return tuple(f"{path.rpartition('.')[0] or path}." for path in _embedder_paths(cls, transformer))


def foldable_layers(cls: type[TwinFlowTransformerMixin], transformer: ModelMixin) -> dict[str, nn.Linear]:
    """Return the stock layers of a model into which its target time can be folded, by name."""
    rule = cls._timestep_embedders
    layers = {
        _layer_name(path, rule.output_layer): _output_layer(cls, transformer, path)
        for path in _embedder_paths(cls, transformer)
    }
    return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}


def fit_rows(
    inputs: torch.Tensor, outputs: torch.Tensor, soft: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """Solve `inputs @ W.T = outputs` for the weights `W` that fit the soft pairs best.

    Without soft pairs, the smallest such weights are returned. If no weights solve the equation, the result is a
    least-squares fit.

    Args:
        inputs: shape [N, in], float64.
        outputs: shape [N, rank].
        soft: inputs of shape [M, in] and outputs of shape [M, rank] to fit as well as possible.

    Returns:
        Weights of shape [rank, in].
    """
    left, values, right = torch.linalg.svd(inputs, full_matrices=False)
    kept = values > 1e-9 * values[0]
    left, values, right = left[:, kept], values[kept], right[kept]
    exact = right.T @ ((left.T @ outputs) / values[:, None])
    if soft is None:
        return exact.T
    soft_inputs, soft_outputs = soft
    free = soft_inputs - soft_inputs @ right.T @ right
    ridge = RIDGE * soft_inputs.square().sum()
    return (exact + _ridge_solution(free, soft_outputs - soft_inputs @ exact, ridge)).T


def _ridge_solution(inputs: torch.Tensor, outputs: torch.Tensor, ridge: torch.Tensor) -> torch.Tensor:
    """Return small weights [in, rank] with `inputs @ weights` close to `outputs`, solved in the smaller dimension."""
    rows, columns = inputs.shape
    ridge = ridge * torch.eye(min(rows, columns), dtype=inputs.dtype)
    if rows <= columns:
        return inputs.T @ torch.linalg.solve(inputs @ inputs.T + ridge, outputs)
    return torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs)


def factor(additions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor additions of shape [N, width] into coefficients [N, rank] and orthonormal directions [rank, width]."""
    left, values, directions = torch.linalg.svd(additions, full_matrices=False)
    rank = max(1, int((values > SAME_DIRECTION * values[0]).sum()))
    return left[:, :rank] * values[:rank], directions[:rank]


@dataclass(frozen=True)
class _Solution:
    layer: FoldedLayer
    error: float
    error_between: float | None


@dataclass(frozen=True)
class _Problem:
    """The inputs of one embedder's last layer, and what the layer must add to its output for them.

    Attributes:
        layer_name: name of the layer in the model.
        inputs: shape [N, rows, in]. The first of the N times is the time of data; the times of the grids follow.
        additions: shape [N, width].
        positions: indices of each grid's times among the N.
        between: inputs and additions between the grids' times, if all grids have the same target time.
    """

    layer_name: str
    inputs: torch.Tensor
    additions: torch.Tensor
    positions: dict[Hashable, range]
    between: tuple[torch.Tensor, torch.Tensor] | None

    def solve(self, names: Sequence[Hashable]) -> _Solution:
        """Compute the update for these grids. At the time of data it adds nothing."""
        chosen = [0, *(position for name in names for position in self.positions[name])]
        inputs, additions = self.inputs[chosen], self.additions[chosen]
        coefficients, directions = factor(additions)
        soft = None
        if self.between is not None:
            soft = _rows(self.between[0], self.between[1] @ directions.T)
        weights = fit_rows(*_rows(inputs, coefficients), soft)

        tiny = torch.finfo(torch.float32).tiny
        balance = (directions.norm() / weights.norm().clamp_min(tiny)).sqrt()
        layer = FoldedLayer((weights * balance).float().contiguous(), (directions.T / balance).float().contiguous())
        largest = additions.abs().max().clamp_min(tiny)

        def error(inputs: torch.Tensor, additions: torch.Tensor) -> float:
            given = inputs @ layer.lora_A.double().T @ layer.lora_B.double().T
            return float((given - additions.unsqueeze(1)).abs().max() / largest)

        return _Solution(layer, error(inputs, additions), self.between and error(*self.between))


def _rows(inputs: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flatten inputs [N, rows, in] and outputs [N, rank] into pairs of single rows."""
    return inputs.flatten(0, 1), outputs.repeat_interleave(inputs.shape[1], dim=0)


def _problems(
    transformer: TwinFlowTransformerMixin,
    conditioning: TimeConditioning | SecondEmbedder,
    grids: Mapping[Key, Grid],
    adapter_names: Sequence[str],
) -> list[_Problem]:
    cls = type(transformer)
    at_data = torch.tensor([conditioning.at_data])
    times = torch.cat([at_data, *(grid.times.cpu().float() for grid in grids.values())])
    targets = torch.cat([at_data, *(grid.targets.cpu().float() for grid in grids.values())])
    positions: dict[Hashable, range] = {}
    end = 1
    for key, grid in grids.items():
        positions[key] = range(end, end := end + len(grid.times))
    has_one_target = bool((targets[1:] == targets[-1]).all())
    between = torch.linspace(conditioning.at_data, conditioning.at_noise, BETWEEN_POINTS)
    with torch.no_grad():
        additions = conditioning.additions(times, targets).double()
        additions_between = conditioning.additions(between, targets[-1].expand_as(between)).double()

    problems: list[_Problem] = []
    first = 0
    layers = foldable_layers(cls, transformer)
    for path in _embedder_paths(cls, transformer):
        inputs_at = _layer_inputs(transformer, path, adapter_names)
        name = _layer_name(path, cls._timestep_embedders.output_layer)
        part = slice(first, first := first + layers[name].out_features)
        problems.append(
            _Problem(
                name,
                inputs_at(times),
                additions[:, part],
                positions,
                (inputs_at(between), additions_between[:, part]) if has_one_target else None,
            )
        )
    return problems


def _layer_inputs(
    transformer: TwinFlowTransformerMixin, path: str, adapter_names: Sequence[str]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from times to the inputs of an embedder's last layer.

    The function takes times in the model's unit, shape [N], and returns shape [N, rows, in].
    """
    rule = type(transformer)._timestep_embedders
    scale, projection = rule.projection_scale, rule.projection
    scale = transformer.config[scale] if isinstance(scale, str) else scale
    embedder = _plain_copy(submodule(transformer, path), adapter_names)
    layer = submodule(embedder, rule.output_layer)
    project: nn.Module | Callable[[ModelMixin, torch.Tensor], Any] | None
    if not isinstance(projection, str):
        project = projection
    else:
        parent = path.rpartition(".")[0] if projection.startswith(".") else ""
        name = ".".join(filter(None, (parent, projection.removeprefix("."))))
        project = _plain_copy(submodule(transformer, name), adapter_names)

    def inputs_at(times: torch.Tensor) -> torch.Tensor:
        given = []
        handle = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        with torch.no_grad():
            arguments = times * scale
            if isinstance(project, nn.Module):
                arguments = project(arguments).float()
            elif project is not None:
                arguments = project(transformer, arguments)
            embedder(*(arguments if isinstance(arguments, tuple) else (arguments,)))
        handle.remove()
        return given[0].reshape(len(times), -1, layer.in_features).double()

    return inputs_at


def _plain_copy(module: nn.Module, adapter_names: Sequence[str]) -> nn.Module:
    """Return a float32 copy on the CPU, with the adapters' weights added to its linear layers.

    The copy has no hooks, is not quantized and is not sharded. Only tensors are copied, because FSDP forbids deep
    copies.
    """
    base = base_layer(module)
    if isinstance(base, nn.Linear):
        return _plain_linear(module, base, adapter_names)
    return _plain_container(module, adapter_names)


def _plain_container(module: Copied, adapter_names: Sequence[str]) -> Copied:
    """Do the work of `_plain_copy` for a module that is not a linear layer."""
    copied = shallow_copy(module)
    vars(copied)["_parameters"] = {
        name: nn.Parameter(_plain_tensor(tensor), requires_grad=False) for name, tensor in _tensors(module._parameters)
    }
    vars(copied)["_buffers"] = {name: _plain_tensor(tensor) for name, tensor in _tensors(module._buffers)}
    vars(copied)["_modules"] = {name: _plain_copy(child, adapter_names) for name, child in module.named_children()}
    for name in [name for name in vars(copied) if name.endswith("_hooks")]:
        vars(copied)[name] = OrderedDict()
    return copied.eval()


def _tensors(found: Mapping[str, torch.Tensor | None]) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor) for name, tensor in found.items() if tensor is not None]


def _plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the CPU, in float32 if the tensor is a floating-point one."""
    copied = tensor.detach().cpu().clone()
    return copied.float() if copied.is_floating_point() else copied


def _plain_linear(layer: nn.Module, base: nn.Linear, adapter_names: Sequence[str]) -> nn.Linear:
    weight = dequantize_module_weight(base).detach().cpu().float()
    if is_adapter_layer(layer):
        for name in adapter_names:
            if name in layer.r and name not in layer.merged_adapters:
                weight = weight + layer.get_delta_weight(name).detach().cpu().float()
    linear = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if base.bias is not None:
        linear.bias = nn.Parameter(base.bias.detach().cpu().float())
    return linear


def _embedder_paths(cls: type[TwinFlowTransformerMixin], transformer: ModelMixin) -> list[str]:
    return [path for path in cls._timestep_embedders.paths if find_submodule(transformer, path) is not None]


def _output_layer(cls: type[TwinFlowTransformerMixin], transformer: ModelMixin, path: str) -> nn.Module:
    return base_layer(submodule(submodule(transformer, path), cls._timestep_embedders.output_layer))


def _layer_name(path: str, output_layer: str) -> str:
    return ".".join(filter(None, (path, output_layer)))
