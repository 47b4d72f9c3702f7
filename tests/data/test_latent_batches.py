"""Latents and conditions that are already encoded, as batches of a run."""

from itertools import islice, repeat

import pytest
import torch

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.training.arguments import TrainingArguments
from diffusers_twinflow.training.schedule import Schedule

BATCH = {"latents": torch.zeros(2, 1), "condition": {"prompt_embeds": torch.zeros(2, 3)}}


def plan(data: LatentBatches, **options) -> Schedule:
    return Schedule.plan(TrainingArguments(train_batch_size=2, **options), 1, 0, data.epoch_size)


def test_an_endless_iterable_has_steps_and_no_epochs():
    data = LatentBatches(repeat(BATCH), seed=0, batch_size=2)
    assert plan(data, max_train_steps=3).total_steps == 3
    found = data.loader(first_position=0, last_position=6, step_samples=2)
    assert [batch["position"] for batch in found] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "name, instead", [("num_train_epochs", "max_train_steps"), ("validation_epochs", "validation_steps")]
)
def test_epochs_of_an_iterable_are_refused(name, instead):
    with pytest.raises(TwinFlowConfigError, match=f"{name}=2 needs data of known size: set `{instead}`"):
        plan(LatentBatches(repeat(BATCH), seed=0, batch_size=2), **{name: 2})


def test_a_sequence_has_epochs_and_each_has_every_sample_once():
    samples = [{"latents": torch.tensor([float(i)]), "condition": {"prompt_embeds": torch.zeros(3)}} for i in range(4)]
    data = LatentBatches(samples, seed=0, batch_size=2)
    assert plan(data, num_train_epochs=2).total_steps == 4
    batches = islice(data.loader(first_position=0, last_position=8, step_samples=2), 4)
    seen = [sorted(batch["latents"].flatten().tolist()) for batch in batches]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == [0.0, 1.0, 2.0, 3.0]
