"""The default sigmas of stock pipelines are recognized, compared with the pipelines' functions and arguments."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.bria.pipeline_bria import get_original_sigmas
from diffusers.pipelines.ideogram4.pipeline_ideogram4 import _logit_normal_sigmas
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3 import logsnr_sigma_schedule

from diffusers_twinflow.schedulers import TwinFlowScheduler
from diffusers_twinflow.schedulers.stock_sigmas import is_linear, is_stock

LISTS = {
    "Flux": lambda n: np.linspace(1.0, 1 / n, n),
    "Helios": lambda n: np.linspace(0.999, 0.0, n + 1)[:-1],
    "CogView4": lambda n: np.linspace(1000, 1.0, n).astype(np.int64) / 1000,
    "GLM-Image": lambda n: np.linspace(1000, 1.0, n + 1)[:-1].astype(np.int64) / 1000,
    "Bria": lambda n: get_original_sigmas(1000, n),
    "Stable Audio 3": lambda n: logsnr_sigma_schedule(n, -6.2, 2.0),
    "ACE-Step": lambda n: (3 * (t := torch.linspace(1, 0, n + 1)) / (1 + 2 * t))[:-1],
    "LTXCondition": lambda n: linear_quadratic_schedule(n) if n > 1 else [1.0],
    "Ideogram": lambda n: _logit_normal_sigmas(n, mu=0.7, std=1.5),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_pipelines_are_known(name):
    for count in (1, 2, 3, 4, 7, 30, 50):
        sigmas = np.asarray(LISTS[name](count), dtype=np.float64)
        assert is_stock(sigmas, 1000), count
        assert is_linear(sigmas) == np.allclose(sigmas, LISTS["Flux"](count), atol=1e-6)


@pytest.mark.parametrize("sigmas", [[0.9, 0.25], [1.0, 0.4], [0.999, 0.6], [1.0, 0.9, 0.7, 0.3]])
def test_a_users_own_list_is_told_apart(sigmas):
    assert not is_stock(np.array(sigmas), 1000)


def test_only_a_users_list_is_warned_about_and_once(caplog):
    scheduler = TwinFlowScheduler()
    for own in LISTS.values():
        scheduler.set_timesteps(sigmas=own(4))
    assert not caplog.records
    for sigmas in ([0.9, 0.25], [0.8, 0.25]):
        scheduler.set_timesteps(sigmas=sigmas)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "use_custom_sigmas=True" in caplog.text
    TwinFlowScheduler(use_custom_sigmas=True).set_timesteps(sigmas=[0.9, 0.25])
    assert len(caplog.records) == 1
