"""The weight of rectification, compared with values computed by hand in float64, and its mean over any split of a batch."""

import json
import math
from dataclasses import fields, replace

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.hub import TwinFlowRepositoryConfig
from diffusers_twinflow.hub.files import CONFIG_NAME
from diffusers_twinflow.methods import Networks, TwinFlow

CONFIG = TwinFlowConfig(
    twinflow_enabled=True,
    twinflow_adversarial_enabled=True,
    twinflow_estimate_order=0,
    twinflow_enhanced_ratio=0.0,
    twinflow_target_clamp=1e9,
    twinflow_loss="l2",
)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Constants(torch.nn.Module):
    """Predicts `real` on the real trajectory and `real + twin` on the twin's, everywhere."""

    def __init__(self):
        super().__init__()
        self.real = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.twin = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x, t, r, sign, condition):
        return torch.where(sign < 0, self.real + self.twin, self.real)[:, None].expand_as(x)


def draw_of(method: TwinFlow, positions):
    """The draw of samples of one element, in float64."""
    draw = method.draw(positions, (1,), seed=5)
    tensors = {each.name: getattr(draw, each.name) for each in fields(draw)}
    floats = {n: v.double() for n, v in tensors.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    return replace(draw, **floats)


def data(positions) -> torch.Tensor:
    return torch.tensor([[0.1 * position - 0.4] for position in positions], dtype=torch.float64)


def loss_of(method: TwinFlow, network: Constants, positions) -> torch.Tensor:
    networks = Networks(network, network)
    return method.loss(data(positions), {}, draw_of(method, positions), networks).loss


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_a_batch_of_one_sample_per_branch_by_hand(weight):
    """Rectification adds `weight * twin**2 / 4`: one of four samples, and its difference of velocities is `twin`."""
    method, network = TwinFlow(replace(CONFIG, twinflow_rectify_weight=weight)), Constants()
    loss = loss_of(method, network, range(4))
    loss.backward()
    draw, x = draw_of(method, range(4)), data(range(4))
    real, twin, expected, real_grad, twin_grad = 0.7, 0.3, 0.0, 0.0, 0.0
    for i, branch in enumerate(method.branch_names[index] for index in draw.branch_indices.tolist()):
        z, t, r = draw.noise[i].item(), draw.t[i].item(), draw.r[i].item()
        if branch == "adversarial":
            fake = draw.fake_noise[0].item() - real
            error, factor = real + twin - (z - fake), 1.0
            twin_grad += 2 * error
        else:
            error, factor = real - (z - x[i].item()), math.tan((1 - (t - r)) * math.pi / 2.5) + 1
        expected += factor * error**2
        real_grad += factor * 2 * error
        if branch == "one_step":
            assert factor == 1.0
            expected += weight * twin**2
            real_grad += weight * 2 * twin
    found = torch.stack([loss.detach(), network.real.grad, network.twin.grad])
    by_hand = torch.tensor([expected, real_grad, twin_grad], dtype=torch.float64) / 4
    torch.testing.assert_close(found, by_hand, **EXACT)


@pytest.mark.parametrize(("share", "part"), [(1.0, 0.25), (2.0, 0.4)])
def test_the_authors_weight_divided_by_the_share_is_ours(share, part):
    """They average over the one-step samples: their 0.5 adds `0.5 * twin**2` whatever the share."""
    config = replace(CONFIG, twinflow_one_step_share=share)
    network, batch = Constants(), range(20)
    losses = [
        loss_of(TwinFlow(replace(config, twinflow_rectify_weight=weight)), network, batch).item()
        for weight in (0.0, 0.5 / part)
    ]
    assert losses[1] - losses[0] == pytest.approx(0.5 * 0.3**2, rel=1e-12)


@pytest.mark.parametrize("loss", ["l2", "barron"])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 6])
def test_micro_batches_and_processes_add_up_exactly(loss, micro_batch):
    """The mean of losses and gradients over micro-batches, some of them without a one-step sample, is the batch's."""
    config = replace(CONFIG, twinflow_loss=loss, twinflow_one_step_share=0.6, twinflow_multi_step_share=1.7)
    method, batch = TwinFlow(config), range(3, 15)
    whole, parts = Constants(), Constants()
    expected = loss_of(method, whole, batch)
    expected.backward()
    starts = range(batch.start, batch.stop, micro_batch)
    losses = [loss_of(method, parts, range(start, start + micro_batch)) / len(starts) for start in starts]
    for each in losses:
        each.backward()
    torch.testing.assert_close(torch.stack(losses).sum(), expected, **EXACT)
    for found, wanted in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, **EXACT)


def saved_config(directory, options: dict, **values) -> TwinFlowRepositoryConfig:
    """A `twinflow_config.json` written and read again; a value of `None` leaves its key out."""
    written = json.loads(TwinFlowRepositoryConfig("lora", "flux", "me/base", options=options).to_json()) | values
    written = {name: value for name, value in written.items() if value is not None}
    (directory / CONFIG_NAME).write_text(json.dumps(written))
    return TwinFlowRepositoryConfig.load(directory)


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({"twinflow_rectify_weight": 0.25}, 1.0),
        ({"twinflow_rectify_weight": 0.5, "twinflow_one_step_share": 2.0}, 1.25),
        ({"twinflow_rectify_weight": 0.5, "twinflow_one_step_share": 0.0}, 0.5),
        ({"twinflow_rectify_weight": 0.5, "twinflow_adversarial_enabled": False}, 0.5),
        ({}, 4.0),
    ],
)
def test_options_of_an_earlier_format_train_as_they_did(tmp_path, options, weight):
    options = {"twinflow_enabled": True, "twinflow_adversarial_enabled": True} | options
    old = saved_config(tmp_path, options, format_version=None)
    assert old.options == options and old.format_version == 1
    assert old.twinflow.twinflow_rectify_weight == weight
    old.save(tmp_path)
    assert TwinFlowRepositoryConfig.load(tmp_path) == old


def test_options_of_the_present_format_are_as_they_are(tmp_path):
    options = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True).to_dict()
    assert saved_config(tmp_path, options).twinflow.to_dict() == options


@pytest.mark.parametrize("version", [0, "2", 1.5, True])
def test_a_format_that_is_no_number_is_refused(tmp_path, version):
    with pytest.raises(TwinFlowConfigError, match="format_version"):
        saved_config(tmp_path, {}, format_version=version)
