"""From options to latents and conditions, with a real pipeline."""

import json

import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data import DataConfig, TrainingData, open_source
from diffusers_twinflow.data.encoders import encoder_modules, size_multiple, weights_identity
from diffusers_twinflow.data.samples import collate
from diffusers_twinflow.families import family_of
from tests import tiny

SIZES = ((16, 16), (30, 20), (20, 36))


@pytest.fixture(scope="module")
def pipeline():
    return tiny.sd3_pipeline()


@pytest.fixture
def build(files, cache_dir, tmp_path, pipeline):
    folder = files.folder(12, SIZES)

    def data(of=pipeline, batch_size=2, **options) -> TrainingData:
        source = {} if options.get("prompts_file") else {"instance_data_dir": str(folder)}
        options = {"cache_dir": cache_dir, "resolution": 16, "max_sequence_length": 2} | source | options
        return TrainingData(
            open_source(DataConfig(**options), tmp_path / "out"),
            family_of(of),
            of,
            base_name="base",
            seed=0,
            batch_size=batch_size,
        )

    return data


@pytest.fixture
def encoded(monkeypatch):
    """What the family was asked to encode."""
    calls = {"prompts": [], "images": 0}
    family = type(family_of(tiny.sd3_pipeline()))
    encode_prompts, encode_images = family.encode_prompts, family.encode_distribution

    def count_prompts(self, pipeline, prompts, *args, **kwargs):
        calls["prompts"] += prompts
        return encode_prompts(self, pipeline, prompts, *args, **kwargs)

    def count_images(self, pipeline, pixels):
        calls["images"] += len(pixels)
        return encode_images(self, pipeline, pixels)

    monkeypatch.setattr(family, "encode_prompts", count_prompts)
    monkeypatch.setattr(family, "encode_distribution", count_images)
    return calls


def read_all(data, steps: int = 12) -> dict:
    """Latents and conditions by position."""
    found = {}
    for batch in data.loader(first_position=0, last_position=4 * steps, step_samples=4):
        latents, condition = data.read(batch)
        for i, position in enumerate(batch["position"]):
            found[position] = latents[i], {name: tensor[i] for name, tensor in condition.items()}
    return found


def assert_same(one, two) -> None:
    assert one.keys() == two.keys()
    for position in one:
        torch.testing.assert_close(one[position], two[position])


CACHED = {"cache_latents": True, "cache_text_embeddings": True}


@pytest.mark.parametrize("options", [{}, {"random_flip": True}, {"aspect_ratio_buckets": "auto"}], ids=str)
def test_kept_on_disk_in_memory_and_read_again_are_the_same(build, tmp_path, encoded, options):
    in_memory = read_all(build(**CACHED, **options))
    on_disk = CACHED | options | {"cache_directory": str(tmp_path / "cache")}
    assert_same(in_memory, read_all(build(**on_disk)))
    encoded |= {"prompts": [], "images": 0}
    assert_same(in_memory, read_all(build(**on_disk)))
    assert encoded == {"prompts": [], "images": 0}


@pytest.mark.parametrize(
    "other",
    [{"batch_size": 1}, {"batch_size": 4}, {"cache_latents": True}, {"cache_latents": True, "random_flip": True}],
    ids=str,
)
def test_latents_depend_on_the_position_in_the_run_alone(build, other):
    """Not on batches, caches or the random numbers of the process."""
    flips = {"random_flip": True} if "random_flip" in other else {}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = read_all(build(**flips))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = read_all(build(**flips | other))
    assert whole.keys() == again.keys()
    for position in whole:
        torch.testing.assert_close(whole[position][0], again[position][0], rtol=0, atol=1e-5)


def test_visits_of_one_image_draw_other_latents_from_one_distribution(build):
    data = build(**CACHED)
    (key,) = {key for key in data.samples.latents if key.startswith(data.samples.facts[0]["content"])}
    mean, std = (data.samples.latents[key][name] for name in ("latents", "latents_std"))
    batch = collate([data.samples[(0, position)] for position in range(400)])
    visits = (data.read(batch)[0] - mean) / std
    assert visits.mean().abs() < 0.01 and abs(visits.std() - 1) < 0.01
    assert (visits[0] - visits[1]).abs().max() > 0.1
    data.seed = 1
    assert ((data.read(batch)[0][0] - mean) / std - visits[0]).abs().max() > 0.1


def test_every_prompt_and_image_is_encoded_once(build, encoded):
    build(**CACHED, random_flip=True, repeats=3)
    assert sorted(encoded["prompts"]) == ["", *sorted(f"caption {i}" for i in range(12))]
    assert encoded["images"] == 24


