"""Which callbacks a run has, and in which order they are called."""

import re

import pytest
import torch

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.callbacks import (
    EMACallback,
    HealthCallback,
    ProgressCallback,
    ScoreCallback,
    TimeLimitCallback,
    TrainerCallback,
    TrajectoryCallback,
    default_callbacks,
)
from diffusers_twinflow.training.compilation import compiled_graphs
from diffusers_twinflow.training.trainer import Trainer
from tests.tiny import sd3_condition, sd3_transformer


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


def test_a_method_that_is_no_event_is_refused():
    with pytest.raises(
        TypeError, match="Recorder.on_step_end is not an event of TrainerCallback. Events: .*on_step, "
    ):
        type("Recorder", (TrainerCallback,), {"on_step_end": lambda self, trainer, step: None})


def test_a_dry_run_shows_no_progress_and_writes_nothing():
    kinds = [type(callback) for callback in default_callbacks(TrainingArguments(dry_run=True, use_ema=False))]
    assert kinds == [HealthCallback]


def trainer(tmp_path, method=None, callbacks=(), steps=1, **options) -> Trainer:
    """A trainer of a transformer in memory, on latents and conditions in memory."""
    transformer = sd3_transformer()
    condition = {name: tensor[0] for name, tensor in sd3_condition(1).items()}
    data = LatentBatches([{"latents": torch.zeros(4, 8, 8), "condition": condition}] * 2, seed=0, batch_size=1)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"), train_batch_size=1, max_train_steps=steps, use_ema=False, **options
    )
    return Trainer(transformer, arguments, method, data, callbacks=list(callbacks), family="stable_diffusion_3")


def test_a_run_without_a_name_for_its_base_does_not_start(tmp_path):
    with pytest.raises(TwinFlowConfigError, match="`pretrained_model_name_or_path` is missing"):
        trainer(tmp_path).train()
    assert not list(tmp_path.glob("out/*.safetensors"))


def test_scores_need_the_data_that_the_arguments_name(tmp_path):
    options = {"pretrained_model_name_or_path": "me/base", "score_steps": 1, "judge": "json:loads"}
    with pytest.raises(TwinFlowConfigError, match="`score_steps` needs the prompts and images of the data"):
        trainer(tmp_path, callbacks=[ScoreCallback()], **options).train()


def test_the_plot_of_times_needs_twinflow(tmp_path):
    options = {"pretrained_model_name_or_path": "me/base", "log_trajectory": True}
    with pytest.raises(TwinFlowConfigError, match="`log_trajectory` works only with TwinFlow"):
        trainer(tmp_path, callbacks=[TrajectoryCallback()], **options).train()


@pytest.mark.slow
def test_compilation_is_announced_and_timed(tmp_path, caplog):
    caplog.set_level("INFO")
    run = trainer(tmp_path, callbacks=[ProgressCallback()], compile=True)
    run.prepare()
    run._loop()
    said = [record.message for record in caplog.records if "step" in record.message and "compil" in record.message]
    assert len(said) == 2 and "in the first step" in said[0]
    assert re.search(r"step 1 took \d+ s, because it compiled [1-9]\d* graphs", said[1])


class CompilesAfterSteps(TrainerCallback):
    """Compiles something between the steps, as images for validation do."""

    def is_due(self, trainer, step):
        return True

    def on_due(self, trainer, step, is_resumed):
        torch.compile(lambda x: x + step, backend="eager")(torch.ones(2))


def test_work_between_steps_is_not_counted_as_compilation_of_the_next_step(tmp_path, caplog):
    caplog.set_level("INFO")
    before = compiled_graphs()
    run = trainer(tmp_path, callbacks=[CompilesAfterSteps(), ProgressCallback()], steps=2)
    run.prepare()
    run._loop()
    assert compiled_graphs() > before
    assert not [record.message for record in caplog.records if "it compiled" in record.message]
