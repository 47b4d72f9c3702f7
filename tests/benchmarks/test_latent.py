import importlib.util
import json

import pytest
import torch
from PIL import Image

from latent.autoencoder import (
    FILES,
    LATENT_CHANNELS,
    LatentStatistics,
    build_autoencoder,
    encode,
    normalize,
    psnr,
    set_statistics,
)
from latent.data import Encoded, draw_shapes, pixels_of, read_emoji
from latent.settings import FULL
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
    assert 0 < psnr(autoencoder, pixels[:2], CPU) < 60


def test_features_are_statistics_of_latents():
    autoencoder = build_autoencoder()
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    latents = encode(autoencoder, images.float() / 127.5 - 1, CPU)
    features = LatentStatistics(autoencoder)(images)
    assert features.shape == (2, LatentStatistics.num_features)
    assert torch.allclose(features[1, 5], latents[1, 5].mean()) and torch.allclose(
        features[0, LATENT_CHANNELS + 3], latents[0, 3].std()
    )


def test_drawings_have_the_names_of_their_emoji(tmp_path):
    fluent, names = tmp_path / "fluent", tmp_path / "names"
    (fluent / "assets").mkdir(parents=True)
    names.mkdir()
    (names / "emoji.json").write_text(json.dumps([entry("RED APPLE", "1.png"), entry("pear", "2.png")]))
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(fluent / "assets" / "1.webp")
    Image.new("RGB", (8, 8)).save(fluent / "assets" / "3.webp")
    (drawing,) = read_emoji(fluent, names, 4)
    assert drawing.caption == "red apple" and drawing.image.getextrema() == ((255, 255),) * 3, "on white"
    assert read_emoji(fluent, names, 4, limit=1) and drawing.image.size == (4, 4)
    with pytest.raises(FileNotFoundError, match="unpack @lobehub/fluent-emoji-3d"):
        read_emoji(names, names, 4)


def test_every_drawing_is_once_in_ten_rounds_without_its_caption():
    latents = torch.arange(20.0).view(20, 1)
    samples = Encoded(latents, {"c": latents + 100}, {"c": torch.zeros(1, 1)})
    assert len(samples) == 200
    empty = [int(sample["latents"]) for sample in samples if sample["condition"]["c"] == 0]
    assert sorted(empty) == list(range(20))
    with_caption = [sample for sample in samples if sample["condition"]["c"] != 0]
    assert all(sample["condition"]["c"] == sample["latents"] + 100 for sample in with_caption)


def test_the_full_base_has_the_size_that_the_benchmark_is_for():
    with torch.device("meta"):
        pipeline = build_pipeline(["a fox"], FULL)
    parameters = sum(parameter.numel() for parameter in pipeline.transformer.parameters())
    assert 60e6 < parameters < 150e6


def test_captions_are_encoded_to_one_shape():
    from latent.settings import REHEARSAL

    pipeline = build_pipeline(["red circle", "blue line"], REHEARSAL)
    first, empty = encode_captions(pipeline, ["red circle"]), encode_captions(pipeline, [""])
    assert {name: tensor.shape for name, tensor in first.items()} == {n: t.shape for n, t in empty.items()}
    assert not torch.equal(first["pooled_prompt_embeds"], empty["pooled_prompt_embeds"])


@pytest.mark.slow
@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_the_rehearsal_trains_distils_and_scores(tmp_path, train_type):
    from quality import ROOT

    spec = importlib.util.spec_from_file_location("latent_script", ROOT / "benchmarks" / "latent.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(script.parse_args([f"--output_dir={tmp_path}", f"--train_type={train_type}"]))
    report = json.loads((tmp_path / "latent.json").read_text())
    labels = [row["label"] for row in report["rows"]]
    assert labels[0] == "base, 4 steps" and labels[-2:] == ["TwinFlow, 1 step", "TwinFlow, 2 steps"]
    assert all(row["error"] is None and row["scores"]["fid"] >= 0 for row in report["rows"])
    assert Image.open(tmp_path / f"scores-{train_type}" / "grid.png").size[0] > 9 * 32
