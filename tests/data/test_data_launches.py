"""The training script with every kind of data."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusers_twinflow.training.trainer import Trainer
from tests.fresh_accelerator import new_accelerator_state  # noqa: F401


@pytest.fixture
def arguments(base_dir, cache_dir, tmp_path):
    """Arguments of a short run of four samples a step, into a directory of that name."""

    def build(output: str, **options) -> list[str]:
        options = {
            "pretrained_model_name_or_path": base_dir,
            "output_dir": tmp_path / output,
            "cache_dir": cache_dir,
            "resolution": 16,
            "max_sequence_length": 2,
            "train_batch_size": 4,
            "max_train_steps": 4,
            "checkpointing_steps": 2,
            "rank": 2,
            # Adam with so large an epsilon is plain gradient descent: rounding does not flip the sign of an update.
            "learning_rate": 10,
            "adam_epsilon": 10,
        } | options
        switches = ["--twinflow_enabled", *(f"--{name}" for name, value in options.items() if value is True)]
        return switches + [f"--{name}={value}" for name, value in options.items() if value is not True]

    return build


def trained(directory: Path, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(directory / f"checkpoint-{step}" / "trained_weights.safetensors")


def assert_same(one: dict, two: dict, **tolerance) -> None:
    for name in one:
        torch.testing.assert_close(one[name], two[name], **tolerance)


@pytest.mark.slow
def test_two_processes_share_buckets_caches_and_report(start, script, arguments, files, tmp_path):
    captions = [f"caption {i}" if i != 7 else None for i in range(20)]
    folder = files.folder(20, ((16, 16), (30, 20), (20, 36)), captions)
    (folder / "4.png").write_bytes(b"no picture")
    options = {
        "instance_data_dir": folder,
        "aspect_ratio_buckets": "auto",
        "random_flip": True,
        "cache_latents": True,
        "cache_text_embeddings": True,
    }
    cache = tmp_path / "cache"
    two = start(arguments("two", **options, cache_directory=cache, train_batch_size=2), 2)
    log = two.check()
    assert log.count("data: 1 corrupt images, 1 missing captions") == 1
    assert json.loads((tmp_path / "two" / "data_report.json").read_text())["trained_on"] == 18

    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    encoded = Counter(key for path in written for key in load_file(path))
    assert set(encoded.values()) == {1}
    assert sum(key.endswith("/latents") for key in encoded) == 2 * 18
    assert sum(key.endswith("/prompt_embeds") for key in encoded) == 18 + 1

    script.main(arguments("one", **options, cache_directory=cache))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")} == written
    early, one, two = trained(tmp_path / "one", 2), trained(tmp_path / "one"), trained(tmp_path / "two")
    assert max((one[name] - early[name]).abs().max() for name in one) > 1e-2
    assert_same(one, two, rtol=1e-4, atol=5e-5)


@pytest.mark.slow
def test_two_processes_draw_the_latents_that_one_draws(start, script, arguments, files, tmp_path):
    """Without a cache, and with one, which gives the same latents."""
    options = {"instance_data_dir": files.folder(12)}
    start(arguments("two", **options, train_batch_size=2), 2).check()
    script.main(arguments("one", **options))
    script.main(arguments("cached", **options, cache_latents=True))
    early, one = trained(tmp_path / "one", 2), trained(tmp_path / "one")
    assert max((one[name] - early[name]).abs().max() for name in one) > 1e-2
    for other in ("two", "cached"):
        assert_same(one, trained(tmp_path / other), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("streaming", [pytest.param(False, marks=pytest.mark.slow), True])
def test_images_encoded_as_they_come_resume_bit_for_bit(script, arguments, files, tmp_path, streaming):
    options = {"caption_dropout_probability": 0.3, "random_flip": True} | ({"streaming": True} if streaming else {})
    data_files = files.parquet(10, files=2)

    def run(output: str, **more) -> None:
        script.main([*arguments(output, **options, **more), "--data_files", *data_files])

    run("whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "stopped" / "checkpoint-2")
    run("stopped", resume_from_checkpoint="latest")
    assert_same(trained(tmp_path / "whole"), trained(tmp_path / "stopped"), rtol=0, atol=0)


def test_prompts_alone_train_without_images(script, arguments, files, tmp_path):
    prompts = files.text("prompts.txt", "a fox\na hare\n")
    script.main(arguments("out", prompts_file=prompts, twinflow_image_free=True, cache_text_embeddings=True))
    assert all(tensor.isfinite().all() for tensor in trained(tmp_path / "out").values())


def test_bad_samples_stop_the_run_before_a_model_is_loaded(script, arguments, files, monkeypatch):
    folder = files.folder(4, captions=["a", None, "b", "c"])
    monkeypatch.setattr(Trainer, "load_pipeline", lambda self: pytest.fail("the model was loaded"))
    with pytest.raises(SystemExit, match="1 missing captions.*1.jpg.*--stop_on_bad_samples"):
        script.main(arguments("out", instance_data_dir=folder, stop_on_bad_samples=True))
