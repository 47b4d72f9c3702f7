import pytest
import torch
from torch import nn

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.training import optimizer as optimizers
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.optimizer import build_optimizer, check_optimizer, learning_rates, parameter_groups

ARGUMENTS = {
    "learning_rate": 2.0,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_weight_decay": 0.1,
    "adam_epsilon": 1e-3,
}


def arguments(**changes):
    return TrainingArguments(**{**ARGUMENTS, **changes})


def optimizer_of(args, model, conditioning_rate=None):
    return build_optimizer(args, parameter_groups(model, args.learning_rate, conditioning_rate), args.learning_rate)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_conditioning = nn.Linear(2, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.blocks = nn.Linear(2, 3)


@pytest.mark.parametrize("changes", [{}, {"use_8bit_adam": True}, {"optimizer": "prodigy"}])
def test_what_trains_is_in_two_groups(changes):
    model = Model()
    optimizer = optimizer_of(arguments(**changes), model)
    weights, conditioning = (group["params"] for group in optimizer.param_groups)
    assert [id(p) for p in weights] == [id(p) for p in model.blocks.parameters()]
    assert [id(p) for p in conditioning] == [id(p) for p in model.time_conditioning.parameters()]
    for group in optimizer.param_groups:
        assert group["betas"] == (0.8, 0.9) and group["weight_decay"] == 0.1 and group["eps"] == 1e-3


def test_the_time_conditioning_has_a_rate_of_its_own():
    assert learning_rates(optimizer_of(arguments(), Model(), 3.0)) == {"lr": 2.0, "lr/time_conditioning": 3.0}
    model = Model()
    model.time_conditioning.requires_grad_(False)
    assert learning_rates(optimizer_of(arguments(), model)) == {"lr": 2.0}


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
    assert optimizer_of(arguments(), Model())._step_supports_amp_scaling
    assert not hasattr(optimizer_of(arguments(optimizer="prodigy"), Model()), "_step_supports_amp_scaling")
    assert isinstance(optimizer_of(arguments(), Model()), torch.optim.AdamW)
