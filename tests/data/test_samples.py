import pickle
from dataclasses import replace

import pytest
import torch

from diffusers_twinflow.data.cache import DiskCache, MemoryCache
from diffusers_twinflow.data.captions import CaptionSource
from diffusers_twinflow.data.check import check_rows
from diffusers_twinflow.data.columns import keep_encoded
from diffusers_twinflow.data.framing import Framing
from diffusers_twinflow.data.latents import cache_latents
from diffusers_twinflow.data.loader import build_loader
from diffusers_twinflow.data.report import DataReport
from diffusers_twinflow.data.rows import load_rows
from diffusers_twinflow.data.samples import Samples
from diffusers_twinflow.families.encoding import LatentDistribution

SIZES = ((16, 16), (36, 20), (20, 36))


@pytest.fixture
def samples(files, cache_dir):
    """Samples of 12 images in three shapes with two caption columns."""

    def build(image_column="image", **framing) -> Samples:
        captions = CaptionSource(columns=("text", "other"), dropout_probability=0.2)
        folder = files.folder(12, SIZES)
        rows = load_rows(instance_data_dir=str(folder), cache_dir=cache_dir)
        rows = rows.map(lambda row: {"other": row["text"].replace("caption", "other")})
        rows = keep_encoded(rows, image_column, captions)
        checked = check_rows(rows, captions, image_column, DataReport(None))
        framing = Framing(((16, 16), (16, 24), (24, 16)), **framing)
        return Samples(checked, captions, framing, seed=0, repeats=2)

    return build


def run(samples, **options) -> dict[int, tuple[str, torch.Tensor]]:
    """Caption and pixels or latents at each position, over all processes."""
    options = {"seed": 0, "first_position": 0, "last_position": 48, "step_samples": 4, "batch_size": 4} | options
    found = {}
    for process in range(options.get("num_processes", 1)):
        for batch in build_loader(samples, **options, process_index=process):
            assert len(batch["position"]) == options["batch_size"]
            images = batch["latents"] if "latents" in batch else batch["pixels"]
            found |= dict(zip(batch["position"], zip(batch["caption"], images)))
    return found


def same(one, two) -> bool:
    return one.keys() == two.keys() and all(
        one[key][0] == two[key][0] and torch.equal(one[key][1], two[key][1]) for key in one
    )


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 1},
        {"batch_size": 2, "num_processes": 2},
        {"batch_size": 1, "num_processes": 4},
        {"num_workers": 2},
    ],
    ids=str,
)
def test_a_run_is_the_same_however_it_is_spread(samples, other):
    built = samples(center_crop=False, random_flip=True)
    assert same(run(built), run(built, **other))


def test_a_resumed_run_is_the_same(samples):
    built = samples(center_crop=False, random_flip=True)
    whole = run(built)
    resumed = run(built, last_position=20) | run(built, first_position=20)
    assert same(whole, resumed)
    assert len({pixels.shape for _, pixels in whole.values()}) == 3


def test_visits_of_one_image_differ_in_caption_crop_and_flip(samples):
    built = samples(center_crop=False, random_flip=True)
    visits = [built[(1, position)] for position in range(40)]
    assert {visit["caption"] for visit in visits} == {"", "caption 1", "other 1"}
    assert len({tuple(visit["pixels"].flatten().tolist()) for visit in visits}) > 10


def test_repeats_count_an_image_twice(samples):
    built = samples()
    assert len(built) == 24 and built.buckets().tolist() == built.buckets()[:12].tolist() * 2
    assert torch.equal(built[(3, 0)]["pixels"], built[(15, 0)]["pixels"])


def test_without_images_there_are_prompts_alone(samples):
    built = samples(image_column=None)
    assert set(built[(0, 0)]) == {"position", "caption"} and not built.buckets().any()
    assert len(built.all_captions()) == 25 and "" in built.all_captions()


@pytest.mark.parametrize("workers", [0, 1])
def test_cached_latents_are_of_the_very_pixels_of_each_position(samples, workers):
    built = samples(random_flip=True)
    fresh, seen = run(built), []

    def encode(pixels):
        seen.append(pixels.shape)
        return LatentDistribution(pixels.half())

    cache_latents(built, encode, MemoryCache(), batch_size=3, num_workers=workers)
    assert sum(shape[0] for shape in seen) == 24
    cached = run(built)
    assert same(cached, {position: (caption, pixels.half()) for position, (caption, pixels) in fresh.items()})


def test_samples_can_be_sent_to_workers_that_are_not_forked(samples, tmp_path):
    """On macOS, on Windows and from Python 3.14 on, worker processes get a pickled copy."""
    built = samples(random_flip=True)
    assert same(run(built), run(pickle.loads(pickle.dumps(built))))
    cache_latents(built, lambda pixels: LatentDistribution(pixels), DiskCache(tmp_path / "cache", {}), batch_size=3)
    assert same(run(built), run(pickle.loads(pickle.dumps(built))))


def test_equal_images_are_encoded_once(samples):
    built = samples()
    built.checked = replace(built.checked, facts=built.checked.facts.map(lambda fact: {"content": "same"}))
    count = []
    cache_latents(
        built, lambda pixels: count.append(len(pixels)) or LatentDistribution(pixels), MemoryCache(), batch_size=3
    )
    assert count == [1, 1, 1]
