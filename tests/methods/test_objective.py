"""The objective against a plain implementation that runs every pass on every sample, and its gradients."""

import math

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfig
from diffusers_twinflow.methods import Networks, TwinFlow
from diffusers_twinflow.methods.teachers import StudentTeacher
from diffusers_twinflow.training.training_health import TrainingHealth
from tests import tiny
from tests.host_reads import no_host_reads, waiting_is_an_error
from tests.objective_runs import BATCH, FAMILY, FULL, lora_transformer, networks_of, run, student_transformer


def plain_loss(config: TwinFlowConfig, transformer, draw, latents) -> torch.Tensor:
    """Section by section of the paper, one sample at a time, every quantity written out."""
    velocity = FAMILY.velocity(transformer)
    condition, empty = tiny.sd3_condition(len(latents)), tiny.sd3_condition(1, seed=9)
    total, rectify, one_step_count, fake_count = 0.0, 0.0, 0, 0
    delta, order = config.twinflow_delta_t, config.twinflow_estimate_order

    def call(x, t, r, sign, c):
        as_tensor = [torch.tensor([float(value)]) for value in (t, r, sign)]
        return velocity(x, *as_tensor, c)

    names = TwinFlow(config).branch_names
    for i, branch in enumerate(names[index] for index in draw.branch_indices.tolist()):
        c = {name: tensor[i : i + 1] for name, tensor in condition.items()}
        t, r, x, z = draw.t[i], draw.r[i], latents[i : i + 1], draw.noise[i : i + 1]
        sign = 1
        if branch == "adversarial":
            sign = -1
        if branch == "adversarial" or config.twinflow_image_free:
            with torch.no_grad():
                fake_noise = draw.fake_noise[fake_count][None]
                x, fake_count = fake_noise - call(fake_noise, 1, 0, 1, c), fake_count + 1
        x_t, v = t * z + (1 - t) * x, z - x
        prediction = call(x_t, t, r, sign, c)
        with torch.no_grad():
            if branch != "adversarial":
                if config.twinflow_enhanced_low < t < config.twinflow_enhanced_high:
                    guided = call(x_t, t, t, 1, c) - call(x_t, t, t, 1, empty)
                    v = v + config.twinflow_enhanced_ratio * guided
                if t - r >= delta and order > 0:
                    start = t - delta
                    x_m, jumped = x_t - delta * v, 0
                    for k in range(order):
                        tau, tau_next = start + (r - start) * k / order, start + (r - start) * (k + 1) / order
                        f = call(x_m, tau, tau_next, 1, c)
                        x_hat, z_hat = x_m - tau * f, x_m + (1 - tau) * f
                        x_m = tau_next * z_hat + (1 - tau_next) * x_hat
                        jumped = jumped + f * (tau - tau_next)
                    residual = prediction * (t - r) / delta - jumped / delta - v
                else:
                    residual = prediction - v
                clamp = config.twinflow_target_clamp
                v = prediction - residual.clamp(-clamp, clamp)
        error = ((prediction - v) ** 2).mean()
        barron = error * (error.detach() / (1e-6 + 1e-8) + 1) ** -0.5 / 1e-3
        weight = config.twinflow_adversarial_weight
        if branch != "adversarial":
            weight = math.tan((1 - (t - r)) * math.pi / 2.5) + 1
        total = total + barron * weight
        if branch == "one_step" and config.twinflow_adversarial_enabled:
            with torch.no_grad():
                x_hat = x_t - prediction
                t2 = draw.rectify_t[one_step_count]
                x2 = t2 * draw.rectify_noise[one_step_count][None] + (1 - t2) * x_hat
                difference = (call(x2, t2, t2, -1, c) - call(x2, t2, t2, 1, c)).clamp(-1, 1)
                goal = prediction - difference
            error = ((prediction - goal) ** 2).mean()
            rectify = rectify + error * (error.detach() / (1e-6 + 1e-8) + 1) ** -0.5 / 1e-3
            one_step_count += 1
    return (total + config.twinflow_rectify_weight * rectify) / len(latents)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"twinflow_estimate_order": 1, "twinflow_few_step_share": 1.0, "twinflow_any_step_share": 0.0},
        {"twinflow_enhanced_ratio": 0.0, "twinflow_rectify_weight": 0.5, "twinflow_estimate_order": 3},
        {"twinflow_enhanced_high": 0.6, "twinflow_target_clamp": 0.05, "twinflow_adversarial_weight": 0.3},
        {"twinflow_adversarial_enabled": False, "twinflow_enhanced_ratio": 1.5},
        {"twinflow_estimate_order": 0, "twinflow_delta_t": 0.2},
        {"twinflow_split_passes": True},
        {"twinflow_image_free": True},
    ],
)
@pytest.mark.parametrize("make", [student_transformer, lora_transformer])
def test_matches_plain_implementation(options, make):
    config = TwinFlowConfig(**{**FULL, **options})
    transformer = make()
    result, draw, latents = run(config, transformer)
    result.loss.backward()
    gradients = {n: p.grad.clone() for n, p in transformer.named_parameters() if p.grad is not None}
    transformer.zero_grad()
    plain = plain_loss(config, transformer, draw, latents)
    plain.backward()
    torch.testing.assert_close(result.loss, plain, rtol=1e-5, atol=1e-6)
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, parameter in transformer.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=2e-5 * largest.item())


