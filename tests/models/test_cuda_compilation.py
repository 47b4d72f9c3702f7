"""Every class compiled on a GPU, forward and backward.

`TORCHINDUCTOR_COMPILE_THREADS=2 pytest -n 12 tests/models/test_cuda_compilation.py` keeps workers out of each other's way.
"""

import pytest
import torch

from tests.models.stock import STOCK
from tests.models.stock.spec import flat
from tests.models.trained import TIMES, both, trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

WITH_INDUCTOR = (
    "AuraFlowTransformer2DModel",
    "FluxTransformer2DModel",
    "QwenImageTransformer2DModel",
    "SD3Transformer2DModel",
    "SanaTransformer2DModel",
    "WanTransformer3DModel",
    "ZImageTransformer2DModel",
)
"""Compiled down to kernels, which takes half a minute each; the others as far as the graphs of both passes."""


def test_forward_and_backward(name, monkeypatch):
    stock = STOCK[name]
    if reason := stock.why_not_compiled():
        pytest.skip(f"the stock class does not: {reason}")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch._dynamo.reset()
    with torch.device("cuda"):
        ours, arguments = trained(name), {**stock.arguments(*TIMES), **both(name)}
    if stock.backward_not_compiled:
        ours.requires_grad_(False)
    expected = output_and_gradients(ours, ours, arguments)
    compiled = torch.compile(ours, fullgraph=True, backend="inductor" if name in WITH_INDUCTOR else "aot_eager")
    torch.testing.assert_close(output_and_gradients(ours, compiled, arguments), expected, atol=1e-3, rtol=1e-3)


def output_and_gradients(model: torch.nn.Module, forward: torch.nn.Module, arguments: dict) -> dict[str, torch.Tensor]:
    """The output, and where weights train the gradients of the time conditioning, the largest of each being 1."""
    model.zero_grad()
    output = flat(forward(**arguments))
    if not output.requires_grad:
        return {"output": output}
    output.square().mean().backward()
    gradients = {key: parameter.grad for key, parameter in model.time_conditioning.named_parameters()}
    return {"output": output.detach()} | {key: grad / grad.abs().max() for key, grad in gradients.items()}
