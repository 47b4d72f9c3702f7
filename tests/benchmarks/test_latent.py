import importlib.util
import json

import pytest
import torch
from PIL import Image

from latent.autoencoder import (
    FILES,
    LATENT_CHANNELS,
    build_autoencoder,
    encode,
    normalize,
    psnr,
    reconstruct,
    set_statistics,
)
from latent.data import Encoded, draw_shapes, hold_out, pack, pixels_of, unpack
from latent.judge import looks
from latent.packing import read_emoji
from latent.scoring import Prompts
from latent.settings import FULL, REHEARSAL
from latent.timed import UNTIMED_STEPS, Clock
from latent.training import build_pipeline, encode_captions
from tests.benchmarks.test_quality_data import entry

CPU = torch.device("cpu")


def test_published_weights_are_read_by_their_own_names(tmp_path):
    """As the published files name them: the decoder has a layer without weights in front, the names have no prefix."""
    expected = build_autoencoder(seed=1)
    for part, name in FILES.items():
        shift = 1 if part == "decoder" else 0
        weights = {}
        for key, tensor in getattr(expected, part).layers.state_dict().items():
            place, _, rest = key.partition(".")
            weights[f"{int(place) + shift}.{rest}"] = tensor
        torch.save(weights, tmp_path / name)
    assert "13.pool.3.weight" in torch.load(tmp_path / FILES["encoder"], weights_only=True)
    assert "3.pool.0.weight" in torch.load(tmp_path / FILES["decoder"], weights_only=True)
    loaded = build_autoencoder(tmp_path).state_dict()
    assert loaded.keys() == expected.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.state_dict().items())
    assert not all(torch.equal(loaded[name], tensor) for name, tensor in build_autoencoder().state_dict().items())


def test_latents_are_normalized_as_pipelines_undo_it():
    autoencoder, pixels = build_autoencoder(), pixels_of(draw_shapes(32))
    latents = encode(autoencoder, pixels, CPU)
    assert latents.shape == (32, LATENT_CHANNELS, 4, 4)
    set_statistics(autoencoder, latents)
    normalized = normalize(autoencoder, latents)
    assert normalized.mean().abs() < 1e-4 and normalized.std() == pytest.approx(1, abs=1e-4)
    config = autoencoder.config
    assert torch.allclose(normalized / config.scaling_factor + config.shift_factor, latents, atol=1e-5)
    assert 0 < psnr(pixels[:2], reconstruct(autoencoder, pixels[:2], CPU)) < 60


def test_drawings_have_the_names_of_their_emoji(tmp_path):
    fluent, names = tmp_path / "fluent", tmp_path / "names"
    (fluent / "assets").mkdir(parents=True)
    names.mkdir()
    (names / "emoji.json").write_text(json.dumps([entry("RED APPLE", "1.png"), entry("pear", "2.png")]))
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(fluent / "assets" / "1.webp")
    Image.new("RGB", (8, 8)).save(fluent / "assets" / "3.webp")
    (drawing,) = read_emoji(fluent, names, 4)
    assert drawing.caption == "red apple" and drawing.image.getextrema() == ((255, 255),) * 3, "on white"
    assert drawing.image.size == (4, 4) and not drawing.is_held_out, "its words are in no other caption"
    with pytest.raises(FileNotFoundError, match="unpack @lobehub/fluent-emoji-3d"):
        read_emoji(names, names, 4)


def test_packed_drawings_are_read_again(tmp_path):
    drawings = draw_shapes(32)
    pack(drawings, tmp_path / "drawings.zip")
    found = unpack(tmp_path / "drawings.zip", 32)
    assert [(each.caption, each.group, each.is_held_out) for each in found] == [
        (each.caption, each.group, each.is_held_out) for each in drawings
    ]
    assert (pixels_of(found).float() - pixels_of(drawings).float()).abs().mean() < 8
    with pytest.raises(FileNotFoundError, match="packing.py"):
        unpack(tmp_path / "none.zip", 32)


def test_all_words_of_held_out_captions_are_known():
    captions = [drawing.caption for drawing in draw_shapes(8)] + ["a word of its own"]
    held_out = hold_out(captions, seed=0)
    known_words = {word for caption in captions if caption not in held_out for word in caption.split()}
    assert len(held_out) == 4 and all(set(caption.split()) <= known_words for caption in held_out)


def test_batches_have_every_sample_and_a_tenth_of_empty_prompts():
    latents = torch.arange(20.0).view(20, 1)
    samples = Encoded(latents, {"c": latents + 100}, {"c": torch.zeros(1, 1)}, batch_size=8)
    batches = [batch for batch, _ in zip(samples, range(100))]
    seen = torch.cat([batch["latents"] for batch in batches]).flatten()
    assert seen.long().bincount().tolist() == [40] * 20
    captions = torch.cat([batch["condition"]["c"] for batch in batches]).flatten()
    is_empty = captions == 0
    assert 0.05 < is_empty.float().mean() < 0.15
    assert torch.equal(captions[~is_empty], seen[~is_empty] + 100)
    again = next(iter(samples))
    assert torch.equal(again["latents"], batches[0]["latents"]), "two iterations give the same batches"