def test_gradients_of_full_training_reach_everything_but_the_positive_sign():
    transformer = student_transformer()
    result, _, _ = run(TwinFlowConfig(**FULL), transformer)
    result.loss.backward()
    sign_gradient = transformer.time_conditioning.time_sign_embed.weight.grad
    assert not sign_gradient[0].any() and sign_gradient[1].all()
    without = {name for name, parameter in transformer.named_parameters() if parameter.grad is None}
    assert without == set()


def test_gradients_of_a_lora_reach_the_adapter_and_its_conditioning_alone():
    transformer = lora_transformer()
    run(TwinFlowConfig(**FULL), transformer)[0].loss.backward()
    for name, parameter in transformer.named_parameters():
        is_student = ".default." in name or name.startswith("time_conditioning.")
        assert (parameter.grad is not None) == is_student, name
        assert parameter.requires_grad == is_student, name


def test_rcgm_alone_does_not_touch_the_twin():
    transformer = student_transformer()
    result, draw, _ = run(TwinFlowConfig(twinflow_enabled=True), transformer)
    result.loss.backward()
    assert (draw.sign == 1).all() and len(result.parts["rectify"]) == 0
    assert not transformer.time_conditioning.time_sign_embed.weight.grad.any()


def test_micro_batches_add_up_to_the_batch():
    """Eight micro-batches of one sample, averaged, are the batch of eight: loss and gradients."""
    config = TwinFlowConfig(**FULL)
    whole, parts = student_transformer(), student_transformer()
    result, _, latents = run(config, whole)
    result.loss.backward()
    method = TwinFlow(config)
    networks = networks_of(method, parts)
    networks.teacher.update()
    condition = tiny.sd3_condition(BATCH)
    for i in range(BATCH):
        part = method.loss(
            latents[i : i + 1],
            {name: tensor[i : i + 1] for name, tensor in condition.items()},
            method.draw([i], (4, 8, 8), seed=3),
            networks,
        )
        (part.loss / BATCH).backward()
    for (name, a), b in zip(whole.named_parameters(), parts.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=2e-3, atol=1e-3, msg=name)


def test_perfect_model_has_no_loss():
    """A point mass at x* with the exact field F(x, t, r) = (x - x*) / t: every branch but the twin is at rest."""
    config = TwinFlowConfig(twinflow_enabled=True, twinflow_enhanced_ratio=0.0)
    star = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))

    def exact(x, t, r, sign, condition):
        return (x - star) / t.clamp_min(1e-3)[:, None, None, None]

    method = TwinFlow(config)
    draw = method.draw(range(30), star.shape, seed=0)
    networks = Networks(exact, exact, StudentTeacher(torch.nn.Identity(), lambda _: exact))
    result = method.loss(star.expand(30, -1, -1, -1), {}, draw, networks)
    far_from_data = draw.t > 0.05
    assert result.per_sample[far_from_data].max() < 1e-3


def test_passes_are_only_for_samples_that_need_them():
    """The cost of a step, a forward as 1 and the whole batch as 1: 0.25 fakes, 1 student, 1 guidance, 0.5 rectify,
    and 2 jumps of the samples whose interval is at least delta."""
    sizes = []
    transformer = student_transformer()
    transformer.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    teacher_passes_too = {"twinflow_ema_decay": 0.0, "twinflow_allow_no_ema_teacher": True}
    _, draw, _ = run(TwinFlowConfig(**FULL, **teacher_passes_too), transformer, range(32), 32)
    assert sizes == [32, len(draw.walked), len(draw.walked), 8, 32, 8, 8]
    long = ((draw.t - draw.r) >= 0.01) & (draw.sign > 0)
    assert len(draw.walked) == long.sum() < 24


