"""Errors in a user's loss or method are named before or in the first step."""

from dataclasses import replace

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig, TwinFlowConfigError
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.methods import FlowMatching, LossOutput, TwinFlow
from diffusers_twinflow.methods.base import Method
from diffusers_twinflow.methods.checks import ATTRIBUTES, FUNCTIONS, check_output
from diffusers_twinflow.training import Trainer, TrainingArguments
from tests.host_reads import no_host_reads
from tests.tiny import sd3_condition, sd3_transformer
from tests.training.encoded import BATCH, InOrder, samples


@pytest.fixture
def arguments(base_dir, tmp_path):
    output = str(tmp_path / "out")
    return TrainingArguments(str(base_dir), output_dir=output, train_batch_size=BATCH, max_train_steps=1, rank=2)


def changed(change):
    """Flow matching whose loss is changed by a function."""

    class Changed(FlowMatching):
        def loss(self, latents, condition, draw, networks):
            return change(super().loss(latents, condition, draw, networks))

    return Changed()


def no_gradient(output: LossOutput) -> LossOutput:
    return replace(output, loss=output.loss.detach())


WRONG = {
    "a tensor": (lambda output: output.loss, TypeError, r"Changed.loss returned a Tensor: return LossOutput\("),
    "nothing": (lambda output: None, TypeError, "returned a NoneType: return LossOutput"),
    "a loss without gradient": (no_gradient, TwinFlowConfigError, "no gradient.*networks.student"),
    "a loss per sample": (
        lambda output: replace(output, loss=output.loss.expand(4)),
        TwinFlowConfigError,
        r"`loss` of Changed.loss has the shape \(4,\).*mean",
    ),
    "a number as loss": (lambda output: replace(output, loss=1.0), TypeError, "`loss` of Changed.loss is a float"),
    "a mean per sample": (
        lambda output: replace(output, per_sample=output.per_sample.mean()),
        TwinFlowConfigError,
        r"`per_sample` .* has the shape \(\).*one number per sample.*\(4,\)",
    ),
    "losses with gradient": (
        lambda output: replace(output, per_sample=output.loss.expand(4)),
        TwinFlowConfigError,
        r"`per_sample` .* has a gradient.*detach\(\)",
    ),
    "an unknown part": (
        lambda output: replace(output, parts={"edges": output.per_sample}),
        TwinFlowConfigError,
        "the part 'edges'.*Add the name to Changed.part_names",
    ),
    "branches without names": (
        lambda output: replace(output, branches=torch.zeros(4, dtype=torch.long)),
        TwinFlowConfigError,
        "branch_names is empty",
    ),
}


@pytest.mark.parametrize("change, error, message", WRONG.values(), ids=WRONG)
def test_a_loss_that_is_wrong_is_named_in_the_first_step(arguments, change, error, message):
    with pytest.raises(error, match=message):
        Trainer(sd3_transformer(), arguments, changed(change), samples()).train()


def test_a_right_loss_is_checked_without_reading_a_value():
    per_sample = torch.rand(4, requires_grad=True)
    output = LossOutput(per_sample.mean(), per_sample.detach())
    with no_host_reads():
        assert check_output(output, FlowMatching(), 4) is output


def test_the_lists_of_what_a_method_needs_are_those_of_the_protocol():
    own = {*Method.__annotations__, *(name for name in vars(Method) if not name.startswith("_"))}
    assert own - {"parameters"} == {*ATTRIBUTES, *FUNCTIONS}


def test_a_method_that_is_not_complete_is_refused_before_anything_is_loaded(arguments):
    class Half:
        name, config, use_ema = "half", TwinFlowConfig(), False

        def loss(self, latents, condition, draw, networks):
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"Half lacks `branch_names`, .*`options\(\)`.*`draw\(\)`.*FlowMatching"):
        Trainer(None, arguments, Half())
    method = FlowMatching()
    method.config = {}
    with pytest.raises(TypeError, match=r"FlowMatching.config is a dict"):
        Trainer(None, arguments, method)


def renamed(rows, names):
    """Rows whose conditions have other names."""
    return [
        row | {"condition": {names.get(name, name): tensor for name, tensor in row["condition"].items()}}
        for row in rows
    ]


@pytest.mark.parametrize("method", [FlowMatching(), TwinFlow(TwinFlowConfig(True, twinflow_enhanced_ratio=0.0))])
@pytest.mark.parametrize("in_order", [False, True])
def test_a_condition_that_the_family_does_not_know_is_named(arguments, method, in_order):
    names = {"prompt_embeds": "encoder_hidden_states"}
    data = renamed(samples(), names)
    if in_order:
        data = InOrder()
        data.samples = renamed(data.samples, names)
    with pytest.raises(
        TwinFlowConfigError, match="'prompt_embeds', but the data has 'encoder_hidden_states', 'pooled"
    ):
        Trainer(sd3_transformer(), arguments, method, data).train()


def test_samples_that_do_not_fit_together_are_named(arguments):
    other = samples()
    other[3] = renamed(other, {"prompt_embeds": "embeds"})[3]
    with pytest.raises(TwinFlowConfigError, match="The condition of sample .* has .*Give both the same names"):
        Trainer(sd3_transformer(), arguments, FlowMatching(), other).train()
    with pytest.raises(TwinFlowConfigError, match="The condition of empty_condition has 'a', but"):
        LatentBatches(samples(), seed=0, batch_size=BATCH, empty_condition={"a": sd3_condition(1)["prompt_embeds"]})
    longer = samples(BATCH)
    longer[3]["condition"]["prompt_embeds"] = torch.zeros(5, 16)
    arguments = replace(arguments, output_dir=f"{arguments.output_dir}-2")
    with pytest.raises(TwinFlowConfigError, match="'prompt_embeds' has the shape .* in sample"):
        Trainer(sd3_transformer(), arguments, FlowMatching(), longer).train()
