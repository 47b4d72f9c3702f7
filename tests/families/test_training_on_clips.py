"""Video families trained on clips of real files by the training script."""

import json

import pytest
import torch
from PIL import Image

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data import DataConfig, TrainingData, open_source
from diffusers_twinflow.hub.grids import labelled_grid
from diffusers_twinflow.pipelines import TwinFlowPipeline
from tests import videos
from tests.families import kit, tiny_videos

CASES = [
    (kit.Case("wan", tiny_videos.wan, options=("--num_frames=9", "--image_column=video")), 3),
    (kit.Case("ltx_video", tiny_videos.ltx_video, options=("--num_frames=5", "--video_fps=5")), 2),
]
each_case = pytest.mark.parametrize(("case", "latent_frames"), CASES, ids=["wan", "ltx_video"])


@pytest.fixture
def clips(tmp_path):
    """Eight captioned videos of 9 frames at 10 a second, in a column that the case names: files, or "image" of GIFs."""

    def write(kind: str):
        folder = tmp_path / kind
        for i in range(8):
            videos.write_video(folder / f"{i}.{kind}", videos.frames(9, (40, 32), first=i % 4))
        rows = [{"file_name": f"{i}.{kind}", "text": f"{'ab'[i % 2]} video"} for i in range(8)]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return folder

    return write


def kind_of(case: kit.Case) -> str:
    return "mp4" if "--image_column=video" in case.options else "gif"


@pytest.mark.parametrize(
    ("case", "latent_frames"),
    [pytest.param(*CASES[0], id="wan", marks=pytest.mark.slow), pytest.param(*CASES[1], id="ltx_video")],
)
def test_a_lora_step_on_clips_to_a_video(case, latent_frames, script, clips, tmp_path, monkeypatch):
    base, out = tmp_path / "base", tmp_path / "out"
    case.pipeline.save_pretrained(base)
    shapes, velocity = set(), type(case.family).velocity

    def recorded(self, model):
        call = velocity(self, model)
        return lambda x_t, *arguments: shapes.add(tuple(x_t.shape[1:])) or call(x_t, *arguments)

    monkeypatch.setattr(type(case.family), "velocity", recorded)
    kit.train(script, case, base, clips(kind_of(case)), out, "lora")
    assert {shape[1] for shape in shapes} == {latent_frames}
    with Image.open(out / "samples" / "steps.png") as grid:
        strips = [Image.new("RGB", (4 * 32, 32))] * 2
        labelled = labelled_grid(dict.fromkeys(("base", "1 step", "2 steps", "4 steps"), strips), kit.PROMPTS)
        assert grid.size == labelled.size

    pipeline = TwinFlowPipeline.from_pretrained(out, merge=False)
    pipeline.set_progress_bar_config(disable=True)
    trained = kit.trained_layers(case.family.denoiser(pipeline), case.family.lora_target_modules)
    assert all(trained.values()), trained
    drawn = pipeline("a", height=32, width=32, num_frames=9, output_type="pt", max_sequence_length=8).frames
    assert drawn.shape == (1, 9, 3, 32, 32) and drawn.isfinite().all()


def open_data(case: kit.Case, folder, tmp_path, **options) -> TrainingData:
    options = {"image_column": "image", "resolution": 32, "num_frames": 5, "max_sequence_length": 8} | options
    source = {} if options.get("prompts_file") else {"instance_data_dir": str(folder)}
    config = DataConfig(**source, cache_dir=str(tmp_path / "datasets"), **options)
    source = open_source(config, tmp_path / "out")
    return TrainingData(source, case.family, case.pipeline, base_name="base", seed=0, batch_size=2)


@each_case
def test_cached_latents_are_of_the_clips(case, latent_frames, clips, tmp_path, monkeypatch):
    folder, encoded = clips("gif"), []
    encode = type(case.family).encode_distribution
    monkeypatch.setattr(
        type(case.family),
        "encode_distribution",
        lambda self, p, pixels: encoded.append(pixels) or encode(self, p, pixels),
    )
    for options in ({}, {}, {"num_frames": 9}, {"video_fps": 5.0}):
        cached = {"cache_latents": True, "cache_directory": str(tmp_path / "cache")}
        count = len(encoded)
        data = open_data(case, folder, tmp_path, **cached, **options)
        assert (len(encoded) == count) == (options == {} and count > 0)  # the same clips are encoded once
        latents, _ = data.read(next(iter(data.loader(first_position=0, last_position=2, step_samples=2))))
        frames = options.get("num_frames", 5)
        assert latents.shape == (2, latents.shape[1], 1 + (frames - 1) // 4, *latents.shape[3:])
    assert len({path.name for path in (tmp_path / "cache").iterdir()}) == 3


def test_without_videos_latents_have_the_length_of_the_clips(tmp_path):
    case, _ = CASES[0]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\nb")
    data = open_data(case, None, tmp_path, prompts_file=str(prompts), twinflow_image_free=True)
    assert data.blank.shape == (1, 16, 2, 4, 4)


@each_case
def test_lengths_that_the_autoencoder_cannot_take_are_refused(case, latent_frames, clips, tmp_path):
    with pytest.raises(TwinFlowConfigError, match="num_frames=6.*cut them to 5 or pad them to 9"):
        open_data(case, clips("gif"), tmp_path, num_frames=6)


def test_a_model_of_pictures_takes_no_clips(script, base_dir, image_dir, tmp_path):
    arguments = [f"--pretrained_model_name_or_path={base_dir}", f"--dataset_name={image_dir}", "--num_frames=5"]
    with pytest.raises(SystemExit, match="num_frames=5 is not valid for StableDiffusion3Pipeline"):
        script.main([*arguments, f"--output_dir={tmp_path}"])


def test_frames_differ_in_what_is_trained_on(clips, tmp_path):
    case, _ = CASES[0]
    data = open_data(case, clips("gif"), tmp_path)
    batch = next(iter(data.loader(first_position=0, last_position=2, step_samples=2)))
    assert batch["pixels"].shape == (2, 3, 5, 32, 32)
    brightness = batch["pixels"].mean((1, 3, 4))
    torch.testing.assert_close(brightness.diff(dim=1), torch.full((2, 4), 20 / 127.5), atol=0.02, rtol=0)
