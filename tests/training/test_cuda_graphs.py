"""Replayed passes change no loss. Without a GPU, a recorder that overwrites its output at every replay replaces CUDA graphs."""

from contextlib import nullcontext

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.methods import Networks, TwinFlow
from diffusers_twinflow.methods.merged_passes import MergedPasses
from diffusers_twinflow.models.merged_lora import MergedLora
from diffusers_twinflow.training import TrainingArguments
from diffusers_twinflow.training.accelerators import build_accelerator
from diffusers_twinflow.training.cuda_graphs import (
    CudaGraphRecorder,
    check_recorded_family,
    reason_against_gradients,
)
from diffusers_twinflow.training.replayed_passes import ReplayedPasses, gradients_of
from tests import tiny
from tests.objective_runs import FAMILY, FULL, lora_transformer, student_transformer

BATCH = 8


class Recorder:
    """Runs a pass again in place of a replay, at inputs and with results that stay where they are."""

    def __init__(self):
        self.recorded = self.replayed = self.recorded_with_gradient = self.replayed_with_gradient = 0
        self.with_gradients = []

    def without_gradient(self, run, inputs):
        self.recorded += 1
        own = [tensor.clone() for tensor in inputs]
        output = run(own)

        def replay(inputs):
            self.replayed += 1
            for mine, given in zip(own, inputs):
                mine.copy_(given)
            return output.copy_(run(own))

        return replay

    def with_gradient(self, run, inputs, weights):
        self.recorded_with_gradient += 1
        return GradientRecording(self, run, inputs, weights)


class GradientRecording:
    """All recordings share their memory, as CUDA graphs with one pool do: each forward overwrites all gradients."""

    def __init__(self, recorder, run, inputs, weights):
        self.recorder, self.pass_, self.weights = recorder, run, weights
        self.own = [tensor.clone() for tensor in inputs]
        output = run(self.own)
        self.output = output.detach().clone()
        self.gradients = gradients_of(output, weights, torch.zeros_like(output))
        recorder.with_gradients.append(self)

    def forward(self, inputs):
        self.recorder.replayed_with_gradient += 1
        for recording in self.recorder.with_gradients:
            for gradient in recording.gradients:
                if gradient is not None:
                    gradient.fill_(torch.nan)
        for mine, given in zip(self.own, inputs):
            mine.copy_(given)
        with torch.enable_grad():
            self.live = self.pass_(self.own)
        return self.output.copy_(self.live.detach())

    def backward(self, gradient):
        for mine, found in zip(self.gradients, gradients_of(self.live, self.weights, gradient)):
            assert (mine is None) == (found is None)
            if mine is not None:
                mine.copy_(found)


def losses_of(transformer, velocity_of, merges=False, steps=4, device="cpu", student_of=FAMILY.velocity, batches=1):
    """The losses of some steps with updates of student and teacher. The branches of the steps need the same passes."""
    method = TwinFlow(TwinFlowConfig(**FULL))
    student = student_of(transformer)
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
        for batch in range(step * batches, (step + 1) * batches):
            draw = method.draw(range(batch * BATCH, (batch + 1) * BATCH), (4, 8, 8), seed=3, device=device)
            with used():
                loss = method.loss(latents, condition, draw, networks).loss
                loss.backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize(
    "make, merges", [(student_transformer, False), (lora_transformer, False), (lora_transformer, True)]
)
def test_replayed_passes_give_the_same_losses(make, merges):
    recorder = Recorder()
    passes = ReplayedPasses(recorder, FAMILY.velocity)
    assert losses_of(make(), passes.velocity, merges) == losses_of(make(), FAMILY.velocity, merges)
    assert recorder.replayed > recorder.recorded > 3


