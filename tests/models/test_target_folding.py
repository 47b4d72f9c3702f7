"""The target time as low-rank weights: a stock model with them equals the TwinFlow model on a grid."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig

from diffusers_twinflow import TwinFlowScheduler
from diffusers_twinflow.hub.portable import fold
from diffusers_twinflow.models import TimeConditioning, enable_twinflow
from diffusers_twinflow.models.target_folding import (
    CannotFoldError,
    Grid,
    adds_target,
    factor,
    fit_rows,
    fold_target,
    foldable_layers,
)
from tests.models.representatives import by_weight
from tests.models.stock import STOCK
from tests.models.stock.spec import call, run, stock_class
from tests.models.trained import trained

FEW = {1: (0.999,), 2: (0.999, 0.6)}
ANY = {3: ((0.999, 0.7, 0.4), (0.7, 0.4, 0.0))}

OWN_TARGET = {"AceStepTransformer1DModel", "AnyFlowFARTransformer3DModel", "AnyFlowTransformer3DModel"}
AFTER_A_NORM = {"CosmosTransformer3DModel", "NucleusMoEImageTransformer2DModel"}
TOO_SMALL = {"ChromaTransformer2DModel"}
FOLDABLE = sorted(STOCK.keys() - OWN_TARGET - AFTER_A_NORM - TOO_SMALL)


def in_unit(stock, times):
    return stock.in_unit(torch.tensor(times))


def grids_of(stock, table):
    """Grids with pairs of times and targets in [0, 1], in a class's unit."""
    return {key: Grid(in_unit(stock, times), in_unit(stock, targets)) for key, (times, targets) in table.items()}


def few(stock):
    return grids_of(stock, {n: (times, [0.0] * n) for n, times in FEW.items()})


def stock_with(name, layers):
    """The stock model with low-rank weights added to its layers."""
    model = STOCK[name].build(stock_class(name))
    with torch.no_grad():
        for path, layer in layers.items():
            model.get_submodule(path).weight += layer.lora_B @ layer.lora_A
    return model


@pytest.mark.parametrize("name", by_weight(FOLDABLE))
def test_stock_model_with_the_folded_target_gives_what_the_twinflow_model_gives(name):
    stock, model = STOCK[name], trained(name)
    folded = fold_target(model, model.time_conditioning, few(stock))
    assert folded.exact == (1, 2)
    assert list(folded.layers) == list(foldable_layers(type(model), model))
    plain = stock_with(name, folded.layers)
    times = FEW[2] if stock.batch == 2 else FEW[2][:1]
    with torch.no_grad():
        ours = call(stock, model, {**stock.arguments(*times), "target_timestep": stock.times(*[0.0] * len(times))})
        theirs, without = run(stock, plain, *times), run(stock, model, *times)
    effect = (ours - without).abs().max()
    assert effect > 0.1
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4 * float(ours.abs().max()))


def test_style_any_needs_one_rank_for_each_evaluation():
    name = "SD3Transformer2DModel"
    stock, model = STOCK[name], trained(name)
    folded = fold_target(model, model.time_conditioning, grids_of(stock, ANY))
    assert [layer.lora_A.shape[0] for layer in folded.layers.values()] == [3]
    assert folded.error_between is None
    plain = stock_with(name, folded.layers)
    for time, target in zip(*ANY[3]):
        with torch.no_grad():
            ours = call(stock, model, {**stock.arguments(time, time), "target_timestep": stock.times(target, target)})
            theirs = run(stock, plain, time, time)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-4)


def test_a_grid_that_contradicts_an_earlier_one_is_left_out():
    """The same time cannot have two targets, so the first grid wins."""
    name = "SD3Transformer2DModel"
    stock, model = STOCK[name], trained(name)
    table = {"jump": ((0.9,), (0.0,)), "half": ((0.9, 0.5), (0.5, 0.0)), "also": ((0.4,), (0.0,))}
    assert fold_target(model, model.time_conditioning, grids_of(stock, table)).exact == ("jump", "also")


def test_folding_leaves_the_model_as_it_was():
    model = trained("SD3Transformer2DModel")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    hooks = len(model.time_text_embed.timestep_embedder._forward_hooks)
    fold_target(model, model.time_conditioning, few(STOCK["SD3Transformer2DModel"]))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert len(model.time_text_embed.timestep_embedder._forward_hooks) == hooks == 1


