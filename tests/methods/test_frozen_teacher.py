"""A frozen teacher compared with values computed by hand, in float64: the jumps, and the target without data."""

import math
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.flow import guided_velocity
from diffusers_twinflow.methods import Networks, TwinFlow

CONFIG = TwinFlowConfig(
    twinflow_enabled=True,
    twinflow_ema_decay=1.0,
    twinflow_estimate_order=0,
    twinflow_enhanced_ratio=4.0,
    twinflow_target_clamp=1e9,
    twinflow_loss="l2",
)
STUDENT, PROMPT, EMPTY = 0.7, 0.9, 0.4


class Constant:
    """Predicts one number for the prompt, and another for the empty prompt; notes the target times that it is asked for."""

    def __init__(self, prompt: float, empty: float):
        self.values, self.gaps = torch.tensor([empty, prompt], dtype=torch.float64), []

    def __call__(self, x, t, r, sign, condition):
        self.gaps += (t - r).tolist()
        return self.values[condition["is_prompt"]][:, None].expand_as(x)

    @contextmanager
    def activated(self):
        yield self


def run(config: TwinFlowConfig, batch: int = 6):
    """The loss of a batch, its draw in float64, the student and the teacher."""
    method, student, teacher = TwinFlow(config), Constant(STUDENT, STUDENT), Constant(PROMPT, EMPTY)
    draw = method.draw(range(batch), (1,), seed=5)
    tensors = {each.name: getattr(draw, each.name) for each in fields(draw)}
    floats = {n: v.double() for n, v in tensors.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    prompts = {"is_prompt": torch.ones(batch, dtype=torch.long)}
    networks = Networks(student, student, teacher, unconditional={"is_prompt": torch.zeros(1, dtype=torch.long)})
    data = torch.full((batch, 1), 0.2, dtype=torch.float64)
    draw = replace(draw, **floats)
    return method.loss(data, prompts, draw, networks), draw, student, teacher


@pytest.mark.parametrize("image_free", [False, True])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.3, 0.8)])
def test_the_target_without_data_is_the_teachers_guided_velocity(image_free, bounds):
    """Between the bounds: 0.4 + 4 (0.9 - 0.4) = 2.4. With images, and outside: noise - data + 4 (0.9 - 0.4) or 0."""
    low, high = bounds
    config = replace(CONFIG, twinflow_image_free=image_free, twinflow_enhanced_low=low, twinflow_enhanced_high=high)
    result, draw, _, _ = run(config, 12)
    expected, guided = [], 0
    for i in range(12):
        t, r, z = draw.t[i].item(), draw.r[i].item(), draw.noise[i].item()
        x = draw.fake_noise[i].item() - STUDENT if image_free else 0.2
        target = z - x
        if low < t < high:
            target = EMPTY + 4 * (PROMPT - EMPTY) if image_free else target + 4 * (PROMPT - EMPTY)
            guided += 1
        expected.append((STUDENT - target) ** 2 * (math.tan((1 - (t - r)) * math.pi / 2.5) + 1))
    assert 0 < guided < 12
    torch.testing.assert_close(result.per_sample, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_student_makes_the_jumps_of_a_frozen_teacher():
    """One sub-step from `t - delta` to `r` with the student's 0.7: `I = 0.7 (t - delta - r)`."""
    result, draw, student, teacher = run(replace(CONFIG, twinflow_estimate_order=1, twinflow_enhanced_ratio=0.0))
    for i, (t, r, z) in enumerate(zip(draw.t.tolist(), draw.r.tolist(), draw.noise[:, 0].tolist())):
        residual = STUDENT - (z - 0.2)  # (F (t - r) - I) / delta - v, with F = 0.7
        expected = residual**2 * (math.tan((1 - (t - r)) * math.pi / 2.5) + 1)
        assert result.per_sample[i].item() == pytest.approx(expected, rel=1e-9)
    assert max(student.gaps) > 0.5 and teacher.gaps == []


@pytest.mark.parametrize(("decay", "walker"), [(0.99, "teacher"), (1.0, "student")])
def test_who_makes_the_jumps(decay, walker):
    config = replace(CONFIG, twinflow_estimate_order=2, twinflow_ema_decay=decay)
    _, draw, student, teacher = run(config, 8)
    assert student.gaps[-8:] == (draw.t - draw.r).tolist() or walker == "student"
    calls = {"student": len(student.gaps) - 8, "teacher": len(teacher.gaps) - 2 * len(draw.enhanced)}
    other = {"student": "teacher", "teacher": "student"}[walker]
    assert calls[walker] == 2 * len(draw.walked) > 0 and calls[other] == 0


def test_guidance_of_a_network_itself():
    values = [torch.tensor([value], dtype=torch.float64) for value in (0.9, 0.4)]
    for ratio, expected in ((0.0, 0.4), (1.0, 0.9), (4.0, 2.4)):
        assert guided_velocity(*values, ratio).item() == pytest.approx(expected, rel=1e-12)
