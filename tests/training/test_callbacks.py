"""Which callbacks a run has, and in which order they are called."""

import pytest

from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.callbacks import (
    EMACallback,
    HealthCallback,
    ProgressCallback,
    ScoreCallback,
    TimeLimitCallback,
    TrajectoryCallback,
    default_callbacks,
)


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({}, [EMACallback]),
        ({"use_ema": False}, []),
        ({"use_ema": False, "score_steps": 2, "judge": "json:loads"}, [ScoreCallback]),
        (
            {"use_ema": False, "log_trajectory": True, "max_train_minutes": 1.0},
            [TrajectoryCallback, TimeLimitCallback],
        ),
    ],
    ids=["defaults", "no average", "scores", "trajectory and time limit"],
)
def test_progress_comes_last_so_that_other_work_after_a_step_is_not_timed(options, added):
    kinds = [type(callback) for callback in default_callbacks(TrainingArguments(**options))]
    assert kinds[-1] is ProgressCallback and kinds.count(ProgressCallback) == 1
    optional = {EMACallback, ScoreCallback, TrajectoryCallback, TimeLimitCallback}
    assert optional & set(kinds) == set(added)


def test_a_dry_run_shows_no_progress_and_writes_nothing():
    kinds = [type(callback) for callback in default_callbacks(TrainingArguments(dry_run=True, use_ema=False))]
    assert kinds == [HealthCallback]
