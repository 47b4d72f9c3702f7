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
from latent.data import Encoded, draw_shapes, pack, pixels_of, unpack
from latent.judge import looks
from latent.packing import read_emoji
from latent.record import Record
from latent.report import grid_places
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
    assert drawing.image.size == (4, 4) and drawing.group_caption == "any some things"
    with pytest.raises(FileNotFoundError, match="unpack @lobehub/fluent-emoji-3d"):
        read_emoji(names, names, 4)


def test_packed_drawings_are_read_again(tmp_path):
    drawings = draw_shapes(32)
    pack(drawings, tmp_path / "drawings.zip")
    found = unpack(tmp_path / "drawings.zip", 32)
    assert [(each.caption, each.group) for each in found] == [(each.caption, each.group) for each in drawings]
    assert (pixels_of(found).float() - pixels_of(drawings).float()).abs().mean() < 8
    with pytest.raises(FileNotFoundError, match="packing.py"):
        unpack(tmp_path / "none.zip", 32)


def test_batches_have_every_sample_with_any_caption_and_a_tenth_of_empty_prompts():
    latents, captions = (
        torch.arange(20.0).view(20, 1),
        torch.stack([torch.arange(20), torch.arange(20) % 4 + 20], dim=1),
    )
    condition = {"c": torch.arange(100.0, 124).view(24, 1)}
    samples = Encoded(latents, condition, captions, {"c": torch.zeros(1, 1)}, batch_size=8)
    batches = [batch for batch, _ in zip(samples, range(100))]
    seen = torch.cat([batch["latents"] for batch in batches]).flatten()
    assert seen.long().bincount().tolist() == [40] * 20
    given = torch.cat([batch["condition"]["c"] for batch in batches]).flatten()
    is_empty, is_name = given == 0, given == seen + 100
    assert 0.05 < is_empty.float().mean() < 0.15
    assert 0.4 < is_name.float().mean() < 0.5
    is_group = ~is_empty & ~is_name
    assert torch.equal(given[is_group], seen[is_group] % 4 + 120)
    again = next(iter(samples))
    assert torch.equal(again["condition"]["c"], batches[0]["condition"]["c"]), "two iterations give the same batches"


def test_prompts_of_groups_are_in_proportion_to_the_drawings():
    drawings = draw_shapes(8)[:24]  # three shapes in eight colours
    prompts = Prompts.choose(drawings[:20], shared=40, known=4)
    counts = {caption: prompts.shared.count(caption) for caption in prompts.shared}
    assert counts == {"any circle": 16, "any square": 16, "any triangle": 8}
    assert len(set(prompts.known)) == 4 and not set(prompts.known) & set(prompts.shared)
    real = [drawings[place] for place in prompts.places]
    assert [drawing.group_caption for drawing in real[:40]] == prompts.shared
    assert [drawing.caption for drawing in real[40:]] == prompts.known


def test_grids_show_several_images_of_a_prompt():
    prompts = ["b", "a", "b", "c", "a", "b"]
    assert grid_places(prompts) == [0, 2, 1, 4]


def test_results_of_two_calls_are_kept(tmp_path):
    path = tmp_path / "latent.json"
    first, second = (Record(path, [stage]) for stage in ("one", "two"))
    for record, way in ((first, "one"), (second, "two")):
        record.report["commands"] = [way]
        record.report["rows"].append({"way": way, "steps": 1})
        record.report["ways"][way] = {}
        record.report["errors"][way] = "failed"
    first.save()
    second.save()
    first.save()
    assert first.row_of("two", 1) and first.report["ways"].keys() == {"one", "two"}
    assert first.own("errors") == {"one": "failed"} and first.report["commands"] == ["one", "two"]
    stored = Record(path, ["two"]).report
    assert stored["errors"] == {"one": "failed"}, "a new call forgets its own errors only"
    assert {row["way"] for row in stored["rows"]} == {"one", "two"}


def test_results_of_the_first_design_are_not_continued(tmp_path):
    (tmp_path / "latent.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(ValueError, match="--output_dir"):
        Record(tmp_path / "latent.json", [])


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
    assert [(row["way"], row["steps"]) for row in second["rows"][len(first["rows"]) :]] == [
        ("lora", 1),
        ("lora", 2),
        ("lora-any", 2),
    ]
    assert all(row["scores"]["fid"] > -1e-3 and "diversity" in row["scores"] for row in second["rows"])
    assert Image.open(tmp_path / "grid_1.jpg").size[1] > 3 * 32 and (tmp_path / "curve.png").is_file()


@pytest.mark.slow
def test_two_calls_share_a_base(tmp_path, script, monkeypatch):
    """The second call waits. Meanwhile the first one trains and scores the base and a way."""

    def call(*options):
        script.main(script.parse_args([f"--output_dir={tmp_path}", "--minutes=0.005", "--ways", *options]))

    monkeypatch.setattr(script.time, "sleep", lambda seconds: call("full", "--base_minutes=0.005"))
    call("lora", "--wait_for_base")
    report = json.loads((tmp_path / "latent.json").read_text())
    assert report["ways"].keys() == {"full", "lora"} and len(report["commands"]) == 2 and not report["errors"]
    rows = [(row["way"], row["steps"]) for row in report["rows"]]
    assert len(set(rows)) == len(rows) and {way for way, _ in rows} >= {"drawings", "base", "full", "lora"}
    assert report["seconds"].keys() == {"data", "judge", "base", "reference", "full", "lora"}


@pytest.mark.slow
def test_waiting_for_a_base_ends_with_the_time(tmp_path, script):
    args = [f"--output_dir={tmp_path}", "--total_minutes=1", "--minutes=2", "--ways", "full", "--wait_for_base"]
    with pytest.raises(SystemExit):
        script.main(script.parse_args(args))
    report = json.loads((tmp_path / "latent.json").read_text())
    assert "same --output_dir" in report["errors"]["wait"] and not report["rows"]


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
