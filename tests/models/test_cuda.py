"""Tests of every class that need a GPU."""

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading

from diffusers_twinflow.models import enable_twinflow
from tests.models.stock import STOCK
from tests.models.stock.spec import stock_class
from tests.models.trained import conditioned, randomise, trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture(autouse=True)
def on_cuda(monkeypatch):
    """Tensors are made on the GPU, and convolutions are as exact as products of matrices are by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with torch.device("cuda"):
        yield


def close(output: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-3) -> None:
    torch.testing.assert_close(output, expected, atol=tolerance, rtol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("offload_type, use_stream", [("leaf_level", True), ("block_level", False)])
def test_group_offload(name, offload_type, use_stream):
    expected = conditioned(name, trained(name))
    ours = STOCK[name].build(stock_class(name)).to("cpu")
    options = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
    apply_group_offloading(
        ours,
        onload_device=torch.device("cuda"),
        offload_device=torch.device("cpu"),
        offload_type=offload_type,
        use_stream=use_stream,
        **options,
    )
    enable_twinflow(ours)
    assert next(ours.time_conditioning.parameters()).device.type == "cuda"
    randomise(ours.time_conditioning)
    for _ in range(2):  # from the second call on, a stream loads ahead in the order of the first
        close(conditioned(name, ours), expected)


@torch.no_grad()
def test_offloaded_as_a_whole_and_layer_by_layer(name):
    expected = conditioned(name, trained(name))
    ours = trained(name).to("cpu")
    cpu_offload_with_hook(ours, execution_device=torch.device("cuda"))
    close(conditioned(name, ours), expected)
    if STOCK[name].not_offloaded:
        return
    ours = trained(name).to("cpu")
    cpu_offload(ours, execution_device=torch.device("cuda"))
    close(conditioned(name, ours), expected)


@torch.no_grad()
def test_layerwise_casting_to_eight_bits(name):
    """The same as weights that were rounded once; those of the conditioning are not."""
    ours, rounded = trained(name), trained(name)
    ours.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert all(parameter.dtype == torch.float32 for parameter in ours.time_conditioning.parameters())
    stored = dict(ours.named_parameters())
    assert any(parameter.dtype == torch.float8_e4m3fn for parameter in stored.values())
    for key, parameter in rounded.named_parameters():
        parameter.copy_(stored[key].float())
    close(conditioned(name, ours), conditioned(name, rounded))


@torch.no_grad()
def test_enabled_on_cuda_and_moved(name):
    ours = STOCK[name].build(stock_class(name))
    enable_twinflow(ours)
    randomise(ours.time_conditioning)
    on_cuda = conditioned(name, ours)
    assert all(parameter.device.type == "cuda" for parameter in ours.parameters())
    if STOCK[name].not_moved:
        return
    with torch.device("cpu"):
        close(on_cuda.cpu(), conditioned(name, ours.to("cpu")), STOCK[name].device_tolerance)


def test_backward(name):
    """Every class has one here, also those that have none on the CPU."""
    ours = trained(name)
    conditioned(name, ours).square().mean().backward()
    gradients = [parameter.grad for parameter in ours.time_conditioning.parameters()]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert ours.time_conditioning.time_sign_embed.weight.grad[1].any()
