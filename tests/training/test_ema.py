import copy

import pytest
import torch

from diffusers_twinflow.training.ema import EMAOfTrained

CPU = torch.device("cpu")


@pytest.fixture
def model():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1))
    model[1].requires_grad_(False)
    torch.nn.init.zeros_(model[0].weight)
    return model


def set_weight(model, value):
    torch.nn.init.constant_(model[0].weight, value)


def test_the_average_of_three_steps(model):
    """Decays of diffusers' warm-up, (1 + s) / (10 + s): 0 at the first update, then 2/11 and 3/12."""
    average = EMAOfTrained(model, 0.9999, CPU)
    for value in (1.0, 2.0, 3.0):
        set_weight(model, value)
        average.update()
    second = 2 / 11 * 1 + 9 / 11 * 2
    third = 3 / 12 * second + 9 / 12 * 3
    with average.activated():
        assert model[0].weight.item() == pytest.approx(third, rel=1e-6)
    assert model[0].weight.item() == 3.0 and average.decay == 3 / 12


def test_only_what_trains_is_averaged(model):
    assert [tuple(p.shape) for p in EMAOfTrained(model, 0.9, CPU).average.shadow_params] == [(1, 1)]


def test_the_weights_come_back_after_an_error(model):
    average = EMAOfTrained(model, 0.9, CPU)
    set_weight(model, 5.0)
    with pytest.raises(KeyError), average.activated():
        assert model[0].weight.item() == 0.0
        raise KeyError
    assert model[0].weight.item() == 5.0


def test_a_checkpoint_goes_on_with_the_same_average(model):
    first = EMAOfTrained(model, 0.9, CPU)
    set_weight(model, 1.0)
    first.update()
    second = EMAOfTrained(model, 0.9, CPU)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for average in (first, second):
        set_weight(model, 4.0)
        average.update()
    assert torch.equal(first.average.shadow_params[0], second.average.shadow_params[0])
