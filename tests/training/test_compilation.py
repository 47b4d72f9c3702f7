import pytest
import torch
from test_objective import FULL, lora_transformer, run, student_transformer

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.training.compilation import compile_blocks


@pytest.mark.parametrize("make", [student_transformer, lora_transformer])
def test_compiled_blocks_give_the_same_loss_and_gradients(make):
    """Student and teacher, with and without gradient, in batches of other sizes."""
    torch.compiler.reset()
    eager, compiled = make(), make()
    compiled.load_state_dict(eager.state_dict())
    assert compile_blocks(compiled, backend="aot_eager") == 2
    for transformer in (eager, compiled):
        run(TwinFlowConfig(**FULL), transformer)[0].loss.backward()
        run(TwinFlowConfig(**FULL), transformer, range(8, 14), 6)[0].loss.backward()
    for (name, a), b in zip(eager.named_parameters(), compiled.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3 * a.grad.abs().max().item(), msg=name)
