"""Each kind of teacher, for a LoRA and for all weights, and the setting that chooses it."""

import copy

import pytest
import torch
from peft import LoraConfig

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.methods import FlowMatching, TwinFlow
from diffusers_twinflow.methods.teachers import EMAWeights
from tests import tiny
from tests.objective_runs import FAMILY, lora_transformer, student_transformer

ON = {"twinflow_enabled": True}


def velocity_of(transformer):
    return FAMILY.velocity(transformer)


def output(velocity):
    t = torch.tensor([0.7, 0.9])
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return velocity(x, t, t / 2, torch.ones(2), tiny.sd3_condition(2))


def teacher_output(teacher):
    with teacher.activated() as velocity:
        return output(velocity)


def differ(first, second):
    return not torch.allclose(first, second, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def move_student(transformer):
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter += 0.1


def test_the_average_of_two_updates_by_hand():
    """The decay is 0, then 0.45 of a target of 0.9: 1 - 0.45 of the way from 1 to 3."""
    student, teacher = torch.tensor([1.0]), torch.tensor([0.0])
    ema = EMAWeights([student], [teacher], 0.9)
    ema.update()
    assert teacher.item() == 1.0 and ema.decay == pytest.approx(0.45)
    student.fill_(3.0)
    ema.update()
    assert teacher.item() == pytest.approx(1 + 0.55 * 2) and ema.decay == pytest.approx(0.45 + 0.55 * 0.45 / 2)


@pytest.mark.parametrize("make", [student_transformer, lora_transformer])
def test_each_kind_of_teacher(make):
    """The first update takes the student over; a frozen teacher stays at the start, and the student follows itself."""
    moved = {}
    for kind in ("ema", "frozen", "student"):
        transformer = make()
        teacher = TwinFlow(TwinFlowConfig(**ON), teacher=kind).build_teacher(transformer, velocity_of)
        start = teacher_output(teacher)
        move_student(transformer)
        after_move = teacher_output(teacher)
        teacher.update()
        student = output(velocity_of(transformer))
        moved[kind] = [differ(start, after_move), not differ(teacher_output(teacher), student)]
        assert torch.equal(output(velocity_of(transformer)), student)  # the student is back after the teacher
        assert teacher.is_average == (kind == "ema")
        assert teacher.decay == {"ema": pytest.approx(0.495), "frozen": 1.0, "student": None}[kind]
    assert moved == {"ema": [False, True], "frozen": [False, False], "student": [True, True]}


@pytest.mark.parametrize("make", [student_transformer, lora_transformer])
def test_a_saved_teacher_is_loaded_again(make):
    method = TwinFlow(TwinFlowConfig(**ON))
    first, second = (method.build_teacher(make(), velocity_of) for _ in range(2))
    with torch.no_grad():
        for tensor in first.ema.teacher:
            tensor += 0.1
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(teacher_output(first), teacher_output(second))


@pytest.mark.parametrize(
    ("teacher", "options", "kind"),
    [
        (None, {}, "ema"),
        (None, {"twinflow_ema_decay": 1.0}, "frozen"),
        (None, {"twinflow_ema_decay": 0.0, "twinflow_allow_no_ema_teacher": True}, "student"),
        ("frozen", {}, "frozen"),
        ("student", {}, "student"),
    ],
)
def test_one_setting_chooses_the_teacher(teacher, options, kind):
    method = TwinFlow(TwinFlowConfig(**ON, **options), teacher)
    assert method.teacher == kind and method.keeps_teacher == (kind != "student")
    again = TwinFlow(TwinFlowConfig.from_dict(method.options()), "student" if method.teacher == "student" else None)
    assert again.teacher == kind and again.config == method.config


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        ("ema", ON | {"twinflow_ema_decay": 1.0}, "averages nothing: choose a decay"),
        ("best", ON, "must be one of ema, frozen, student"),
        (None, {}, "use the method FlowMatching"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused(teacher, options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        TwinFlow(TwinFlowConfig(**options), teacher)


def test_what_is_kept_for_a_teacher():
    """A second adapter for a LoRA, a copy for whole weights, nothing for a student that teaches itself."""
    lora = LoraConfig(r=2, target_modules=FAMILY.lora_target_modules)
    for method, keeps in (
        (TwinFlow(TwinFlowConfig(**ON)), True),
        (TwinFlow(TwinFlowConfig(**ON), "student"), False),
        (FlowMatching(), False),
    ):
        whole = student_transformer()
        assert (method.copy_for_teacher(whole) is not None) == keeps
        whole.add_adapter(lora)
        method.add_teacher(whole, lora)
        assert any(".teacher." in name for name, _ in whole.named_parameters()) == keeps
        assert method.copy_for_teacher(whole) is None
    assert FlowMatching().build_teacher(student_transformer(), velocity_of) is None
