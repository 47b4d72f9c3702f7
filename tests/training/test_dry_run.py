from types import SimpleNamespace

import pytest

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.methods import TwinFlow
from diffusers_twinflow.training.dry_run import DryRun, format_report, positions_of


@pytest.fixture
def method():
    shares = {"twinflow_any_step_share": 2.0, "twinflow_multi_step_share": 0.0}
    return TwinFlow(TwinFlowConfig(twinflow_enabled=True, twinflow_adversarial_enabled=True, **shares))


@pytest.mark.parametrize("branch", ["one_step", "any_step", "adversarial"])
def test_positions_are_the_first_of_the_branch(method, branch):
    found = positions_of(method.branch_cycle, branch, 5)
    assert method.rotation.at(found) == [branch] * 5
    assert found == [position for position in range(found[-1] + 1) if method.rotation.at([position]) == [branch]]


def test_a_step_of_each_kind_is_all_that_branchs(method):
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device=None), method=method)
    batches = [
        {"position": [0, 1, 2], "caption": ["a", "b", "c"]},
        {"position": [3, 4, 5], "caption": ["d", "e", "f"]},
    ]
    kinds = dict(DryRun(trainer)._kinds(batches))
    assert list(kinds) == ["one_step", "any_step", "adversarial"]
    for name, chosen in kinds.items():
        assert [batch["caption"] for batch in chosen] == [["a", "b", "c"], ["d", "e", "f"]]
        for batch in chosen:
            assert method.rotation.at(batch["position"]) == [name] * 3


def test_the_report_in_words():
    cost = {"seconds": 1.5, "memory_gib": 2.0}
    report = {
        "device": "cuda:0",
        "processes": 2,
        "parameters": 2000,
        "parameters_trained": 1000,
        "samples_per_step": 8,
        "steps": 100,
        "step_of_each_kind": {"mixed": cost},
        "image": cost,
        "hours": 0.25,
    }
    text = format_report(report)
    assert (
        text.startswith("dry run on 2 processes (cuda:0): 1,000 of 2,000 parameters")
        and text.count("1.500 s     2.00 GiB") == 2
    )
    assert "100 steps take about 0.25 hours" in text