def test_prompts_have_three_parts():
    prompts = Prompts.choose(draw_shapes(32), REHEARSAL)
    lengths = {name: len(prompts.all[part]) for name, part in prompts.parts.items()}
    assert lengths == {"known": 4, "held_out": 4, "repeated": 4}
    assert not set(prompts.known) & set(prompts.held_out)
    assert prompts.all[prompts.parts["repeated"]][0] == prompts.all[prompts.parts["repeated"]][1]


def test_a_blurred_grey_image_is_less_sharp_and_saturated():
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(image.mean(1, keepdim=True), 5, stride=1, padding=2).expand(1, 3, 16, 16)
    sharp, dull = looks(image), looks(blurred)
    assert dull["sharpness"] < sharp["sharpness"] / 2 and dull["saturation"] == 0 < sharp["saturation"]


def test_the_learning_rate_ends_with_the_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("latent.timed.time.perf_counter", lambda: now[0])
    clock = Clock(minutes=1, warm_up=4, decay_share=0.5)
    factors = []
    while not clock.is_over:
        now[0] += 10 if clock.steps >= UNTIMED_STEPS else 100
        clock.tick()
        factors.append(clock.factor(clock.steps))
    assert factors[0] == 0.5 and factors[UNTIMED_STEPS] == 1.0, "untimed steps do not count"
    assert factors[-3:] == pytest.approx([2 / 3, 1 / 3, 0])
    usage = clock.usage()
    assert (usage.steps, usage.seconds, usage.seconds_per_step) == (UNTIMED_STEPS + 6, 60, 10)


def test_the_full_base_has_the_size_that_the_benchmark_is_for():
    with torch.device("meta"):
        pipeline = build_pipeline(["a fox"], FULL)
    parameters = sum(parameter.numel() for parameter in pipeline.transformer.parameters())
    assert 60e6 < parameters < 150e6


def test_captions_are_encoded_to_one_shape():
    pipeline = build_pipeline(["red circle", "blue line"], REHEARSAL)
    first, empty = encode_captions(pipeline, ["red circle"]), encode_captions(pipeline, [""])
    assert {name: tensor.shape for name, tensor in first.items()} == {n: t.shape for n, t in empty.items()}
    assert not torch.equal(first["pooled_prompt_embeds"], empty["pooled_prompt_embeds"])


@pytest.fixture
def script():
    from quality import ROOT

    spec = importlib.util.spec_from_file_location("latent_script", ROOT / "benchmarks" / "latent.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_rehearsal_compares_ways_and_continues(tmp_path, script):
    def run(*options):
        args = [f"--output_dir={tmp_path}", "--base_minutes=0.005", "--minutes=0.005", *options]
        script.main(script.parse_args(args))
        return json.loads((tmp_path / "latent.json").read_text())

    first = run("--ways", "full")
    assert {"drawings", "autoencoder", "base", "full"} <= {row["way"] for row in first["rows"]}
    assert first["ways"]["full"]["usage"]["steps"] > UNTIMED_STEPS and not first["errors"]
    second = run("--ways", "full", "lora")
    assert second["rows"][: len(first["rows"])] == first["rows"], "what is measured is not measured again"
    assert [(row["way"], row["steps"]) for row in second["rows"][len(first["rows"]) :]] == [("lora", 1), ("lora", 2)]
    assert all(row["scores"]["fid"] > -1e-3 and "diversity" in row["scores"] for row in second["rows"])
    assert Image.open(tmp_path / "grid_1.png").size[1] > 3 * 32 and (tmp_path / "curve.png").is_file()


@pytest.mark.slow
def test_a_failing_way_is_reported_and_the_others_run(tmp_path, script):
    args = [f"--output_dir={tmp_path}", "--base_minutes=0.005", "--minutes=0.005", "--ways", "authors", "lora"]
    with pytest.raises(SystemExit):
        script.main(script.parse_args(args))
    report = json.loads((tmp_path / "latent.json").read_text())
    assert report["errors"] == {
        "authors": "ValueError: 'authors' code, full weights' needs a checkout: give --authors DIR."
    }
    assert report["ways"].keys() == {"lora"}


@pytest.mark.slow
def test_no_stage_starts_that_does_not_fit(tmp_path, script):
    args = [f"--output_dir={tmp_path}", "--base_minutes=0.005", "--total_minutes=3", "--minutes=9", "--ways", "full"]
    script.main(script.parse_args(args))
    report = json.loads((tmp_path / "latent.json").read_text())
    assert report["skipped"].keys() == {"full"} and "full" not in report["ways"]
