"""Tiny TwinFlow models whose time conditioning does something."""

import pytest
import torch
from stock import STOCK
from stock.spec import run, stock_class

from diffusers_twinflow.models import twinflow_class_of

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
