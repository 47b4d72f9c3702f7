import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from diffusers_twinflow.models.merged_lora import MergedLora, merged_size


class Layers(nn.Module):
    def __init__(self, size, dtype):
        super().__init__()
        self.first = nn.Linear(size, size, dtype=dtype)
        self.second = nn.Linear(size, size, dtype=dtype)
        self.out = nn.Linear(size, 2, bias=False, dtype=dtype)
        self.plain = nn.Linear(2, 2, dtype=dtype)

    def forward(self, x):
        return self.plain(self.out(self.second(self.first(x).relu()).relu()))


def adapted(dtype=torch.float32, size=6, **options):
    torch.manual_seed(0)
    config = {"r": 2, "lora_alpha": 3, "target_modules": ["first", "second", "out"], "init_lora_weights": False}
    model = get_peft_model(Layers(size, dtype), LoraConfig(**config | options)).base_model.model
    for parameter in factors(model).values():
        parameter.data = parameter.data.float()
    return model


def factors(model):
    return {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}


def gradients(model, x):
    x = x.clone().requires_grad_()
    output = model(x)
    return torch.autograd.grad(output.square().sum(), [x, *factors(model).values()])


@pytest.mark.parametrize("options", [{}, {"rank_pattern": {"second": 3}, "alpha_pattern": {"first": 5}}])
def test_outputs_and_gradients_are_those_of_the_low_rank_branch_and_follow_its_values(options):
    model, x = adapted(torch.float64, **options), torch.randn(3, 4, 6, dtype=torch.float64)
    for parameter in factors(model).values():
        parameter.data = parameter.data.double()
    merged = MergedLora(model)
    for _ in range(2):
        wanted, wanted_gradients = model(x), gradients(model, x)
        with merged.used():
            merged.merge("default")
            calls = [
                module.register_forward_pre_hook(refuse) for name, module in model.named_modules() if is_factor(name)
            ]
            torch.testing.assert_close(model(x), wanted)
            torch.testing.assert_close(gradients(model, x), wanted_gradients)
            with torch.no_grad():
                torch.testing.assert_close(model(x), wanted)
        for call in calls:
            call.remove()
        with torch.no_grad():
            for parameter in factors(model).values():
                parameter += 0.1


def is_factor(name):
    return name.endswith(("lora_A.default", "lora_B.default"))


def refuse(module, args):
    raise AssertionError("the low-rank branch was used")


def test_nothing_changes_outside_of_the_block():
    model, x = adapted(), torch.randn(3, 6)
    before, state = model(x), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = MergedLora(model)
    with merged.used():
        merged.merge("default")
    assert torch.equal(model(x), before)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert merged_size(model) == 4 * (6 * 6 + 6 * 6 + 2 * 6)


def test_an_absent_adapter_gives_the_base():
    model, x = adapted(), torch.randn(3, 6)
    merged = MergedLora(model)
    with merged.used(), torch.no_grad():
        merged.merge("absent")
        output = model(x)
    for layer in merged.layers:
        layer.enable_adapters(False)
    torch.testing.assert_close(output, model(x))


def test_a_copy_of_the_model_has_ordinary_layers():
    model, x = adapted(), torch.randn(3, 6)
    merged = MergedLora(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in factors(copied).values():
            parameter += 0.1
    wanted = copied(x)
    with merged.used():
        merged.merge("default")
        assert torch.equal(copied(x), wanted)


def test_recomputed_activations_use_the_merged_weights_too():
    model, x = adapted(), torch.randn(3, 6)
    wanted = gradients(model, x)
    merged, first = MergedLora(model), model.first.forward
    model.first.forward = lambda *args: torch.utils.checkpoint.checkpoint(first, *args, use_reentrant=False)
    with merged.used():
        merged.merge("default")
        torch.testing.assert_close(gradients(model, x), wanted)


def test_under_autocast_the_layers_give_half_precision_and_float32_gradients():
    model, x = adapted(), torch.randn(3, 6)
    wanted = gradients(model, x)
    merged = MergedLora(model)
    with merged.used(), torch.autocast("cpu", torch.bfloat16):
        merged.merge("default")
        assert model.first(x).dtype == torch.bfloat16
        found = gradients(model, x)
    for gradient, exact in zip(found, wanted):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, exact, rtol=0.1, atol=0.1 * exact.abs().max().item())


