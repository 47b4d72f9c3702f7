from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import Networks, TwinFlow
from diffusers_twinflow.methods.merged_passes import MergedPasses
from diffusers_twinflow.methods.teachers import frozen_copy
from diffusers_twinflow.models.known_times import known_times, times_on_host
from diffusers_twinflow.models.merged_lora import MergedLora
from diffusers_twinflow.training.compilation import compile_blocks, share_graphs, with_single_samples_twice
from tests import tiny
from tests.objective_runs import FAMILY, FULL, lora_transformer, networks_of, run, student_transformer


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("make", [student_transformer, lora_transformer])
def test_equal_blocks_share_their_graphs(make):
    """A middle block and the last have a graph each for the teacher, for the student and for its gradients. The first block
    of a LoRA adds none, although its input has no gradient. A step of another size adds those with gradients once more."""
    torch.compiler.reset()
    made = []

    def backend(graph, example_inputs):
        made.append(graph)
        return graph

    transformer = make(num_layers=3)
    compile_blocks(transformer, backend=backend)
    counts = []
    for batch in (16, 16, 20, 24):
        with torch.autocast("cpu", torch.bfloat16):
            loss = run(TwinFlowConfig(**FULL), transformer, range(batch), batch)[0].loss
        loss.backward()
        counts.append(len(made))
    assert counts == [6, 6, 8, 8]


@pytest.mark.slow
def test_a_copy_of_a_compiled_transformer_computes_with_its_own_weights():
    torch.compiler.reset()
    transformer = student_transformer()
    compile_blocks(transformer, backend="aot_eager")
    copy, inputs = deepcopy(transformer), {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": torch.ones(2)}
    condition = tiny.sd3_condition(2)
    inputs |= {"encoder_hidden_states": condition["prompt_embeds"], "return_dict": False}
    inputs["pooled_projections"] = condition["pooled_prompt_embeds"]
    with torch.no_grad():
        before = transformer(**inputs)[0]
        for block in transformer.transformer_blocks:
            block.requires_grad_(False).ff.net[2].weight.mul_(3)
        assert not torch.allclose(transformer(**inputs)[0], before)
        torch.testing.assert_close(copy(**inputs)[0], before)


@pytest.mark.slow
def test_a_teacher_of_all_weights_uses_the_graphs_of_the_student():
    torch.compiler.reset()
    made = []

    def backend(graph, example_inputs):
        made.append(graph)
        return graph

    transformer = student_transformer(num_layers=3).train()
    compile_blocks(transformer, backend=backend)
    teacher = frozen_copy(transformer)
    share_graphs(transformer, teacher)
    method = TwinFlow(TwinFlowConfig(**FULL))
    networks = replace(
        networks_of(method, transformer),
        teacher=method.build_teacher(transformer, FAMILY.velocity, teacher),
    )
    draw, latents = method.draw(range(16), (4, 8, 8), seed=3), torch.randn(16, 4, 8, 8)
    method.loss(latents, tiny.sd3_condition(16), draw, networks).loss.backward()
    assert len(made) == 4  # a middle block and the last, with and without gradient
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.slow
def test_a_merged_lora_compiles_two_graphs_for_each_kind_of_block():
    """One with gradient and one without, for student and teacher and for any number of samples. Each step has other
    branches and so other numbers of samples. The last block, which differs from all others, is not compiled."""
    torch.compiler.reset()
    made, counts = [], []

    def backend(graph, example_inputs):
        made.append(graph)
        return graph

    layers = {"num_layers": 13, "dual_attention_layers": (0, 1, 2, 3, 4, 5), "qk_norm": "rms_norm"}
    eager, compiled = lora_transformer(**layers), lora_transformer(**layers)
    velocity_of = with_single_samples_twice(FAMILY.velocity)
    method, losses = TwinFlow(TwinFlowConfig(**FULL)), []
    assert compile_blocks(compiled, backend=backend) == 12
    for transformer, of in ((eager, FAMILY.velocity), (compiled, velocity_of)):
        teacher, merged = method.build_teacher(transformer, of), MergedLora(transformer)
        networks = Networks(of(transformer), of(transformer), teacher, tiny.sd3_condition(1, seed=9))
        networks = MergedPasses(transformer, merged, networks).networks
        latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        for step in range(4):
            teacher.update()
            draw = method.draw(range(step * 4, step * 4 + 4), (4, 8, 8), seed=3)
            with merged.used():
                loss = method.loss(latents, tiny.sd3_condition(4), draw, networks).loss
                loss.backward()
            losses.append(loss.item())
            counts.append(len(made))
    assert counts == [0] * 4 + [4] * 4
    assert losses[4:] == pytest.approx(losses[:4], rel=1e-4)


@pytest.mark.parametrize("with_gradient", [True, False])
def test_a_single_sample_without_gradient_runs_twice(with_gradient):
    sizes = []

    def velocity_of(model):
        def velocity(x, t, r, sign, condition):
            assert r is None and len(condition["prompt"]) == len(times_on_host(len(t))) == len(x)
            sizes.append(len(x))
            return model(x)

        return velocity

    velocity = with_single_samples_twice(velocity_of)(torch.nn.Linear(4, 4))
    with torch.set_grad_enabled(with_gradient):
        for batch in (1, 3):
            x, t, condition = torch.randn(batch, 4), torch.ones(batch), {"prompt": torch.ones(batch, 2)}
            with known_times(np.ones(batch)):
                assert velocity(x, t, None, t, condition).shape == x.shape
    assert sizes == [1 if with_gradient else 2, 3]


@pytest.mark.slow
def test_graphs_of_merged_layers_are_read_from_the_cache():
    """A second run, or another process, compiles nothing."""
    compile_blocks(lora_transformer())
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    layer = get_peft_model(model, LoraConfig(r=2, target_modules=["0"])).base_model.model
    merged, found = MergedLora(layer), []
    with fresh_cache():
        for _ in range(2):
            torch.compiler.reset()
            counters.clear()
            with merged.used():
                merged.merge("default")
                torch.compile(layer)(torch.randn(3, 4)).sum().backward()
            found.append([counters["aot_autograd"][f"autograd_cache_{kind}"] for kind in ("bypass", "miss", "hit")])
    assert found == [[0, 1, 0], [0, 0, 1]]
