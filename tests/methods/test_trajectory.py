import numpy as np
import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfig
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.methods.twinflow.trajectory import COLUMNS, TITLE, trajectory_picture, trajectory_rows

CONFIG = TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, twinflow_few_step_share=1.0)


@pytest.fixture
def method():
    return TwinFlow(CONFIG)


def test_rows_are_what_training_drew(method):
    """The times of the latents' own draw, whatever the latents' shape and however positions are split."""
    positions = [3, 17, 4, 250, 8, 9]
    draw = method.draw(positions, (4, 8, 8), seed=5)
    rows = trajectory_rows(method, positions, seed=5)
    assert len(COLUMNS) == 4 and [row[3] for row in rows] == method.rotation.at(positions)
    assert torch.equal(torch.tensor([row[:3] for row in rows]), torch.stack([draw.t, draw.r, draw.sign], dim=1))
    assert trajectory_rows(method, positions[3:], seed=5) == rows[3:]
    assert trajectory_rows(method, positions, seed=6) != rows


def test_global_generators_are_not_touched(method):
    before = torch.get_rng_state()
    trajectory_picture(trajectory_rows(method, range(20), seed=0))
    assert torch.equal(before, torch.get_rng_state())


def test_the_picture_has_a_colour_a_branch(method):
    assert "experimental/theory unverified" in TITLE
    rows = trajectory_rows(method, range(200), seed=0)
    colours = [set(map(tuple, np.asarray(trajectory_picture(r)).reshape(-1, 3))) for r in (rows, [rows[0]])]
    tab10 = [(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189)]
    assert set(tab10) <= colours[0] and sum(colour in colours[1] for colour in tab10) == 1
