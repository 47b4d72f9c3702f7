from argparse import Namespace

import pytest
import torch
from torch import nn

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.training import optimizer as optimizers
from diffusers_twinflow.training.optimizer import build_optimizer, check_optimizer, learning_rates

ARGUMENTS = {
    "optimizer": "adamw",
    "use_8bit_adam": False,
    "learning_rate": 2.0,
    "time_conditioning_learning_rate": None,
    "scale_lr": False,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_weight_decay": 0.1,
    "adam_epsilon": 1e-3,
    "prodigy_beta3": None,
    "prodigy_decouple": True,
    "prodigy_use_bias_correction": True,
    "prodigy_safeguard_warmup": True,
}


def arguments(**changes):
    return Namespace(**{**ARGUMENTS, **changes})


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_conditioning = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.blocks = nn.Linear(2, 3)


@pytest.mark.parametrize("changes", [{}, {"use_8bit_adam": True}, {"optimizer": "prodigy"}])
def test_what_trains_is_in_two_groups(changes):
    model = Model()
    optimizer = build_optimizer(arguments(**changes), model, 12)
    weights, conditioning = (group["params"] for group in optimizer.param_groups)
    assert [id(p) for p in weights] == [id(p) for p in model.blocks.parameters()]
    assert [id(p) for p in conditioning] == [id(p) for p in model.time_conditioning.parameters()]
    for group in optimizer.param_groups:
        assert group["betas"] == (0.8, 0.9) and group["weight_decay"] == 0.1 and group["eps"] == 1e-3


def test_rates_scale_with_the_samples_of_a_step():
    optimizer = build_optimizer(arguments(scale_lr=True, time_conditioning_learning_rate=3.0), Model(), 12)
    assert learning_rates(optimizer) == {"lr": 24.0, "lr/time_conditioning": 36.0}
    model = Model()
    model.time_conditioning.requires_grad_(False)
    assert learning_rates(build_optimizer(arguments(), model, 12)) == {"lr": 2.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "prodigy", "learning_rate": 1e-4}, "learning_rate=0.0001.*learning_rate=1"),
        ({"optimizer": "prodigy", "time_conditioning_learning_rate": 1.0}, "time_conditioning_learning_rate"),
        ({"optimizer": "prodigy", "use_8bit_adam": True}, "use_8bit_adam"),
    ],
)
def test_contradictions(changes, message):
    check_optimizer(arguments())
    with pytest.raises(TwinFlowConfigError, match=message):
        check_optimizer(arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "package"), [({"optimizer": "prodigy"}, "prodigyopt"), ({"use_8bit_adam": True}, "bitsandbytes")]
)
def test_a_package_that_is_not_installed(changes, package, monkeypatch):
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TwinFlowConfigError, match=f"pip install {package}"):
        check_optimizer(arguments(**changes))


def test_only_fused_adamw_skips_on_the_device():
    assert build_optimizer(arguments(), Model(), 1)._step_supports_amp_scaling
    assert not hasattr(build_optimizer(arguments(optimizer="prodigy"), Model(), 1), "_step_supports_amp_scaling")
    assert isinstance(build_optimizer(arguments(), Model(), 1), torch.optim.AdamW)
