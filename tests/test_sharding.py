import pytest
import torch
from torch import nn

from diffusers_twinflow.sharding import only_trained_state


def test_only_trained_state_leaves_frozen_weights_out_and_still_checks_the_trained():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    model.requires_grad_(False)[2].requires_grad_(True)
    with only_trained_state(model):
        state = model.state_dict()
        assert state.keys() == {"2.weight", "2.bias"}
        model.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in state.items()})
        with pytest.raises(RuntimeError, match=r'Missing key.*"2\.bias"'):
            model.load_state_dict({"2.weight": torch.zeros(1, 2)})
    assert not model[2].weight.any() and model[0].weight.any()
    assert "0.weight" in model.state_dict()
    with pytest.raises(RuntimeError, match='Missing key.*"0.weight"'):
        model.load_state_dict(state)
