import copy
import threading

import pytest
import torch
from diffusers import SD3Transformer2DModel

import tiny
from diffusers_twinflow.models import TwinFlowSD3Transformer2DModel, disable_twinflow, enable_twinflow


def inputs(batch=3):
    condition = tiny.sd3_condition(batch)
    return {
        "hidden_states": torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(2)),
        "timestep": torch.tensor([1000.0, 500.0, 20.0]),
        "encoder_hidden_states": condition["prompt_embeds"],
        "pooled_projections": condition["pooled_prompt_embeds"],
    }


TIMES = {"target_timestep": torch.tensor([0.0, 250.0, 10.0]), "timestep_sign": torch.tensor([1.0, 1.0, -1.0])}


def trained():
    transformer = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    transformer.enable_twinflow()
    torch.nn.init.normal_(transformer.time_conditioning.target_timestep_embedder.linear_2.weight)
    with torch.no_grad():
        transformer.time_conditioning.time_sign_embed.weight[1].normal_()
    return transformer


def test_off_is_the_stock_model():
    stock, ours = tiny.sd3_transformer(), tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    assert dict(stock.config) == dict(ours.config)
    assert list(stock.state_dict()) == list(ours.state_dict())
    assert torch.equal(stock(**inputs()).sample, ours(**inputs()).sample)
    assert not ours.twinflow_enabled


def test_off_refuses_the_new_arguments():
    ours = tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    for name, value in TIMES.items():
        with pytest.raises(ValueError, match="enable_twinflow"):
            ours(**inputs(), **{name: value})


def test_on_and_untrained_is_the_stock_output():
    stock, ours = tiny.sd3_transformer(), tiny.sd3_transformer(TwinFlowSD3Transformer2DModel)
    ours.enable_twinflow()
    assert torch.equal(stock(**inputs()).sample, ours(**inputs(), **TIMES).sample)
    assert torch.equal(stock(**inputs()).sample, ours(**inputs()).sample)


def test_trained_is_the_stock_output_on_the_real_trajectory_at_r_equal_t():
    stock, ours = tiny.sd3_transformer(), trained()
    at_t = {"target_timestep": inputs()["timestep"], "timestep_sign": torch.ones(3)}
    assert torch.equal(stock(**inputs()).sample, ours(**inputs(), **at_t).sample)
    moved = (stock(**inputs()).sample - ours(**inputs(), **TIMES).sample).abs().amax((1, 2, 3))
    assert (moved > 1e-4).all()


def test_sign_and_target_reach_only_their_sample():
    ours = trained()
    real = ours(**inputs(), target_timestep=TIMES["target_timestep"]).sample
    twin = ours(**inputs(), **TIMES).sample
    assert torch.equal(real[:2], twin[:2]) and not torch.equal(real[2], twin[2])


def test_positional_timestep():
    ours, given = trained(), inputs()
    positional = ours(
        given["hidden_states"], given["encoder_hidden_states"], given["pooled_projections"], given["timestep"], **TIMES
    )
    assert torch.equal(positional.sample, ours(**given, **TIMES).sample)


def test_target_timestep_source_answers_calls_without_a_target():
    ours = trained()
    ours.set_target_timestep_source(lambda timestep: timestep / 2)
    halved = ours(**inputs()).sample
    ours.set_target_timestep_source(None)
    assert torch.equal(halved, ours(**inputs(), target_timestep=inputs()["timestep"] / 2).sample)


def test_in_place_and_back():
    transformer, stock = tiny.sd3_transformer(), tiny.sd3_transformer()
    before = transformer.state_dict()
    enable_twinflow(transformer, TwinFlowSD3Transformer2DModel)
    assert isinstance(transformer, TwinFlowSD3Transformer2DModel) and transformer.config.twinflow_enabled
    disable_twinflow(transformer)
    assert type(transformer) is SD3Transformer2DModel
    assert dict(transformer.config) == dict(stock.config)
    assert list(transformer.state_dict()) == list(before)
    assert not transformer.time_text_embed.timestep_embedder._forward_hooks
    assert torch.equal(transformer(**inputs()).sample, stock(**inputs()).sample)


def test_another_class_is_refused():
    with pytest.raises(TypeError, match="Linear has no timestep_sign support"):
        enable_twinflow(torch.nn.Linear(1, 1), TwinFlowSD3Transformer2DModel)


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_saved_and_loaded(tmp_path, low_cpu_mem_usage):
    ours = trained()
    ours.save_pretrained(tmp_path)
    loaded = TwinFlowSD3Transformer2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(loaded(**inputs(), **TIMES).sample, ours(**inputs(), **TIMES).sample)


def test_stock_checkpoint_loads_with_twinflow_off(tmp_path):
    stock = tiny.sd3_transformer()
    stock.save_pretrained(tmp_path)
    loaded = TwinFlowSD3Transformer2DModel.from_pretrained(tmp_path)
    assert not loaded.twinflow_enabled
    assert torch.equal(loaded(**inputs()).sample, stock(**inputs()).sample)


def test_deepcopy_stands_alone():
    ours = trained()
    expected = ours(**inputs(), **TIMES).sample
    copied = copy.deepcopy(ours)
    torch.nn.init.zeros_(ours.time_conditioning.time_sign_embed.weight)
    assert torch.equal(copied(**inputs(), **TIMES).sample, expected)
    assert not torch.equal(ours(**inputs(), **TIMES).sample, expected)


def test_two_threads_at_once():
    ours = trained().requires_grad_(False)
    targets = [torch.full((3,), float(value)) for value in (0, 200)]
    expected = [ours(**inputs(), target_timestep=target).sample for target in targets]
    wrong = []

    def work(index):
        for _ in range(30):
            if not torch.equal(ours(**inputs(), target_timestep=targets[index]).sample, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_compiles_as_one_graph():
    ours = trained()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    loss = compiled(**inputs(), **TIMES).sample.square().mean()
    loss.backward()
    torch.testing.assert_close(loss, ours(**inputs(), **TIMES).sample.square().mean())
    assert ours.time_conditioning.time_sign_embed.weight.grad[1].any()
