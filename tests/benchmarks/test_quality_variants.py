import json
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from diffusers_twinflow.cli.train import parse_args
from diffusers_twinflow.data.batches import LatentBatches
from diffusers_twinflow.training.base_model import ALL_LINEAR
from diffusers_twinflow.training.recipe import build_options
from diffusers_twinflow.training.trainer import Trainer
from quality.base import base_options
from quality.building import build_transformer
from quality.launching import as_command_line, run_logged, training_command, training_progress
from quality.running import Runner
from quality.settings import FULL, REHEARSAL
from quality.train_ablated import TIMES, AblatedTrainer, Ablation, build_parser
from quality.variants import VARIANTS, Variant, variant_options


def arguments(command: list[str]) -> list[str]:
    return command[command.index("examples/train_twinflow.py") + 1 :]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ([], []),
        (True, ["--x"]),
        (False, ["--no-x"]),
        ([1, "a"], ["--x", "1", "a"]),
        (-2.5, ["--x=-2.5"]),
        (100.0, ["--x=100"]),
    ],
)
def test_a_json_option_as_arguments(value, expected):
    assert as_command_line("x", value) == expected


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_the_command_takes_every_variant(variant):
    where = {"base": Path("b"), "data_dir": Path("d"), "output_dir": Path("o")}
    options = variant_options(variant, **where, settings=FULL, minutes=1.5, bf16=True)
    parsed = parse_args(arguments(training_command(options)))
    method = parsed.method()
    method.config.check_training(flow_matching=True, use_ema=method.use_ema)
    found = parsed.arguments.to_dict() | method.options()
    assert {name: found[name] for name in options} == options
    ablated = [text for name, value in variant.ablated.items() for text in as_command_line(name, value)]
    parsed, rest = build_parser().parse_known_args(ablated)
    assert not rest and {name: value for name, value in vars(parsed).items() if value is not None} == variant.ablated


def test_variants_differ():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert len({json.dumps([v.options, v.ablated, v.length, v.own_samples], sort_keys=True) for v in VARIANTS}) == len(
        VARIANTS
    )


def test_the_command_takes_the_base():
    options = base_options(Path("b"), Path("d"), Path("o"), FULL, minutes=5.0, processes=2, bf16=True)
    command = training_command(options, processes=2)
    args, _, twinflow = parse_args(arguments(command))
    assert args.train_batch_size * 2 == FULL.base_batch_size and args.use_ema and not twinflow.twinflow_enabled
    assert "--multi_gpu" in command


def test_ablated_times():
    t, r, sign = torch.tensor([0.5, 0.8]), torch.tensor([0.25, 0.8]), torch.tensor([1.0, -1.0])
    negative = TIMES["negative"].times(t, r, sign)
    torch.testing.assert_close(negative["timestep"], torch.tensor([500.0, -800.0]))
    torch.testing.assert_close(negative["target_timestep"], torch.tensor([250.0, -800.0]))
    squeezed = TIMES["squeezed"].times(t, r, sign)
    torch.testing.assert_close(squeezed["timestep"], torch.tensor([375.0, 400.0]))
    assert squeezed["timestep_sign"] is sign and "target_timestep" not in squeezed


def ablated_trainer(settings, ablation: Ablation, **options) -> Trainer:
    """A trainer of a LoRA on the benchmark's transformer, on one random sample."""
    options = {"lora_layers": [ALL_LINEAR], "train_batch_size": 1, "max_train_steps": 6} | options
    given = build_options(options)
    transformer = build_transformer(settings)
    config = transformer.config
    condition = {
        "prompt_embeds": torch.randn(1, 4, config.joint_attention_dim),
        "pooled_prompt_embeds": torch.randn(1, config.pooled_projection_dim),
    }
    latents = torch.randn(config.in_channels, config.sample_size, config.sample_size)
    sample = {"latents": latents, "condition": {name: tensor[0] for name, tensor in condition.items()}}
    data = LatentBatches([sample], seed=0, batch_size=1, empty_condition=condition)
    return AblatedTrainer.of(ablation)(
        transformer, given.arguments, given.method(), data, callbacks=[], family="stable_diffusion_3"
    )


