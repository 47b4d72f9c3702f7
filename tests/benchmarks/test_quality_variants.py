import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from diffusers_twinflow import TwinFlowConfig
from diffusers_twinflow.families.stable_diffusion_3 import StableDiffusion3Family
from diffusers_twinflow.training import base_model, optimizer
from diffusers_twinflow.training.arguments import as_arguments
from quality.base import base_options
from quality.building import build_transformer
from quality.launching import run_logged, training_command, training_progress
from quality.running import Runner
from quality.settings import FULL, REHEARSAL
from quality.variants import VARIANTS, Variant, variant_options

ROOT = Path(__file__).parents[2]


def load(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(command: list[str]) -> list[str]:
    return command[command.index("examples/train_twinflow.py") + 1 :]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_script_takes_every_variant(script, variant):
    where = {"base": Path("b"), "data_dir": Path("d"), "output_dir": Path("o")}
    options = variant_options(variant, **where, settings=FULL, minutes=1.5, bf16=True)
    args = script.parse_args(arguments(training_command(options)))
    config = TwinFlowConfig.from_dict({name: getattr(args, name) for name in TwinFlowConfig.option_names()})
    config.check_training(flow_matching=True, use_ema=args.use_ema)
    for name, value in options.items():
        assert getattr(args, name) == value, name
    ablated = [text for name, value in variant.ablated.items() for text in as_arguments(name, value)]
    parsed, rest = load("benchmarks/quality/train_ablated.py").build_parser().parse_known_args(ablated)
    assert not rest and {name: value for name, value in vars(parsed).items() if value is not None} == variant.ablated


def test_variants_differ():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert len({json.dumps([v.options, v.ablated, v.length], sort_keys=True) for v in VARIANTS}) == len(VARIANTS)


def test_the_script_takes_the_base(script):
    options = base_options(Path("b"), Path("d"), Path("o"), FULL, minutes=5.0, processes=2, bf16=True)
    command = training_command(options, processes=2)
    args = script.parse_args(arguments(command))
    assert args.train_batch_size * 2 == FULL.base_batch_size and args.use_ema and not args.twinflow_enabled
    assert "--multi_gpu" in command


def test_ablated_times():
    times = load("benchmarks/quality/train_ablated.py").TIMES
    t, r, sign = torch.tensor([0.5, 0.8]), torch.tensor([0.25, 0.8]), torch.tensor([1.0, -1.0])
    family = StableDiffusion3Family()
    negative = times["negative"](family, t, r, sign)
    torch.testing.assert_close(negative["timestep"], torch.tensor([500.0, -800.0]))
    torch.testing.assert_close(negative["target_timestep"], torch.tensor([250.0, -800.0]))
    squeezed = times["squeezed"](family, t, r, sign)
    torch.testing.assert_close(squeezed["timestep"], torch.tensor([375.0, 400.0]))
    assert squeezed["timestep_sign"] is sign and "target_timestep" not in squeezed


@pytest.fixture
def ablations(monkeypatch):
    """The script, what it changes being as it was afterwards."""
    script = load("benchmarks/quality/train_ablated.py")
    changed = ((base_model, "LoraConfig"), (optimizer, "parameter_groups"), (script.train_twinflow, "get_scheduler"))
    for module, name in changed:
        monkeypatch.setattr(module, name, getattr(module, name))
    return script


def with_lora(settings, rank: int, **twinflow):
    transformer, family = build_transformer(settings).requires_grad_(False), StableDiffusion3Family()
    config = TwinFlowConfig(**twinflow)
    base_model.prepare_lora(transformer, config, family, rank=rank, lora_layers=[base_model.ALL_LINEAR])
    return transformer


def student_factors(transformer) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in transformer.named_parameters() if ".default." in name}


RANKED = [variant for variant in VARIANTS if "ranks" in variant.ablated]


