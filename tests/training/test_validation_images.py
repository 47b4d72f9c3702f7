import pytest
import torch

from diffusers_twinflow.training.validation_images import aside_from_training


def test_evaluating_leaves_mode_and_generators():
    model = torch.nn.Sequential(torch.nn.Dropout(0.5)).train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(KeyError), aside_from_training(model, torch.device("cpu")):
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(7)
        raise KeyError
    assert model.training and model[0].training and torch.equal(torch.rand(2), expected)
