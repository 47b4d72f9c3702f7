import time

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.training.tracking import Throughput, check_trackers, peak_memory, tracker_names


@pytest.mark.parametrize(
    ("report_to", "names"),
    [
        (["none"], []),
        (["tensorboard"], ["tensorboard"]),
        (["tensorboard,comet"], ["tensorboard", "comet_ml"]),
        (["wandb", "tensorboard", "wandb"], ["wandb", "tensorboard"]),
    ],
)
def test_names(report_to, names):
    assert tracker_names(report_to) == names


def test_all_are_those_that_are_installed():
    assert {"tensorboard", "wandb", "trackio", "comet_ml"} <= set(tracker_names(["all"]))


@pytest.mark.parametrize(("name", "message"), [("tensorbored", "Choose one of"), ("aim", "pip install aim")])
def test_unknown_and_missing_ones_are_refused(name, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        tracker_names(["tensorboard", name])


def test_a_token_stays_on_the_machine():
    check_trackers(["wandb"], None)
    check_trackers(["tensorboard"], "hf_secret")
    for name in ("wandb", "comet", "all"):
        with pytest.raises(TwinFlowConfigError, match="hub_token.*would log the token"):
            check_trackers([name], "hf_secret")


def test_throughput_counts_from_its_last_start():
    throughput = Throughput(torch.device("cpu"))
    throughput.samples += 1000
    throughput.start()
    throughput.samples += 10
    time.sleep(0.05)
    report = throughput.report()
    assert 0 < report["samples_per_second"] <= 10 / 0.05 and throughput.samples == 0
    assert 0.01 < report["memory_gib"] < 1000 and peak_memory(torch.device("cpu")) > 2**20