@pytest.mark.parametrize(
    "change",
    [{"resolution": 32}, {"max_sequence_length": 4}, {"aspect_ratio_buckets": "16,16;16,24"}],
    ids=str,
)
def test_what_changes_the_result_is_encoded_anew(build, encoded, tmp_path, change):
    options = CACHED | {"cache_directory": str(tmp_path / "cache")}
    build(**options)
    encoded |= {"prompts": [], "images": 0}
    build(**options | change)
    assert (encoded["images"] == 0) == ("max_sequence_length" in change)
    assert (encoded["prompts"] == []) == ("max_sequence_length" not in change)


def test_other_weights_and_dtypes_are_another_identity(pipeline):
    names = {weights_identity(pipeline.vae), weights_identity(pipeline.text_encoder)}
    other = tiny.sd3_pipeline(seed=1)
    names |= {weights_identity(other.vae), weights_identity(other.vae.to(torch.float16))}
    assert len(names) == 4
    assert weights_identity(pipeline.vae) == weights_identity(pipeline.vae)


def test_encoders_are_off_the_device_where_all_is_encoded(build, monkeypatch):
    """Nothing may use the trained network while the others encode: its weights have no data."""
    pipeline = tiny.sd3_pipeline()
    monkeypatch.setattr(pipeline, "transformer", pipeline.transformer.to("meta"))
    monkeypatch.setattr(type(pipeline.transformer), "to", lambda self, *args, **kwargs: self)
    data = build(of=pipeline, **CACHED)
    assert data.is_offloaded and len(read_all(data)) == 48
    moved = []
    for module in data.encoders.values():
        monkeypatch.setattr(module, "to", lambda device, module=module: moved.append((module, str(device))))
    with data.with_encoders():
        assert [device for _, device in moved] == [str(data.device)] * 3
    assert [device for _, device in moved[3:]] == ["cpu"] * 3


def test_encoders_stay_where_something_is_left_to_encode(build):
    for options in ({}, {"cache_latents": True}, {"cache_text_embeddings": True}, {"streaming": True}):
        assert not build(**options).is_offloaded
    assert build(cache_text_embeddings=True, twinflow_image_free=True).is_offloaded


def test_encoders_are_all_networks_but_the_trained_one(pipeline):
    assert set(encoder_modules(pipeline, ["transformer"])) == {"vae", "text_encoder", "text_encoder_2"}
    assert size_multiple(pipeline, pipeline.transformer) == 4


def test_free_crops_cannot_be_cached(build):
    with pytest.raises(TwinFlowConfigError, match="cache_latents.*row 1 .*30x20.*`center_crop`"):
        build(cache_latents=True, center_crop=False)


def test_prompts_alone_for_training_without_images(build, files, encoded):
    data = build(prompts_file=files.text("prompts.txt", "a fox\n\na hare\n"), twinflow_image_free=True)
    found = read_all(data, 2)
    assert all(torch.equal(latents, torch.zeros(4, 8, 8)) for latents, _ in found.values())
    assert set(encoded["prompts"]) == {"a fox", "a hare"} and encoded["images"] == 1
    assert data.source.report.totals == {"samples": 3, "trained_on": 2}


def test_images_are_not_read_for_training_without_them(build, encoded):
    read_all(build(twinflow_image_free=True))
    assert encoded["images"] == 1


def test_a_stream_gives_latents_and_conditions(build, encoded):
    data = build(streaming=True, cache_text_embeddings=True)
    assert len(read_all(data)) == 48
    assert sorted(encoded["prompts"]) == sorted(f"caption {i}" for i in range(12))
    with pytest.raises(TwinFlowConfigError, match="num_train_epochs.*max_train_steps"):
        data.epoch_size()


def test_an_epoch_counts_repeats(build):
    assert build(repeats=3).epoch_size() == 36


def test_a_cache_serves_the_same_images_and_captions_of_another_folder(build, files, tmp_path, encoded):
    options = CACHED | {"cache_directory": str(tmp_path / "cache")}
    build(**options)
    encoded |= {"prompts": [], "images": 0}
    same, rows = files.folder(12, SIZES), []
    for i in range(12):
        old = next(same.glob(f"{i}.*"))
        rows.append(json.dumps({"file_name": f"renamed-{99 - i}{old.suffix}", "text": f"caption {i}"}))
        old.rename(same / f"renamed-{99 - i}{old.suffix}")
    (same / "metadata.jsonl").write_text("\n".join(reversed(rows)))
    build(**options, instance_data_dir=str(same))
    assert encoded == {"prompts": [], "images": 0}