@pytest.mark.parametrize("batches", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(
    "make, merges", [(student_transformer, False), (lora_transformer, False), (lora_transformer, True)]
)
def test_replayed_passes_with_gradient_give_the_same_losses(make, merges, batches):
    """Also if the gradients of two micro-batches are added up."""
    recorder = Recorder()
    passes = ReplayedPasses(recorder, FAMILY.velocity)
    replayed = losses_of(make(), passes.velocity, merges, student_of=passes.velocity_with_gradient, batches=batches)
    assert replayed == losses_of(make(), FAMILY.velocity, merges, batches=batches)
    assert (recorder.recorded_with_gradient, recorder.replayed_with_gradient) == (1, 4 * batches - 1)


def gradients(transformer):
    found = {name: parameter.grad for name, parameter in transformer.named_parameters()}
    transformer.zero_grad()
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def passes_with_gradient(transformer, **limits):
    """A recorder, the replayed velocity, and a function that returns the loss of `batch` samples at time `time`."""
    recorder = Recorder()
    velocity = ReplayedPasses(recorder, FAMILY.velocity, **limits).velocity_with_gradient(transformer)

    def loss(time, batch=2, of=velocity):
        t = torch.full((batch,), time)
        return of(torch.ones(batch, 4, 8, 8), t, t / 2, torch.ones_like(t), tiny.sd3_condition(batch)).square().sum()

    return recorder, loss


def test_a_pass_without_merged_weights_is_not_replayed_with_them():
    transformer, t = lora_transformer(), torch.full((2,), 0.5)
    merged = MergedLora(transformer)
    velocity = ReplayedPasses(Recorder(), FAMILY.velocity, lambda: merged.is_on).velocity(transformer)

    def passed():
        with torch.no_grad():
            return velocity(torch.ones(2, 4, 8, 8), t, t, torch.ones_like(t), tiny.sd3_condition(2))

    with merged.used():
        merged.merge("default")
        before = [passed() for _ in range(3)][-1]
    for layer in merged.layers:
        torch.nn.init.zeros_(layer.lora_B["default"].weight)
    assert not torch.allclose(passed(), before)


def test_a_pass_before_the_backward_of_another_is_not_replayed():
    transformer = lora_transformer()
    recorder, loss = passes_with_gradient(transformer)
    for _ in range(2):
        loss(0.5).backward()
    transformer.zero_grad()
    (loss(0.4) + loss(0.8)).backward()
    assert recorder.replayed_with_gradient == 2
    found, eager = gradients(transformer), FAMILY.velocity(transformer)
    (loss(0.4, of=eager) + loss(0.8, of=eager)).backward()
    torch.testing.assert_close(found, gradients(transformer))
    loss(0.3)  # its backward pass never runs
    loss(0.3).backward()
    assert recorder.replayed_with_gradient == 4


def test_gradients_stay_after_further_replays():
    """Also those of other shapes."""
    transformer = lora_transformer()
    recorder, loss = passes_with_gradient(transformer)
    for _ in range(2):
        loss(0.5).backward()
        loss(0.5, batch=3).backward()
    transformer.zero_grad()
    eager = FAMILY.velocity(transformer)
    for velocity in ({}, {"of": eager}):
        for time, batch in ((0.2, 2), (0.6, 2), (0.9, 3), (0.7, 2)):
            loss(time, batch, **velocity).backward()
        if not velocity:
            found = gradients(transformer)
    torch.testing.assert_close(found, gradients(transformer))


def test_a_replayed_backward_pass_runs_once():
    _, loss = passes_with_gradient(lora_transformer())
    loss(0.5).backward()
    again = loss(0.5)
    again.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can run only once. Leave out `cuda_graphs`"):
        again.backward()


def test_an_input_that_needs_a_gradient_gets_it():
    recorder, transformer = Recorder(), lora_transformer()
    velocity = ReplayedPasses(recorder, FAMILY.velocity).velocity_with_gradient(transformer)
    x, t = torch.ones(2, 4, 8, 8, requires_grad=True), torch.full((2,), 0.5)
    for _ in range(3):
        velocity(x, t, t, torch.ones_like(t), tiny.sd3_condition(2)).sum().backward()
    assert x.grad.abs().sum() > 0
    assert recorder.recorded_with_gradient == 0


def test_no_more_shapes_with_gradient_are_recorded_than_allowed():
    recorder, loss = passes_with_gradient(lora_transformer(), most_with_gradient=1)
    for batch in (1, 2, 1, 2, 2):
        loss(0.5, batch).backward()
    assert (recorder.recorded_with_gradient, recorder.replayed_with_gradient) == (1, 1)


def test_gradients_of_a_sum_do_not_share_memory():
    first, second = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    gradient = torch.ones(3)
    found = gradients_of(first + second, [first, second], gradient)
    assert len({gradient.data_ptr(), *(each.data_ptr() for each in found)}) == 3


@pytest.mark.parametrize(
    "options, is_wrapped, reason",
    [
        ({}, False, None),
        ({}, True, "exchange gradients"),
        ({"gradient_checkpointing": True}, False, "`gradient_checkpointing`"),
        ({"quantize_base": "torchao_int8"}, False, "quantized"),
    ],
)
def test_why_passes_with_gradient_are_not_recorded(options, is_wrapped, reason):
    found = reason_against_gradients(TrainingArguments("base", **options), is_wrapped)
    assert found is None if reason is None else reason in found


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


def test_a_model_that_runs_once_per_sample_is_not_recorded():
    recorded = TrainingArguments("base", cuda_graphs=True)
    with pytest.raises(
        TwinFlowConfigError, match="`cuda_graphs` cannot be used with Cosmos3OmniPipeline.* Leave it out"
    ):
        check_recorded_family(recorded, FAMILIES["Cosmos3OmniPipeline"])
    check_recorded_family(recorded, FAMILY)
    check_recorded_family(TrainingArguments("base"), FAMILIES["Cosmos3OmniPipeline"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make, merges", [(student_transformer, False), (lora_transformer, True)])
def test_cuda_graphs_give_the_same_losses(make, merges):
    passes = ReplayedPasses(CudaGraphRecorder(), FAMILY.velocity)
    replayed, wanted = (
        losses_of(make().cuda(), of, merges, device="cuda", student_of=student_of, batches=2)
        for of, student_of in (
            (passes.velocity, passes.velocity_with_gradient),
            (FAMILY.velocity, FAMILY.velocity),
        )
    )
    assert passes.recordings and passes.gradient_recordings
    assert replayed == pytest.approx(wanted, rel=1e-4)  # kernels may add in another order each time
