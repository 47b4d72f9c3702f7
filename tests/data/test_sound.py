"""The sound of clips, decoded from real files."""

import json

import numpy as np
import pytest
import torch

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data import Clip, DataConfig, open_source
from diffusers_twinflow.data.config import DataOptions
from diffusers_twinflow.data.sound import read_sound, sound_of
from diffusers_twinflow.families.sound import SoundFormat
from tests import videos

CLIP = Clip(8, sound_fps=10.0)
STEREO, MONO = SoundFormat(16_000, 2, 8_000), SoundFormat(16_000, 1, 8_000)


def file(path, **options):
    options = {"sound": videos.tone(1.0)} | options
    return {"bytes": None, "path": str(videos.write_video(path, videos.frames(10), **options))}


def expected(sound_format: SoundFormat) -> np.ndarray:
    """The tone at the rate of the format, without a resampler."""
    times = np.arange(sound_format.num_samples) / sound_format.sample_rate
    wave = 0.5 * np.sin(2 * np.pi * 440.0 * times)
    return np.stack([wave / (1 + i) for i in range(sound_format.channels)])


@pytest.mark.parametrize("kind", ["mkv", "mp4", "webm"])
def test_sound_starts_with_the_first_frame(kind, tmp_path):
    waveform = read_sound(file(tmp_path / f"a.{kind}"), CLIP, STEREO)
    assert waveform.shape == (2, 8_000) and waveform.dtype == np.float32
    error = np.abs(waveform - expected(STEREO))[:, 200:7_800]  # resamplers differ at the ends
    assert error.max() < 0.002 if kind == "mkv" else error.mean() < 0.02  # the error of one sample's delay is 0.04


def test_mono_is_copied_to_both_channels_and_mono_is_their_mean(tmp_path):
    from_mono = read_sound(file(tmp_path / "a.mkv", sound=videos.tone(1.0, channels=1)), CLIP, STEREO)
    np.testing.assert_array_equal(from_mono[0], from_mono[1])
    np.testing.assert_allclose(from_mono[0, 200:7_800], expected(MONO)[0, 200:7_800], atol=0.002)
    to_mono = read_sound(file(tmp_path / "b.mkv"), CLIP, MONO)
    np.testing.assert_allclose(to_mono[0, 200:7_800], 0.75 * expected(MONO)[0, 200:7_800], atol=0.002)


def test_surround_sound_is_mixed_to_two_channels(tmp_path):
    sound = np.zeros((6, videos.SOUND_RATE), dtype=np.float32)
    sound[:2] = videos.tone(1.0)
    waveform = read_sound(file(tmp_path / "a.mkv", sound=sound), CLIP, STEREO)
    assert waveform.shape == (2, 8_000) and 0.2 < waveform[0].max() <= 1


def test_sound_that_starts_late_or_ends_early_is_silent_there(tmp_path):
    late = read_sound(file(tmp_path / "a.mkv", sound_start=0.25), CLIP, STEREO)
    assert not late[:, :3_900].any() and np.abs(late[:, 4_100:]).max() > 0.4
    np.testing.assert_allclose(late[:, 4_200:7_800], expected(STEREO)[:, 200:3_800], atol=0.002)
    early = read_sound(file(tmp_path / "b.mkv", sound=videos.tone(0.25)), CLIP, STEREO)
    assert not early[:, 4_100:].any() and np.abs(early[:, :3_900]).max() > 0.4


def test_without_a_sound_track_the_sound_counts_nothing(tmp_path):
    frames = [{"bytes": None, "path": str(tmp_path / "a.png")}]
    videos.frames(1)[0].save(tmp_path / "a.png")
    gif = {"bytes": None, "path": str(videos.write_video(tmp_path / "a.gif", videos.frames(10)))}
    for value, clip in ((file(tmp_path / "a.mp4", sound=None), CLIP), (gif, CLIP), (frames, CLIP), (frames[0], None)):
        sample = sound_of(value, clip, STEREO)
        assert not sample["sound"].any() and sample["sound"].shape == (2, 8_000)
        assert sample["part_weights"].tolist() == [1.0, 0.0]
    quiet = sound_of(file(tmp_path / "b.mkv", sound=videos.tone(1.0, volume=0.0)), CLIP, STEREO)
    assert not quiet["sound"].any() and quiet["part_weights"].tolist() == [1.0, 1.0]


def test_files_are_read_at_the_rate_of_the_model(tmp_path):
    value = file(tmp_path / "a.mkv")
    assert videos.numbers(Clip(5, sound_fps=5.0).decode(value)) == [0, 2, 4, 6, 8]
    frames = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(3)]
    for i, image in enumerate(videos.frames(3)):
        image.save(tmp_path / f"{i}.png")
    assert videos.numbers(Clip(3, sound_fps=5.0).decode(frames)) == [0, 1, 2]


def test_another_rate_is_refused():
    options = DataOptions(instance_data_dir="clips", num_frames=9, video_fps=16.0)
    with pytest.raises(TwinFlowConfigError, match="video_fps=16 is not valid .* 24 frames per second with sound"):
        DataConfig.from_options(options, sound_fps=24.0)
    assert DataConfig.from_options(options).clip == Clip(9, 16.0)


def test_a_clip_with_broken_sound_is_reported(tmp_path, cache_dir):
    """Its frames are whole. A model without sound takes it."""
    folder = tmp_path / "clips"
    for name in ("whole", "broken"):
        file(folder / f"{name}.mp4", sound=np.random.default_rng(0).uniform(-1, 1, (2, 48_000)).astype(np.float32))
    damage(folder / "broken.mp4")
    lines = [json.dumps({"file_name": f"{name}.mp4", "text": name}) for name in ("whole", "broken")]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    options = {"instance_data_dir": str(folder), "image_column": "video", "num_frames": 8, "cache_dir": cache_dir}
    for sound_fps, used in ((10.0, 1), (None, 2)):
        source = open_source(DataConfig(**options, sound_fps=sound_fps), tmp_path / "out")
        assert len(source.rows.rows) == used


def damage(path) -> None:
    """Overwrite the packets of the sound."""
    import av

    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    content = bytearray(path.read_bytes())
    for start, size in packets:
        content[start : start + size] = bytes(255 for _ in range(size))
    path.write_bytes(content)


def test_sound_is_a_tensor_of_the_format(tmp_path):
    sound = sound_of(file(tmp_path / "a.mkv"), CLIP, STEREO)["sound"]
    assert sound.dtype == torch.float32 and sound.abs().max() <= 1