def test_bfloat16_weights_are_those_of_the_base_without_an_update():
    model = adapted(torch.bfloat16)
    with torch.no_grad():
        model.first.lora_B["default"].weight.zero_()
    MergedLora(model).merge("default")
    assert torch.equal(model.first.merged_weight, model.first.base_layer.weight)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_updates_below_the_precision_of_bfloat16_are_kept_on_average(sign):
    """Weights of 1 with an update of a tenth of the spacing of bfloat16 there: nearest rounding would lose it all."""
    spacing = 2**-7
    model = adapted(torch.bfloat16, size=256, lora_alpha=2)
    layer = model.first
    with torch.no_grad():
        layer.base_layer.weight.fill_(sign)
        layer.lora_A["default"].weight.copy_(torch.tensor([1.0, 0.0])[:, None].expand(2, 256))
        layer.lora_B["default"].weight.copy_(torch.tensor([sign * spacing / 10, 0.0])[None].expand(256, 2))
    assert torch.equal((layer.base_layer.weight.float() + sign * spacing / 10).bfloat16(), layer.base_layer.weight)
    MergedLora(model).merge("default")
    merged = layer.merged_weight.float() * sign
    assert set(merged.unique().tolist()) == {1.0, 1.0 + spacing}
    assert (merged.mean() - 1).item() == pytest.approx(spacing / 10, rel=0.05)


def test_similar_adapters_are_rounded_alike():
    """The teacher differs from the student by little; random numbers of its own would add noise to the difference."""
    model = adapted(torch.bfloat16, size=64)
    merged = MergedLora(model)
    merged.merge("default")
    first = model.second.merged_weight.clone()
    with torch.no_grad():
        model.second.lora_B["default"].weight.mul_(1 + 1e-4)
    with merged.used():
        merged.merge("default")
    assert 0 < (model.second.merged_weight != first).float().mean() < 0.05


def test_layers_share_the_random_numbers_of_rounding_in_memory_and_each_starts_at_the_first():
    """So the same weights come out for the same adapter in each version and in any order of the layers."""
    merged = MergedLora(adapted(torch.bfloat16, size=64))
    merged.merge("default")
    dithers = [group.dither for group in merged.groups]
    assert sorted(dither.shape for dither in dithers) == [(2, 64), (64, 64)]
    for dither in dithers:
        generator = torch.Generator().manual_seed(0)
        assert torch.equal(dither, torch.randint(2**16, dither.shape, generator=generator, dtype=torch.int32))
    assert len({dither.data_ptr() for dither in dithers}) == 1


def test_layers_that_cannot_be_merged_are_found():
    assert MergedLora.can_merge(adapted())
    assert not MergedLora.can_merge(Layers(6, torch.float32))
    assert not MergedLora.can_merge(adapted(use_dora=True))
    hooked = adapted()
    hooked.first.base_layer.register_forward_hook(lambda module, args, output: output + 1)
    assert not MergedLora.can_merge(hooked)
    convolution = get_peft_model(nn.Sequential(nn.Conv2d(2, 2, 1)), LoraConfig(r=2, target_modules=["0"]))
    assert not MergedLora.can_merge(convolution)
    with pytest.raises(ValueError, match="can_merge"):
        MergedLora(convolution)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_sums_are_the_same_weights(dtype):
    weights = []
    for compiled in (False, True):
        merged = MergedLora(adapted(dtype), compiled=compiled)
        merged.merge("default")
        weights.append([layer.merged_weight for layer in merged.layers])
    for eager, other in zip(*weights):
        assert torch.equal(eager, other)