def test_the_rectify_pair_of_a_small_batch_is_one_pass():
    sizes, transformer = [], student_transformer()
    transformer.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    run(TwinFlowConfig(**FULL), transformer, range(16), 16)
    assert sizes[-2:] == [16, 8]


def test_bf16_passes_without_gradient_leave_the_weights_their_gradients():
    """Autocast keeps its casts of the weights, and those of the first passes serve the student's pass as well."""
    grads = []
    for make in (student_transformer, lora_transformer):
        for autocast in (False, True):
            transformer = make()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = run(TwinFlowConfig(**FULL), transformer)[0].loss
            loss.backward()
            grads.append({n: p.grad for n, p in transformer.named_parameters() if p.grad is not None})
        exact, low = grads[-2:]
        assert exact.keys() == low.keys()
        flat = [torch.cat([grad.flatten() for grad in found.values()]) for found in (exact, low)]
        assert torch.cosine_similarity(*flat, dim=0) > 0.95


def test_processes_with_other_branches_can_make_the_same_passes():
    """Sharded parameters are gathered in every pass: a process without a sample for it takes part, and learns the same."""
    config, everyone = TwinFlowConfig(**FULL), range(4)
    assert len(set(TwinFlow(config).rotation.at(everyone))) == 4
    passes = []
    for position in everyone:
        grads = []
        for passes_of in (None, everyone):
            transformer, sizes = student_transformer(), []
            transformer.register_forward_pre_hook(
                lambda _, args, kwargs, sizes=sizes: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
            )
            teacher_passes_too = {"twinflow_ema_decay": 0.0, "twinflow_allow_no_ema_teacher": True}
            config = TwinFlowConfig(**FULL, **teacher_passes_too)
            run(config, transformer, [position], 1, passes_of=passes_of)[0].loss.backward()
            grads.append([p.grad for p in transformer.parameters() if p.grad is not None])
        passes.append(sizes)
        for alone, together in zip(*grads, strict=True):
            torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5 * alone.abs().max().item())
    assert all(sizes == passes[0] for sizes in passes), passes
    assert len(passes[0]) == 6


class Steps:
    """A small run on a device, up to what its health watches."""

    def __init__(self, transformer, device: str):
        self.device, self.method = torch.device(device), TwinFlow(TwinFlowConfig(**FULL))
        transformer = transformer.to(device).train()
        velocity, self.teacher = FAMILY.velocity(transformer), self.method.build_teacher(transformer, FAMILY.velocity)
        self.trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, fused=True)
        names = self.method.branch_names, self.method.part_names
        self.health = TrainingHealth(self.optimizer, self.device, *names)
        self.latents = torch.randn(BATCH, 4, 8, 8, device=device)
        self.condition, empty = (
            {name: tensor.to(device) for name, tensor in tiny.sd3_condition(n).items()} for n in (BATCH, 1)
        )
        self.networks = Networks(velocity, velocity, self.teacher, empty)

    def draw(self, first: int):
        return self.method.draw(range(first, first + BATCH), (4, 8, 8), seed=3, device=self.device)

    def train(self, draw) -> torch.Tensor:
        self.teacher.update()
        result = self.method.loss(self.latents, self.condition, draw, self.networks)
        result.loss.backward()
        self.health.record(result)
        return result.loss.detach()

    def take(self) -> None:
        self.health.guard_step(torch.nn.utils.clip_grad_norm_(self.trainable, 1.0))
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.mark.parametrize("make", [student_transformer, lora_transformer])
def test_a_step_reads_nothing_back(make):
    steps = Steps(make(), "cpu")
    draw = steps.draw(0)
    with no_host_reads():
        loss = steps.train(draw)
        steps.take()
    assert loss.isfinite() and steps.health.report()["skipped_steps"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("make", [student_transformer, lora_transformer])
def test_a_step_waits_for_no_host_on_cuda(make):
    steps = Steps(make(), "cuda")
    steps.train(steps.draw(0))
    steps.take()
    with waiting_is_an_error():
        loss = steps.train(steps.draw(BATCH))
        steps.take()
    assert loss.isfinite()