def student_factors(transformer) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in transformer.named_parameters() if ".default." in name}


FIRST_RANKED, *MORE_RANKED = (variant for variant in VARIANTS if "ranks" in variant.ablated)


@pytest.mark.parametrize(
    "variant",
    [FIRST_RANKED, *(pytest.param(variant, marks=pytest.mark.slow) for variant in MORE_RANKED)],
    ids=lambda variant: variant.name,
)
def test_ranks_by_kind_of_layer_have_no_more_weights(variant):
    shapes = []
    for ranks in (None, variant.ablated["ranks"]):
        with torch.device("meta"):
            trainer = ablated_trainer(FULL, Ablation(ranks=ranks), rank=64)
            trainer.prepare_transformer(trainer.given_model.requires_grad_(False))
        shapes.append(student_factors(trainer.given_model))
    everywhere, by_kind = (sum(shape.numel() for shape in each.values()) for each in shapes)
    assert 0.98 * everywhere < by_kind <= everywhere
    ranks = dict(pair.split("=") for pair in variant.ablated["ranks"])
    block = "transformer_blocks.0."
    for layer in ("norm1_context.linear", "attn.to_out.0", "attn.add_k_proj", "ff.net.2"):
        rank = int(ranks.get(layer, 64))
        assert shapes[1][f"{block}{layer}.lora_A.default.weight"][0] == rank
        assert trainer.given_model.get_submodule(block + layer).scaling["default"] == 1.0
    assert shapes[1]["proj_out.lora_A.default.weight"][0] == 64


def test_time_conditioning_alone_at_first():
    rates = {"learning_rate": 0.5, "time_conditioning_learning_rate": 0.25, "rank": 2, "twinflow_enabled": True}
    trainer = ablated_trainer(REHEARSAL, Ablation(align_steps=3), **rates)
    trainer.prepare()
    weights, conditioning = (group["params"] for group in trainer.optimizer.param_groups)
    before = [parameter.clone() for parameter in weights]
    seen, moved = [], []
    for batch in islice(trainer.loader, 5):
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])
        trainer.begin_step()
        trainer.train_micro_batch(batch)
        moved.append(any(not torch.equal(old, new) for old, new in zip(before, weights)))
    assert seen == [[0.0, 0.25]] * 3 + [[0.5, 0.25]] * 2
    assert moved == [False] * 3 + [True] * 2 and any(parameter.any() for parameter in conditioning)


def test_the_second_factor_has_its_own_rate():
    trainer = ablated_trainer(REHEARSAL, Ablation(second_factor_rate=4.0), rank=2, twinflow_enabled=True)
    transformer = trainer.given_model.requires_grad_(False)
    trainer.prepare_transformer(transformer)
    before = Trainer.build_parameter_groups(trainer, transformer, 0.5, 0.125)
    first, conditioning, second = trainer.build_parameter_groups(transformer, 0.5, 0.125)
    assert [group["lr"] for group in (first, conditioning, second)] == [0.5, 0.125, 2.0]
    assert {id(p) for p in first["params"] + second["params"]} == {id(p) for p in before[0]["params"]}
    assert conditioning["params"] == before[1]["params"]
    assert all(not parameter.any() for parameter in second["params"]) and second["params"]
    assert all(parameter.any() for parameter in first["params"])


@pytest.mark.parametrize("times", TIMES)
def test_student_and_teacher_get_the_ablated_times(times):
    trainer = ablated_trainer(REHEARSAL, Ablation(times=times), rank=2, twinflow_enabled=True)
    trainer.prepare()
    seen = []
    trainer.transformer.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    latents, condition = trainer.data.read(next(iter(trainer.loader)))
    t, r, sign = torch.tensor([0.8]), torch.tensor([0.4]), torch.tensor([-1.0])
    with torch.no_grad():
        trainer.networks.student(latents, t, r, sign, condition)
        with trainer.teacher.activated() as velocity:
            velocity(latents, t, r, sign, condition)
    assert [given["timestep"].item() for given in seen] == pytest.approx(
        [-800.0 if times == "negative" else 600.0] * 2
    )
    assert all(("target_timestep" in given) == (times == "negative") for given in seen)


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