@pytest.mark.parametrize("variant", RANKED, ids=lambda variant: variant.name)
def test_ranks_by_kind_of_layer_have_no_more_weights(ablations, variant):
    with torch.device("meta"):
        everywhere = sum(shape.numel() for shape in student_factors(with_lora(FULL, 64)).values())
        ablations.set_ranks(variant.ablated["ranks"])
        transformer = with_lora(FULL, 64)
    shapes = student_factors(transformer)
    assert 0.98 * everywhere < sum(shape.numel() for shape in shapes.values()) <= everywhere
    ranks = dict(pair.split("=") for pair in variant.ablated["ranks"])
    block = "transformer_blocks.0."
    for layer in ("norm1_context.linear", "attn.to_out.0", "attn.add_k_proj", "ff.net.2"):
        rank = int(ranks.get(layer, 64))
        assert shapes[f"{block}{layer}.lora_A.default.weight"][0] == rank
        assert transformer.get_submodule(block + layer).scaling["default"] == 1.0
    assert shapes["proj_out.lora_A.default.weight"][0] == 64


def test_time_conditioning_alone_at_first(ablations):
    ablations.align_time_conditioning(3)
    first, second = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    stepped = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": [second], "lr": 0.25}])
    scheduler = ablations.train_twinflow.get_scheduler("constant", optimizer=stepped)
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in stepped.param_groups])
        stepped.step()
        scheduler.step()
    assert rates == [[0.0, 0.25]] * 3 + [[0.5, 0.25]] * 2


def test_the_second_factor_has_its_own_rate(ablations):
    transformer = with_lora(REHEARSAL, 2, twinflow_enabled=True)
    before = optimizer.parameter_groups(transformer, 0.5, 0.125)
    ablations.raise_second_factor(4.0)
    first, conditioning, second = optimizer.parameter_groups(transformer, 0.5, 0.125)
    assert [group["lr"] for group in (first, conditioning, second)] == [0.5, 0.125, 2.0]
    assert {id(p) for p in first["params"] + second["params"]} == {id(p) for p in before[0]["params"]}
    assert conditioning["params"] == before[1]["params"]
    assert all(not parameter.any() for parameter in second["params"]) and second["params"]
    assert all(parameter.any() for parameter in first["params"])


@pytest.fixture
def runner(tmp_path):
    def build(**more):
        values = {
            "base": tmp_path / "base",
            "data_dir": tmp_path / "data",
            "work_dir": tmp_path,
            "settings": REHEARSAL,
            "score": lambda variant, steps, gpu: [{"steps": steps}],
            "deadline": time.monotonic() + 1000,
            "bf16": False,
        }
        return Runner(**(values | more))

    return build


def test_a_failure_is_kept_and_the_others_run(runner, monkeypatch):
    built = runner()

    def train(variant, minutes, gpu, result):
        if variant.name == "b":
            raise RuntimeError("out of luck")
        return 5

    monkeypatch.setattr(built, "_train", train)
    names = [Variant(name, "", {}) for name in "abc"]
    first, second, third = built.run_all(tuple(names), [], 2)
    assert [row["steps"] for row in first["rows"]] == [5] and first["state"] == third["state"] == "done"
    assert second["state"] == "failed" and "out of luck" in second["error"]


def test_what_is_done_is_not_done_again(runner, monkeypatch):
    built, trained = runner(), []
    monkeypatch.setattr(built, "_train", lambda variant, *rest: trained.append(variant.name))
    variants = (Variant("a", "", {}),)
    assert built.run_all(variants, [], 1) == built.run_all(variants, [], 1)
    assert trained == ["a"]


def test_nothing_begins_that_cannot_end(runner):
    (result,) = runner(deadline=time.monotonic() + 1).run_all((Variant("a", "", {}),), [], 1)
    assert result["state"] == "not begun: no time left"


def test_a_failed_run_tells_its_log(tmp_path):
    with pytest.raises(RuntimeError, match=r"exit code 3.*\n?.*the reason"):
        run_logged([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path / "log")
    with pytest.raises(RuntimeError, match="time limit"):
        run_logged(
            [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", deadline=time.monotonic() + 1
        )


def test_steps_and_seconds_come_from_the_last_bar(tmp_path):
    log = tmp_path / "log"
    log.write_text("Steps: 100%|#| 3/3 [00:09<00:00, 1s/it]\rSteps: 100%|#| 8/8 [1:02:03<00:00, 1s/it]\n")
    assert training_progress(log) == (8, 3723)
    log.write_text("Steps:  40%|#| 2/5 [00:09<00:14, 4s/it, loss=1.9, lr=6e-5]\nSaving: 100%|#| 1/1 [00:01<00:00]\n")
    assert training_progress(log) == (2, 9)
