"""The time conditioning survives what users do with a model."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model
from torch.utils._pytree import tree_map

from diffusers_twinflow.models import disable_twinflow, enable_twinflow
from tests.models.stock import STOCK
from tests.models.stock.spec import call, run, stock_class
from tests.models.trained import TIMES, both, conditioned, device_for_backward, randomise, trained, twinflow_class

COMPILED_IN_SHORT = ("SD3Transformer2DModel", "WanTransformer3DModel")


def in_own_memory(model: torch.nn.Module) -> torch.nn.Module:
    """Tensors of a file lie at any address, by which some processors' kernels round, the stock model's as well."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


@torch.no_grad()
def test_saved_and_loaded(name, tmp_path):
    ours = trained(name)
    expected = conditioned(name, ours)
    ours.save_pretrained(tmp_path)
    stock_takes_false = stock_class(name)._keep_in_fp32_modules is None
    for low_cpu_mem_usage in (True, False) if stock_takes_false else (True,):
        loaded = twinflow_class(name).from_pretrained(tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert torch.equal(conditioned(name, in_own_memory(loaded)), expected)


@torch.no_grad()
def test_stock_checkpoint_loads_off_and_is_switched_on(name, tmp_path):
    stock = STOCK[name]
    plain = stock.build(stock_class(name))
    plain.save_pretrained(tmp_path)
    loaded = twinflow_class(name).from_pretrained(tmp_path)
    assert not loaded.twinflow_enabled
    loaded.enable_twinflow()
    assert torch.equal(run(stock, in_own_memory(loaded), *TIMES), run(stock, plain, *TIMES))


@pytest.mark.parametrize(
    "name", [name if name in COMPILED_IN_SHORT else pytest.param(name, marks=pytest.mark.slow) for name in STOCK]
)
def test_compiles_as_one_graph(name):
    """After a first call, in which some stock classes fill tables that Dynamo cannot trace."""
    stock = STOCK[name]
    if reason := stock.why_not_compiled():
        pytest.skip(f"the stock class does not: {reason}")
    torch._dynamo.reset()
    ours = trained(name)
    with torch.set_grad_enabled(stock.backward_on_cpu):
        expected = conditioned(name, ours)
        output = conditioned(name, torch.compile(ours, fullgraph=True, backend="eager"))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    if stock.backward_on_cpu:
        output.square().mean().backward()
        assert ours.time_conditioning.time_sign_embed.weight.grad[1].any()


def test_gradient_checkpointing(name):
    if not stock_class(name)._supports_gradient_checkpointing or STOCK[name].checkpointing_broken:
        pytest.skip("the stock class has none that works")
    gradients = []
    with device_for_backward(name):
        for checkpointing in (False, True):
            ours = trained(name).train()
            if checkpointing:
                ours.enable_gradient_checkpointing()
            conditioned(name, ours).square().mean().backward()
            gradients.append({name: p.grad for name, p in ours.time_conditioning.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])


def put_adapter(model: torch.nn.Module, target_modules: str) -> None:
    """What a class with adapters of its own does too; some stock classes have none."""
    inject_adapter_in_model(LoraConfig(r=2, target_modules=target_modules, init_lora_weights=False), model)


def take_adapters_off(model: torch.nn.Module) -> None:
    recurse_remove_peft_layers(model)
    model.requires_grad_(True)  # an RMS norm rounds differently where its weight is frozen


@torch.no_grad()
def test_adapter_on_every_linear(name):
    """Put on before the conditioning and taken off after it; the conditioning stays and so do its hooks."""
    stock = STOCK[name]
    ours = stock.build(stock_class(name))
    put_adapter(ours, "all-linear")
    enable_twinflow(ours)
    randomise(ours.time_conditioning)
    adapted = conditioned(name, ours)
    assert not torch.equal(adapted, run(stock, ours, *TIMES))

    take_adapters_off(ours)
    assert torch.equal(conditioned(name, ours), conditioned(name, trained(name)))
    disable_twinflow(ours)
    assert torch.equal(run(stock, ours, *TIMES), run(stock, stock.build(stock_class(name)), *TIMES))


@torch.no_grad()
def test_adapter_on_the_conditioning(name):
    ours = trained(name)
    before = conditioned(name, ours)
    put_adapter(ours, r"time_conditioning\..*(linear_\d|time_sign_embed)")
    assert not torch.equal(conditioned(name, ours), before)
    take_adapters_off(ours)
    assert torch.equal(conditioned(name, ours), before)


@torch.no_grad()
def test_deepcopy_stands_alone(name):
    ours = trained(name)
    expected = conditioned(name, ours)
    copied = copy.deepcopy(ours)
    disable_twinflow(ours)
    assert torch.equal(conditioned(name, copied), expected)
    copied.time_conditioning.reset_parameters()
    assert not torch.equal(conditioned(name, copied), expected)


@torch.no_grad()
def test_layerwise_casting(name):
    ours = trained(name)
    expected = conditioned(name, ours)
    ours.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert all(parameter.dtype == torch.float32 for parameter in ours.time_conditioning.parameters())
    assert (conditioned(name, ours) - expected).norm() < 0.1 * expected.norm()


@torch.no_grad()
def test_half_precision(name):
    """At a time that is exact in bfloat16, also times 1000; what is added does not change the dtype that goes on."""
    stock, ours = STOCK[name], trained(name)
    exact = stock.in_unit(torch.tensor(0.5)).bfloat16().item()
    time = (exact - stock.at_data) / (stock.at_noise - stock.at_data)
    twinflow = both(name) | {"target_timestep": stock.times(0.25, 0.0)}
    expected = run(stock, ours, time, time, **twinflow)
    arguments, twinflow = (tree_map(to_half, values) for values in (stock.arguments(time, time), twinflow))
    plain = call(stock, half_model(stock.build(stock_class(name))), arguments)
    output = call(stock, half_model(ours), arguments | twinflow)
    assert output.dtype == plain.dtype
    assert (output.float() - expected).norm() < 0.3 * expected.norm()


def to_half(value):
    return value.bfloat16() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


def half_model(model: torch.nn.Module) -> torch.nn.Module:
    """In bfloat16 but for the modules that the stock class keeps in float32, as `from_pretrained` loads it."""
    model.bfloat16()
    for name, module in model.named_modules():
        if set(name.split(".")) & set(model._keep_in_fp32_modules or ()):
            module.float()
    return model


@torch.no_grad()
@pytest.mark.parametrize("offload_type", ["leaf_level", "block_level"])
def test_group_offload(name, offload_type):
    ours = STOCK[name].build(stock_class(name))
    options = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
    apply_group_offloading(
        ours,
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type=offload_type,
        **options,
    )
    enable_twinflow(ours)
    randomise(ours.time_conditioning)
    assert torch.equal(conditioned(name, ours), conditioned(name, trained(name)))


@torch.no_grad()
def test_offloaded_to_the_cpu_as_a_whole_before_it_is_enabled(name):
    ours = STOCK[name].build(stock_class(name))
    cpu_offload_with_hook(ours, execution_device=torch.device("cpu"))
    enable_twinflow(ours)
    randomise(ours.time_conditioning)
    assert torch.equal(conditioned(name, ours), conditioned(name, trained(name)))


@torch.no_grad()
def test_offloaded_layer_by_layer(name):
    if STOCK[name].not_offloaded:
        pytest.skip(f"the stock class does not: {STOCK[name].not_offloaded}")
    stock, ours = STOCK[name], trained(name)
    expected = conditioned(name, ours)
    cpu_offload(ours, execution_device=torch.device("cpu"))
    assert next(ours.time_conditioning.parameters()).is_meta
    assert torch.equal(conditioned(name, ours), expected)

    late = stock.build(stock_class(name))
    cpu_offload(late, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="enable_twinflow before sequential"):
        enable_twinflow(late)
    assert type(late) is stock_class(name)


@torch.no_grad()
def test_device_map(name, tmp_path):
    if stock_class(name)._no_split_modules is None:
        pytest.skip("the stock class has no device_map")
    ours = trained(name)
    expected = conditioned(name, ours)
    ours.save_pretrained(tmp_path)
    mapped = twinflow_class(name).from_pretrained(
        tmp_path, device_map="auto", max_memory={"cpu": "1GB"}, low_cpu_mem_usage=True
    )
    assert mapped.hf_device_map
    assert torch.equal(conditioned(name, in_own_memory(mapped)), expected)


@torch.no_grad()
def test_two_threads_at_once(name):
    if STOCK[name].compiles_itself:
        pytest.skip("the stock class compiles its attention, which torch does in one thread alone")
    stock, ours = STOCK[name], trained(name)
    calls = [both(name), {"target_timestep": stock.times(*TIMES), "timestep_sign": -torch.ones(stock.batch)}]
    expected = [run(stock, ours, *TIMES, **call) for call in calls]
    together = threading.Barrier(2)

    def count_wrong(index) -> int:
        try:
            with torch.no_grad():
                wrong = 0
                for _ in range(4):
                    together.wait()
                    wrong += not torch.equal(run(stock, ours, *TIMES, **calls[index]), expected[index])
                return wrong
        except Exception:
            together.abort()  # so that the other thread does not wait for this one
            raise

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(count_wrong, (0, 1))) == [0, 0]