def test_the_layer_inputs_are_those_with_the_adapter():
    """A LoRA on the embedder's first layer changes what the last layer is given."""
    name = "SD3Transformer2DModel"
    stock, model = STOCK[name], trained(name)
    without = fold_target(model, model.time_conditioning, few(stock))
    config = LoraConfig(r=2, target_modules=["time_text_embed.timestep_embedder.linear_1"], init_lora_weights=False)
    model.add_adapter(config, adapter_name="style")
    with_it = fold_target(model, model.time_conditioning, few(stock), adapter_names=["style"])
    again = fold_target(model, model.time_conditioning, few(stock))
    path = "time_text_embed.timestep_embedder.linear_2"
    assert not torch.allclose(with_it.layers[path].lora_A, without.layers[path].lora_A, rtol=1e-2)
    torch.testing.assert_close(again.layers[path].lora_A, without.layers[path].lora_A)
    assert not model.time_text_embed.timestep_embedder.linear_1.merged_adapters


@pytest.mark.parametrize(
    "name, reason",
    [
        ("AceStepTransformer1DModel", "takes a target time itself"),
        ("CosmosTransformer3DModel", "ends in a RMSNorm"),
        ("NucleusMoEImageTransformer2DModel", "ends in a RMSNorm"),
        ("ChromaTransformer2DModel", "has 8 inputs, which are too few"),
    ],
)
def test_what_cannot_be_folded_is_named(name, reason):
    model = trained(name)
    with pytest.raises(CannotFoldError, match=reason):
        fold_target(model, model.time_conditioning, few(STOCK[name]))


def test_the_authors_second_embedder_cannot_be_folded():
    name = "SD3Transformer2DModel"
    model = STOCK[name].build(type(trained(name)))
    model.enable_twinflow("second_embedder")
    with pytest.raises(CannotFoldError, match="only times can be folded"):
        fold_target(model, model.time_conditioning, few(STOCK[name]))


def test_a_model_that_cannot_be_folded_is_saved_with_the_reason():
    model = STOCK["SD3Transformer2DModel"].build(type(trained("SD3Transformer2DModel")))
    model.enable_twinflow("second_embedder")
    folded, portable = fold(model, model.time_conditioning, TwinFlowScheduler(), 2)
    assert folded is None and "only times can be folded" in portable.reason


def test_a_model_without_a_target_time_needs_no_folding():
    """SimpleTuner's models know a sign alone, which adds nothing on the real trajectory."""
    model = STOCK["SD3Transformer2DModel"].build(type(trained("SD3Transformer2DModel")))
    model.enable_twinflow("sign")
    assert not adds_target(type(model), model, model.time_conditioning)
    folded, portable = fold(model, model.time_conditioning, TwinFlowScheduler(), 2)
    assert folded is None and portable.reason is None and "2" in portable.sigmas
    for name in ("SD3Transformer2DModel", "AnyFlowTransformer3DModel"):
        other = trained(name)
        assert adds_target(type(other), other, other.time_conditioning)


def test_wide_embedder_is_right_at_every_time():
    """An embedder of the size of real models represents the linear function of time between the grids too."""
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=64, num_attention_heads=12,
        joint_attention_dim=8, caption_projection_dim=768, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=4,
    )  # fmt: skip
    enable_twinflow(model)
    conditioning: TimeConditioning = model.time_conditioning
    torch.nn.init.normal_(conditioning.target_timestep_embedder.linear_2.weight)
    grids = {n: Grid(1000 * torch.linspace(0.999, 0.5, n), torch.zeros(n)) for n in (1, 2, 4, 3, 8)}
    folded = fold_target(model, conditioning, grids)
    assert folded.exact == (1, 2, 4, 3, 8)
    assert folded.error_between < 1e-4


def test_fit_rows_is_exact_on_the_pairs_and_smallest():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    outputs = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    weights = fit_rows(inputs, outputs)
    torch.testing.assert_close(inputs @ weights.T, outputs)
    orthogonal = torch.linalg.svd(inputs)[2][3:]
    torch.testing.assert_close(weights @ orthogonal.T, torch.zeros(2, 5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_fit_rows_by_hand():
    """x = 1 gives 2 exactly; of the weights [2, b], b = 3 fits the soft pair (0, 1) -> 3."""
    inputs, outputs = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[2.0]]).double()
    torch.testing.assert_close(fit_rows(inputs, outputs), torch.tensor([[2.0, 0.0]]).double())
    soft = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[3.0]]).double()
    torch.testing.assert_close(fit_rows(inputs, outputs, soft), torch.tensor([[2.0, 3.0]]).double())


def test_factor_finds_the_rank():
    direction = torch.tensor([[3.0, 4.0]]).double()
    coefficients, directions = factor(torch.tensor([[1.0], [0.5]]).double() @ direction)
    assert coefficients.shape == (2, 1) and directions.shape == (1, 2)
    torch.testing.assert_close(directions.abs(), torch.tensor([[0.6, 0.8]]).double())
    torch.testing.assert_close(coefficients @ directions, torch.tensor([[3.0, 4.0], [1.5, 2.0]]).double())
