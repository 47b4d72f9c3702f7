"""Loss and gradients equal those of the TwinFlow authors' code, on a tiny network in float64.

Set TWINFLOW_AUTHORS_DIR to a checkout of their repository (github.com/inclusionAI/TwinFlow) to run these tests.
"""

import importlib
import os
import sys
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import Networks, TwinFlow
from diffusers_twinflow.methods.twinflow.draw import Passes, TrainingDraw

CHECKOUT = os.environ.get("TWINFLOW_AUTHORS_DIR")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="needs TWINFLOW_AUTHORS_DIR, a checkout of the authors' code")
BATCH, WIDTH = 8, 6
BRANCHES = ("one_step", "multi_step", "any_step", "adversarial")
"""Their masks e2e, mul, any and adv, in the order of the batch."""
THEIRS = {"consistc_ratio": 1.0, "enhanced_range": [0.0, 1.0], "estimate_order": 2, "dist_match_cof": 0.75}
CASES = {
    "data-free": {"ema_decay_rate": 1.0, "enhanced_ratio": 4.0, "use_image_free": True},
    "data-free between bounds": {
        "ema_decay_rate": 1.0, "enhanced_ratio": 4.0, "use_image_free": True, "enhanced_range": [0.3, 0.8]
    },
    "data-free without guidance": {"ema_decay_rate": 1.0, "enhanced_ratio": 0.0, "use_image_free": True},
    "frozen teacher with images": {"ema_decay_rate": 1.0, "enhanced_ratio": 1.5},
    "frozen teacher, order 1": {"ema_decay_rate": 1.0, "enhanced_ratio": 0.8, "estimate_order": 1},
    "moving teacher": {"ema_decay_rate": 0.99, "enhanced_ratio": 0.8},
    "moving teacher, image-free": {"ema_decay_rate": 0.99, "enhanced_ratio": 0.8, "use_image_free": True},
}  # fmt: skip


class Field(nn.Module):
    """A smooth velocity of point, time, target time, sign and condition."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(2 * WIDTH + 3, 16), nn.Tanh(), nn.Linear(16, WIDTH)).double()

    def forward(self, x, t, r, sign, condition):
        times = torch.stack([t, r, sign], dim=1)
        return self.layers(torch.cat([x, times, condition["c"]], dim=1))


class TheirModel(nn.Module):
    """A field called as their models are: a twin's times are negative."""

    def __init__(self, field: Field):
        super().__init__()
        self.field = field

    def forward(self, x, t, tt, c):
        sign = torch.where(t < 0, -1.0, 1.0).double()
        return self.field(x, t.abs(), tt.abs(), sign, {"c": c[0]})


class TheirPair(TheirModel):
    """Their wrapper: the student, which is called, and the averaged or frozen one."""

    def __init__(self, student: Field, teacher: Field):
        super().__init__(student)
        self.transformer, self.ema_transformer = TheirModel(student), TheirModel(teacher)


class FieldTeacher:
    def __init__(self, field: Field):
        self.field = field

    @contextmanager
    def activated(self):
        yield self.field


@pytest.fixture
def their_class(monkeypatch):
    """Their class, with the random state of the CPU for that of CUDA."""
    monkeypatch.setattr(sys, "path", [str(Path(CHECKOUT) / "src"), *sys.path])
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
    yield importlib.import_module("methodes").METHODES["TwinFlow"]
    for name in [name for name in sys.modules if name.split(".")[0] in ("methodes", "services")]:
        del sys.modules[name]


@contextmanager
def recorded(monkeypatch, method):
    """The noise of a step in the order it is drawn, its times, and the time of the rectification."""
    found = {"noise": [], "beta": []}
    randn_like, prepare, beta = torch.randn_like, method.prepare_inputs, method.sample_beta

    def noise(x):
        found["noise"].append(randn_like(x))
        return found["noise"][-1]

    def times(*arguments):
        found["beta"].append(beta(*arguments))
        return found["beta"][-1]

    def prepared(*arguments):
        result = prepare(*arguments)
        found["t"], found["r"] = result[1].flatten().abs(), result[2].flatten().abs()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn_like", noise)
        patch.setattr(method, "prepare_inputs", prepared)
        patch.setattr(method, "sample_beta", times)
        yield found


def same_draw(method: TwinFlow, found: dict) -> TrainingDraw:
    """The draw of ours that has their random numbers."""
    *all_fakes, twin_fakes, noise, rectify_noise = found["noise"]
    size = BATCH // len(BRANCHES)
    places = {name: torch.arange(i * size, (i + 1) * size) for i, name in enumerate(BRANCHES)}
    twin, one_step = places["adversarial"], places["one_step"]
    t, r, real = found["t"], found["r"], torch.arange(BATCH - size)
    image_free, config = bool(all_fakes), method.config
    enhanced = real[(t[real] > config.twinflow_enhanced_low) & (t[real] < config.twinflow_enhanced_high)]
    enhanced = enhanced if config.twinflow_enhanced_ratio else enhanced[:0]
    walked = real[t[real] - r[real] >= 0.01]
    sign = torch.ones(BATCH, dtype=torch.float64).index_fill(0, twin, -1.0)
    return TrainingDraw(
        branch_indices=torch.tensor([method.branch_names.index(BRANCHES[i // size]) for i in range(BATCH)]),
        samples_of=[places.get(name, real[:0]) for name in method.branch_names],
        t=t,
        r=r,
        sign=sign,
        noise=noise,
        faked=torch.arange(BATCH) if image_free else twin,
        enhanced=enhanced,
        walked=walked,
        rectified=one_step,
        fake_noise=all_fakes[0].index_copy(0, twin, twin_fakes) if image_free else twin_fakes,
        rectify_noise=rectify_noise,
        rectify_t=found["beta"][1].flatten(),
        passes=Passes(True, len(enhanced) > 0, True, True),
    )


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradients_are_those_of_the_authors_code(monkeypatch, their_class, options, seed):
    options = THEIRS | options
    student, base = Field(1), Field(2)
    theirs, ours = deepcopy(student), deepcopy(student)
    is_frozen = options["ema_decay_rate"] == 1.0
    torch.manual_seed(seed)
    x, c, empty = (torch.randn(BATCH, WIDTH, dtype=torch.float64) for _ in range(3))
    reference = their_class(**options)
    with recorded(monkeypatch, reference) as found:
        loss = reference.training_step(TheirPair(theirs, deepcopy(base)), x.clone(), [c], [empty], 0, None)
    loss.backward()

    config = TwinFlowConfig(
        twinflow_enabled=True,
        twinflow_adversarial_enabled=True,
        twinflow_ema_decay=options["ema_decay_rate"],
        twinflow_enhanced_ratio=options["enhanced_ratio"],
        twinflow_enhanced_low=options["enhanced_range"][0],
        twinflow_enhanced_high=options["enhanced_range"][1],
        twinflow_estimate_order=options["estimate_order"],
        twinflow_image_free=options.get("use_image_free", False),
        twinflow_rectify_weight=options["dist_match_cof"] / 0.25,
    )
    method = TwinFlow(config)
    teacher = FieldTeacher(base if is_frozen else deepcopy(ours).requires_grad_(False))  # an average begins there
    networks = Networks(ours, ours, teacher, unconditional={"c": empty})
    result = method.loss(x, {"c": c}, same_draw(method, found), networks)
    result.loss.backward()
    close = {"rtol": 1e-6, "atol": 1e-6}  # they cast the difference of the rectification to float32
    torch.testing.assert_close(result.loss, loss, **close)
    for found_grad, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found_grad.grad, wanted.grad, **close)
