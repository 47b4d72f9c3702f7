"""Merged weights change no loss and no gradient, and no update of student or teacher is missed."""

from contextlib import nullcontext

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.methods.merged_passes import MergedPasses
from diffusers_twinflow.models.merged_lora import MergedLora
from diffusers_twinflow.training.compilation import compile_blocks
from tests import tiny
from tests.objective_runs import BATCH, FULL, lora_transformer, networks_of


def loss_of(method, networks):
    draw = method.draw(list(range(BATCH)), (4, 8, 8), seed=3)
    latents = torch.randn(BATCH, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    return method.loss(latents, tiny.sd3_condition(BATCH), draw, networks).loss


def train(is_merged, dtype=torch.float32, steps=3, compiled=False, changes=None, **options):
    """The losses and last gradients of some steps of gradient descent."""
    method, losses = TwinFlow(TwinFlowConfig(**FULL | options)), []
    transformer = lora_transformer(**changes or {})
    for name, parameter in transformer.named_parameters():
        if not ("lora_" in name or "time_conditioning" in name):
            parameter.data = parameter.data.to(dtype)
    networks = networks_of(method, transformer)
    teacher, used = networks.teacher, nullcontext
    if is_merged:
        merged = MergedLora(transformer)
        used, networks = merged.used, MergedPasses(transformer, merged, networks).networks
    if compiled:
        compile_blocks(transformer, backend="aot_eager")
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for _ in range(steps):
        teacher.update()
        with used(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = loss_of(method, networks)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients):
                if gradient is not None:
                    parameter -= 0.05 * gradient
    return losses, gradients


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"twinflow_ema_decay": 1.0},
        {"twinflow_require_ema": False, "twinflow_allow_no_ema_teacher": True, "twinflow_ema_decay": 0.0},
    ],
)
def test_losses_and_gradients_equal_those_of_the_layers_with_adapters(options):
    losses, gradients = train(True, **options)
    wanted_losses, wanted_gradients = train(False, **options)
    assert len(set(losses)) == 3
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    for gradient, wanted in zip(gradients, wanted_gradients):
        if wanted is not None:
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


def test_in_bfloat16_losses_differ_by_its_rounding_only():
    exact = train(False)[0]
    merged, unmerged = (train(way, torch.bfloat16)[0] for way in (True, False))
    error = max(abs(a - b) for a, b in zip(unmerged, exact))
    assert max(abs(a - b) for a, b in zip(merged, exact)) < 2 * error


@pytest.mark.slow
def test_compiled_blocks_use_merged_weights_too():
    torch.compiler.reset()
    assert train(True, compiled=True)[0] == pytest.approx(train(True)[0], rel=1e-5)


@pytest.mark.slow
def test_student_and_teacher_share_the_graphs_of_passes_without_gradient():
    torch.compiler.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph

    method, transformer = TwinFlow(TwinFlowConfig(**FULL)), lora_transformer(num_layers=3)
    merged = MergedLora(transformer)
    networks = MergedPasses(transformer, merged, networks_of(method, transformer)).networks
    compile_blocks(transformer, backend=backend)
    for _ in range(2):
        with merged.used(), torch.autocast("cpu", torch.bfloat16):
            loss_of(method, networks).backward()
    assert len(graphs) == 4  # a middle block and the last, with and without gradient


def test_the_weights_are_merged_once_for_the_passes_of_one_network(monkeypatch):
    transformer, method, names = lora_transformer(), TwinFlow(TwinFlowConfig(**FULL)), []
    merged = MergedLora(transformer)
    networks = MergedPasses(transformer, merged, networks_of(method, transformer)).networks
    with merged.used():
        merged.merge("default")
        merged.merged, group = None, merged.groups[0]
        monkeypatch.setattr(group, "merge", names.append)
        loss_of(method, networks).backward()
    assert names == ["teacher", "default"]
