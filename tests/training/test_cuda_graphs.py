"""Replayed passes change no loss. Without a GPU, a recorder stands in that overwrites its output at every replay."""

from contextlib import nullcontext

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.methods import Networks, TwinFlow
from diffusers_twinflow.methods.merged_passes import MergedPasses
from diffusers_twinflow.models.merged_lora import MergedLora
from diffusers_twinflow.training import TrainingArguments
from diffusers_twinflow.training.accelerators import build_accelerator
from diffusers_twinflow.training.cuda_graphs import CudaGraphRecorder, ReplayedPasses
from tests import tiny
from tests.objective_runs import FAMILY, FULL, lora_transformer, student_transformer

BATCH = 8


class Recorder:
    """Runs a pass again in place of a replay, at inputs and with an output that stay where they are."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, run, inputs):
        self.recorded += 1
        own = [tensor.clone() for tensor in inputs]
        output = run(own)

        def replay(inputs):
            self.replayed += 1
            for mine, given in zip(own, inputs):
                mine.copy_(given)
            return output.copy_(run(own))

        return replay


def losses_of(transformer, velocity_of, merges=False, steps=4, device="cpu"):
    """The losses of some steps with updates of student and teacher. The branches of the steps need the same passes."""
    method = TwinFlow(TwinFlowConfig(**FULL))
    student = FAMILY.velocity(transformer)
    teacher = method.build_teacher(transformer, velocity_of)
    empty = {name: tensor.to(device) for name, tensor in tiny.sd3_condition(1, seed=9).items()}
    networks = Networks(student, velocity_of(transformer), teacher, empty)
    used = nullcontext
    if merges:
        merged = MergedLora(transformer)
        used, networks = merged.used, MergedPasses(transformer, merged, networks).networks
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.SGD(trained, lr=0.05), []
    latents = torch.randn(BATCH, 4, 8, 8, generator=torch.Generator().manual_seed(5)).to(device)
    condition = {name: tensor.to(device) for name, tensor in tiny.sd3_condition(BATCH).items()}
    for step in range(steps):
        teacher.update()
        draw = method.draw(range(step * BATCH, (step + 1) * BATCH), (4, 8, 8), seed=3, device=device)
        with used():
            loss = method.loss(latents, condition, draw, networks).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "make, merges", [(student_transformer, False), (lora_transformer, False), (lora_transformer, True)]
)
def test_replayed_passes_give_the_same_losses(make, merges):
    recorder = Recorder()
    passes = ReplayedPasses(recorder, FAMILY.velocity)
    assert losses_of(make(), passes.velocity, merges) == losses_of(make(), FAMILY.velocity, merges)
    assert recorder.replayed > recorder.recorded > 3


def test_passes_are_recorded_again_when_the_weights_have_moved():
    recorder, transformer = Recorder(), student_transformer()
    velocity = ReplayedPasses(recorder, FAMILY.velocity).velocity(transformer)
    x, t = torch.randn(2, 4, 8, 8), torch.full((2,), 0.5)

    def passed():
        with torch.no_grad():
            return velocity(x, t, t, torch.ones_like(t), tiny.sd3_condition(2))

    first = [passed() for _ in range(3)]
    assert recorder.recorded == 1
    for parameter in transformer.parameters():
        parameter.data = 2 * parameter.data
    moved = [passed() for _ in range(3)]
    assert recorder.recorded == 2
    for same in (first, moved):
        torch.testing.assert_close(same[1:], same[:1] * 2)
    assert not torch.equal(first[0], moved[0])


def test_no_more_shapes_than_allowed_are_recorded():
    recorder = Recorder()
    velocity = ReplayedPasses(recorder, FAMILY.velocity, most=1).velocity(student_transformer())
    for batch in (1, 2, 1, 2, 2):
        with torch.no_grad():
            t = torch.full((batch,), 0.5)
            velocity(torch.ones(batch, 4, 8, 8), t, t, torch.ones_like(t), tiny.sd3_condition(batch))
    assert (recorder.recorded, recorder.replayed) == (1, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the run would be on a CUDA device")
def test_cuda_graphs_need_a_cuda_device(tmp_path):
    arguments = TrainingArguments("base", output_dir=str(tmp_path), cuda_graphs=True)
    with pytest.raises(TwinFlowConfigError, match="`cuda_graphs` cannot be used.* CUDA device. Leave it out"):
        build_accelerator(arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make, merges", [(student_transformer, False), (lora_transformer, True)])
def test_cuda_graphs_give_the_same_losses(make, merges):
    passes = ReplayedPasses(CudaGraphRecorder(), FAMILY.velocity)
    replayed, wanted = (
        losses_of(make().cuda(), of, merges, device="cuda") for of in (passes.velocity, FAMILY.velocity)
    )
    assert passes.recordings
    assert replayed == pytest.approx(wanted, rel=1e-5)
