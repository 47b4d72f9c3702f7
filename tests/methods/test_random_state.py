"""With dropout on: paired passes draw the same masks, the teacher draws none, and all start from one random state."""

from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import Networks, TwinFlow
from diffusers_twinflow.methods.rng_snapshot import RNGSnapshot
from diffusers_twinflow.methods.teachers import add_teacher_adapter
from diffusers_twinflow.methods.twinflow.pairs import PairedPasses
from tests import tiny
from tests.objective_runs import FAMILY, FULL, student_transformer

NO_EMA = {"twinflow_ema_decay": 0.0, "twinflow_allow_no_ema_teacher": True}
SIZES = [pytest.param(8, id="pairs in one batch"), pytest.param(20, id="pairs split by size")]


def dropout_transformer(p: float = 0.5, teacher: bool = True):
    """A student in training mode whose LoRA has dropout, and whose twin is the real trajectory."""
    transformer = student_transformer()
    torch.nn.init.zeros_(transformer.time_conditioning.time_sign_embed.weight)
    lora = LoraConfig(r=2, lora_dropout=p, target_modules=FAMILY.lora_target_modules, init_lora_weights=False)
    torch.manual_seed(2)
    transformer.add_adapter(lora)
    transformer.time_conditioning.requires_grad_(True)
    if teacher:
        add_teacher_adapter(transformer, lora)
    return transformer.train()


def loss_of(options: dict, transformer, batch: int, unconditional=None):
    method = TwinFlow(TwinFlowConfig(**FULL, **options))
    velocity, condition = FAMILY.velocity(transformer), tiny.sd3_condition(batch)
    networks = Networks(velocity, velocity, method.build_teacher(transformer, FAMILY.velocity), unconditional)
    draw = method.draw(range(batch), (4, 8, 8), seed=3)
    latents = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(7)
    return method.loss(latents, condition, draw, networks), condition


@contextmanager
def recorded_states(transformer):
    """The random state at the start of each pass, with whether the pass has a gradient."""
    states = []
    hook = transformer.register_forward_pre_hook(
        lambda *_: states.append((torch.is_grad_enabled(), torch.get_rng_state()))
    )
    yield states
    hook.remove()


@pytest.mark.parametrize("batch", SIZES)
def test_twin_and_real_passes_draw_the_same_masks(batch):
    """The twin predicts what the real trajectory does, so nothing but the masks could make a difference."""
    result, _ = loss_of({"twinflow_enhanced_ratio": 0.0}, dropout_transformer(), batch)
    assert len(result.parts["rectify"]) == batch / 4 and not result.parts["rectify"].any()


@pytest.mark.parametrize("split", [False, True])
def test_prompt_and_empty_prompt_draw_the_same_masks(split):
    """The student teaches itself, and the empty prompt is the prompt: guidance is nothing, whatever its strength."""
    results = []
    for ratio in (0.0, 0.9):
        transformer = dropout_transformer(teacher=False)
        options = {"twinflow_enhanced_ratio": ratio, "twinflow_split_passes": split} | NO_EMA
        _, condition = loss_of(options | {"twinflow_enhanced_ratio": 0.0}, transformer, 8)
        results.append(loss_of(options, transformer, 8, condition)[0])
    assert torch.equal(results[0].per_sample, results[1].per_sample)


@pytest.mark.parametrize("options", [{}, NO_EMA], ids=["ema", "student"])
def test_all_passes_but_that_for_fakes_start_from_one_state(options):
    transformer = dropout_transformer(teacher=not options)
    with recorded_states(transformer) as states:
        loss_of(options, transformer, 8, tiny.sd3_condition(1, seed=9))
    index = [has_grad for has_grad, _ in states].index(True)
    (_, fakes), (_, student), rest = states[index - 1], states[index], states[: index - 1] + states[index + 1 :]
    assert not torch.equal(fakes, student) and len(rest) >= 4
    assert all(torch.equal(state, student) for _, state in rest)


def test_the_teacher_is_without_dropout():
    with_dropout, without = dropout_transformer(0.5), dropout_transformer(0.0)
    outputs, states = [], []
    for transformer in (with_dropout, without):
        teacher = TwinFlow(TwinFlowConfig(**FULL)).build_teacher(transformer, FAMILY.velocity)
        torch.manual_seed(0)
        with torch.no_grad(), teacher.activated() as velocity:
            t = torch.tensor([0.7, 0.9])
            outputs.append(velocity(torch.ones(2, 4, 8, 8), t, t, torch.ones(2), tiny.sd3_condition(2)))
        states.append(torch.get_rng_state())
    assert torch.equal(*outputs) and torch.equal(*states)
    dropouts = [module for module in with_dropout.modules() if isinstance(module, torch.nn.Dropout) and module.p]
    assert dropouts and all(module.training for module in dropouts)  # the student has its own again


def noisy(x, t, r, sign, condition):
    return x + torch.nn.functional.dropout(torch.ones_like(x)) * sign[:, None].abs()


def test_a_pair_is_the_same_whether_or_not_its_masks_were_seen_before():
    """A resumed run has seen none."""
    pair, ones = PairedPasses(split=False), torch.ones(6)
    arguments = (torch.zeros(6, 100), ones, (ones, -ones), ({}, {}), RNGSnapshot("cpu"))
    outer = torch.get_rng_state()
    first, again = pair(noisy, *arguments), pair(noisy, *arguments)
    for one, other in zip(first, again):
        assert torch.equal(one, other) and torch.equal(one, first[0])
    assert torch.equal(torch.get_rng_state(), outer) and len(first[0].unique()) == 2
