"""Tiny TwinFlow models whose time conditioning has an effect."""

import pytest
import torch

from diffusers_twinflow.models import twinflow_class_of
from tests.models.stock import STOCK
from tests.models.stock.spec import run, stock_class

TIMES = (0.8, 0.3)
TARGETS = (0.2, 0.1)


def twinflow_class(name: str) -> type:
    return twinflow_class_of(stock_class(name))


def randomise(conditioning: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in conditioning.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, device="cpu"))
        conditioning.time_sign_embed.weight[0] = 0


def trained(name: str, model: torch.nn.Module | None = None) -> torch.nn.Module:
    model = STOCK[name].build(twinflow_class(name)) if model is None else model
    model.enable_twinflow()
    randomise(model.time_conditioning)
    return model


def both(name: str) -> dict[str, torch.Tensor]:
    """A target for every sample and the twin's sign for the last one."""
    stock = STOCK[name]
    signs = torch.ones(stock.batch)
    signs[-1] = -1
    return {"target_timestep": stock.times(*TARGETS), "timestep_sign": signs}


def conditioned(name: str, model: torch.nn.Module) -> torch.Tensor:
    return run(STOCK[name], model, *TIMES, **both(name))


def device_for_backward(name: str) -> torch.device:
    """A context in which tensors are made where the stock class has a backward."""
    if STOCK[name].backward_on_cpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("the stock class has a backward on CUDA only")
    return torch.device("cuda")


def record_additions(model: torch.nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Switch TwinFlow on with a target embedder that answers one and a sign row of ten, and record what it adds.

    Returns:
        what each call of an embedder is changed by, one row a sample or token, and what the target embedder is given.
    """
    model.enable_twinflow()
    conditioning, added, embedded = model.time_conditioning, [], []
    with torch.no_grad():
        conditioning.time_sign_embed.weight[1] = 10.0
        if conditioning.target_timestep_embedder is not None:
            conditioning.target_timestep_embedder.linear_2.bias.fill_(1.0)
            conditioning.target_timestep_embedder.register_forward_hook(lambda _, args, __: embedded.append(args[0]))
    for module in model._embedder_modules(model):
        [hook] = module._forward_hooks.values()
        module._forward_hooks.clear()
        module.register_forward_hook(_recorder(hook, added))
    return added, embedded


def _recorder(hook, added):
    def record(module, args, output):
        changed = hook(module, args, output)
        before, after = (output, changed) if hook.element is None else (output[hook.element], changed[hook.element])
        added.append((after - before).flatten(0, -2))
        return changed

    return record
