"""Clips from the command line, of a tiny Wan with an untrained LoRA."""

import re

import numpy as np
import pytest
from gradio_client import Client
from peft import LoraConfig
from PIL import Image, ImageSequence

from diffusers_twinflow import TwinFlowPipeline, enable_twinflow, save_twinflow_lora
from diffusers_twinflow.cli import main
from diffusers_twinflow.cli.comparison import Comparison
from diffusers_twinflow.families import FAMILIES
from diffusers_twinflow.hub import TwinFlowRepositoryConfig
from diffusers_twinflow.hub.grids import GridLayout
from diffusers_twinflow.hub.sample_images import draw_frames
from diffusers_twinflow.schedulers import TwinFlowScheduler
from tests.families import tiny_videos

FRAMES, SIDE = 5, 32
SIZE = {"height": SIDE, "width": SIDE, "num_frames": FRAMES}


@pytest.fixture(scope="module")
def wan_adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    pipeline = tiny_videos.wan()
    pipeline.save_pretrained(folder / "base")
    transformer = enable_twinflow(pipeline.transformer)
    targets = FAMILIES["wan"].lora_target_modules
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    config = TwinFlowRepositoryConfig("lora", "wan", str(folder / "base"), max_sequence_length=8)
    (folder / "lora").mkdir()
    save_twinflow_lora(folder / "lora", transformer, config, TwinFlowScheduler())
    return folder / "lora"


@pytest.fixture(scope="module")
def pipeline(wan_adapter):
    pipeline = TwinFlowPipeline.from_pretrained(wan_adapter)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(command, adapter, *arguments) -> int:
    size = ("--height", SIDE, "--width", SIDE, "--device", "cpu")
    return main([command, *map(str, ("--adapter", adapter, *size, *arguments))])


def read_clip(path) -> tuple[list[Image.Image], set[int]]:
    """The frames of a file, and for how many milliseconds they are shown."""
    with Image.open(path) as image:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
        times = set()
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            times.add(round(image.info["duration"]))
    return frames, times


def closest(frames: list[Image.Image], drawn: list[Image.Image]) -> list[int]:
    """Which drawn frame each frame of a compressed clip is nearest to, by its pixels."""
    ours, theirs = (np.stack([np.asarray(image, dtype=float) for image in images]) for images in (frames, drawn))
    return np.abs(ours[:, None] - theirs[None]).mean((2, 3, 4)).argmin(1).tolist()


@pytest.mark.parametrize(("name", "duration"), [("clip.webp", 62), ("clip.gif", 60)])
def test_generate_writes_a_clip_that_plays(wan_adapter, pipeline, tmp_path, capsys, name, duration):
    out = tmp_path / name
    assert run("generate", wan_adapter, "a", "--num_frames", FRAMES, "--steps", 2, "--out", out) == 0
    assert capsys.readouterr().out.splitlines() == [str(out)]
    frames, times = read_clip(out)
    (expected,) = draw_frames(pipeline, ["a"], 2, **SIZE)
    assert len(frames) == FRAMES and times == {duration}
    assert closest(frames, expected) == list(range(FRAMES))


def test_several_clips_and_a_picture_without_a_length(wan_adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("generate", wan_adapter, "a", "b", "--num_frames", FRAMES) == 0
    assert [len(read_clip(f"twinflow-{i}.webp")[0]) for i in (1, 2)] == [FRAMES] * 2
    assert run("generate", wan_adapter, "a") == 0
    assert Image.open("twinflow.png").size == (SIDE, SIDE)


def test_compare_writes_strips_and_a_clip_of_all(wan_adapter, pipeline, tmp_path):
    arguments = ("a", "b", "--num_frames", FRAMES, "--steps", 1, 2, "--base_steps", 3)
    assert run("compare", wan_adapter, *arguments, "--out", tmp_path / "all.png") == 0
    strips = Image.open(tmp_path / "all.png")
    frames, _ = read_clip(tmp_path / "all-clip.webp")
    assert len(frames) == FRAMES
    comparison = Comparison(pipeline, [1, 2], 3, **SIZE)
    drawn = comparison.draw_all("b", 0)
    of_strips, of_clips = (
        GridLayout({label: [choose(drawn[label])] * 2 for label in comparison.labels}, ["a", "b"])
        for choose in (lambda each: each.image, lambda each: each.frames[0])
    )
    assert strips.size == tuple(of_strips.size) and frames[0].size == tuple(of_clips.size)
    for column, label in enumerate(comparison.labels):
        clip, cell = drawn[label], of_clips.boxes[1][column]
        assert closest([frame.crop(cell) for frame in frames], clip.frames) == list(range(FRAMES))
        assert strips.crop(of_strips.boxes[1][column]).tobytes() == clip.image.tobytes()


@pytest.mark.long
def test_the_page_plays_clips(pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "page"))
    comparison = Comparison(pipeline, [1], 2, **SIZE)
    from diffusers_twinflow.cli.demo_page import build_page  # it imports gradio, which no other test here needs

    page = build_page(comparison, title="t", prompt="a", seed=0)
    try:
        url = page.open(host="127.0.0.1", port=None, share=False)
        client = Client(url, download_files=tmp_path / "downloads", verbose=False)
        *clips, _, _ = client.predict("a", 0, api_name="/draw")
    finally:
        page.blocks.close()
    assert [len(read_clip(clip)[0]) for clip in clips] == [FRAMES] * 2


@pytest.mark.parametrize(
    ("frames", "out", "message"),
    [
        (6, "clip.webp", "--num_frames=6.*cut them to 5 or pad them to 9"),
        (0, "clip.png", "--num_frames=0 must be 1 or more"),
        (FRAMES, "clip.png", r"'clip.png' must end in .webp or .gif"),
    ],
)
def test_lengths_and_names_that_do_not_fit_are_told(wan_adapter, tmp_path, monkeypatch, capsys, frames, out, message):
    monkeypatch.chdir(tmp_path)
    assert run("generate", wan_adapter, "a", "--num_frames", frames, "--out", out) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["generate", "compare", "demo"])
def test_a_base_of_pictures_has_no_clips(adapter, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    prompt = [] if command == "demo" else ["a"]
    assert run(command, adapter, *prompt, "--num_frames", FRAMES) == 1
    assert f"--num_frames={FRAMES} is not valid for StableDiffusion3Pipeline" in capsys.readouterr().err
