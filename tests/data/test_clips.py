import json
import os
import struct

import av
import pytest
import torch
from datasets import load_dataset

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.captions import CaptionSource
from diffusers_twinflow.data.check import check_rows
from diffusers_twinflow.data.clips import Clip, at_rate
from diffusers_twinflow.data.columns import keep_encoded, unlisted_images
from diffusers_twinflow.data.draws import SampleDraw
from diffusers_twinflow.data.framing import Framing
from diffusers_twinflow.data.report import MISSING_CAPTIONS, DataReport, Fault
from diffusers_twinflow.data.rows import load_rows
from diffusers_twinflow.data.samples import Samples
from diffusers_twinflow.data.stream import StreamedSamples
from tests import videos

KINDS = ("mp4", "mkv", "webm", "gif", "webp")


def table(folder, rows: list[dict], name: str = "metadata.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder / name


@pytest.fixture
def folder(tmp_path):
    """Videos of 9 frames in two sizes, then a short one, a broken one, one without a caption and one without a row."""
    directory = tmp_path / "videos"
    for i, size in enumerate([(32, 32), (48, 32), (32, 32), (32, 32), (32, 32), (32, 32)]):
        videos.write_video(directory / f"{i}.mp4", videos.frames(3 if i == 2 else 9, size, first=i))
    whole = (directory / "3.mp4").read_bytes()
    (directory / "3.mp4").write_bytes(whole[: len(whole) // 2])
    table(directory, [{"file_name": f"{i}.mp4", "text": "" if i == 4 else f"caption {i}"} for i in range(5)])
    return directory


@pytest.mark.parametrize("inside", [False, True], ids=["path", "bytes"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_cut_from_its_beginning(kind, inside, tmp_path):
    path = videos.write_video(tmp_path / f"a.{kind}", videos.frames(11), fps=10)
    value = {"bytes": path.read_bytes(), "path": None} if inside else {"bytes": None, "path": str(path)}
    assert videos.numbers(Clip(9).decode(value)) == list(range(9))
    assert videos.numbers(Clip(5, fps=5).decode(value)) == [0, 2, 4, 6, 8]
    assert videos.numbers(Clip(11, fps=10).decode(value)) == list(range(11))
    with pytest.raises(ValueError, match="11 frames, and num_frames=13"):
        Clip(13).decode(value)
    with pytest.raises(ValueError, match="6 frames at 5 a second, and num_frames=9"):
        Clip(9, fps=5).decode(value)


@pytest.mark.parametrize(
    ("times", "fps", "expected"),
    [
        ([0, 0.1, 0.2, 0.3], 10, [0, 1, 2, 3]),
        ([7.0, 7.1, 7.2, 7.3], 5, [0, 2]),
        ([0, 0.125, 0.25], 16, [0, 1, 1, 2, 2, 2]),
        ([0, 0.033, 0.067, 0.1, 0.133], 30, [0, 1, 2, 3, 4]),
        ([0, 0.1, 0.45, 0.6], 10, [0, 1, 1, 2, 2, 2, 3]),
        ([0], 10, [0]),
        ([], 10, []),
    ],
)
def test_the_frame_nearest_in_time_is_taken(times, fps, expected):
    assert list(at_rate(((time, number) for number, time in enumerate(times)), fps)) == expected


def test_a_video_is_turned_as_its_file_says(tmp_path):
    """A phone's portrait: stored with its top at the left."""
    frame = videos.frames(1, (48, 32), first=1)[0]
    frame.paste((220,) * 3, (0, 0, 48, 16))
    path = videos.write_video(tmp_path / "a.mp4", [frame] * 3)
    stored = path.read_bytes()
    matrix = stored.index(b"tkhd") + 4 + 40
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 32 << 16, 0, 1 << 30)
    path.write_bytes(stored[:matrix] + turned + stored[matrix + len(turned) :])
    shown = Clip(3).decode({"bytes": None, "path": str(path)})[2]
    assert shown.size == (32, 48)
    assert shown.getpixel((28, 24))[0] > 200 and shown.getpixel((4, 24))[0] < 40


def test_frames_of_several_sizes_are_refused(tmp_path):
    frames = [*videos.frames(2), *videos.frames(2, (16, 16))]
    for i, frame in enumerate(frames):
        frame.save(tmp_path / f"{i}.png")
    value = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(4)]
    assert len(Clip(2).decode(value)) == 2
    with pytest.raises(ValueError, match="several sizes"):
        Clip(4).decode(value)


def test_a_playlist_named_like_a_video_opens_no_other_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    whole = next(path for path in sorted(folder.glob("*.mp4")))
    playlist = folder / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {whole.name}\n")
    assert len(Clip(1).decode({"bytes": None, "path": str(whole)})) == 1
    for value in ({"bytes": None, "path": str(playlist)}, {"bytes": playlist.read_bytes(), "path": None}):
        with pytest.raises(av.error.FFmpegError):
            Clip(1).decode(value)


def test_a_fifo_named_like_a_video_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="a FIFO"):
        Clip(1).decode({"bytes": None, "path": str(tmp_path / "a.mp4")})


def open_folder(folder, cache_dir, clip=None, column="video"):
    rows = load_rows(instance_data_dir=str(folder), cache_dir=cache_dir)
    return keep_encoded(rows, column, CaptionSource(), clip=clip or Clip(9))


def test_faulty_videos_are_counted_and_named(folder, cache_dir, tmp_path):
    rows = open_folder(folder, cache_dir)
    report = DataReport(tmp_path / "report.json")
    left_out = [Fault(MISSING_CAPTIONS, path, "no row names it") for path in unlisted_images(rows, "video")]
    checked = check_rows(rows, CaptionSource(), "video", report, clip=Clip(9), left_out=left_out)
    assert checked.facts["captions"] == [["caption 0"], ["caption 1"]]
    assert checked.facts["width"] == [32, 48]
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["samples"] == 6 and found["trained_on"] == 2
    corrupt, missing = found["corrupt_images"]["samples"], found["missing_captions"]["samples"]
    assert [name.split("/")[-1] for name in corrupt] == ["2.mp4)", "3.mp4)"]
    assert "3 frames, and num_frames=9" in next(iter(corrupt.values()))
    assert sorted(name.split("/")[-1].strip(")") for name in missing) == ["4.mp4", "5.mp4"]
    shorter = check_rows(rows, CaptionSource(), "video", DataReport(None), clip=Clip(3))
    assert len(shorter.rows) == 3


def test_all_frames_are_cut_alike_in_the_bucket_of_their_size(folder, cache_dir):
    checked = check_rows(open_folder(folder, cache_dir), CaptionSource(), "video", DataReport(None), clip=Clip(9))
    framing = Framing(((16, 16), (16, 24)), center_crop=False, random_flip=True)
    samples = Samples(checked, CaptionSource(), framing, seed=0)
    assert samples.buckets().tolist() == [0, 1]
    assert samples[(0, 0)]["pixels"].shape == (3, 9, 16, 16) and samples[(1, 1)]["pixels"].shape == (3, 9, 16, 24)

    ramp = videos.frames(1, (40, 20))[0]
    for x in range(40):
        ramp.paste((6 * x,) * 3, (x, 0, x + 1, 20))
    draw = SampleDraw(dropout=1.0, caption=0.0, left=0.7, top=0.2, flip=0.1)
    clip = framing.pixels([ramp] * 3, 0, draw)
    assert clip.shape == (3, 3, 16, 16) and torch.equal(clip, clip[:, :1].expand_as(clip))
    assert torch.equal(clip[:, 0], framing.pixels(ramp, 0, draw))


def layouts(folder, tmp_path) -> dict:
    """The first two videos of the folder in every layout, and the column they are in."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(2):
        for j, frame in enumerate(videos.frames(9, first=i)):
            frame.save(frames / f"{i}-{j}.png")
    lists = [[f"{i}-{j}.png" for j in range(9)] for i in range(2)]
    paths = [{"clip": str(folder / f"{i}.mp4"), "text": f"caption {i}"} for i in range(2)]
    table(frames, [{"frames_file_names": names, "text": f"caption {i}"} for i, names in enumerate(lists)])
    path_lists = [{"clip": [str(frames / name) for name in names], "text": "a"} for names in lists]
    webm = tmp_path / "webm"
    for i in range(2):
        videos.write_video(webm / f"{i}.webm", videos.frames(9, first=i))
    table(webm, [{"file_name": f"{i}.webm", "text": f"caption {i}"} for i in range(2)])
    parquet = tmp_path / "frames.parquet"
    load_dataset("imagefolder", data_dir=str(frames), split="train").to_parquet(parquet)
    return {
        "folder": ({"instance_data_dir": str(folder)}, "video"),
        "folder by name": ({"dataset_name": str(folder)}, "video"),
        "folder of webm": ({"instance_data_dir": str(webm)}, "video"),
        "table of paths": ({"data_files": [str(table(tmp_path / "paths", paths))]}, "clip"),
        "folder of frames": ({"instance_data_dir": str(frames)}, "frames"),
        "table of lists": ({"data_files": [str(table(tmp_path / "lists", path_lists))]}, "clip"),
        "parquet of frames": ({"data_files": [str(parquet)]}, "frames"),
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_every_layout_gives_clips(folder, cache_dir, tmp_path, streaming):
    clip = Clip(5)
    for name, (source, column) in layouts(folder, tmp_path).items():
        rows = load_rows(**source, cache_dir=cache_dir, streaming=streaming)
        rows = keep_encoded(rows, column, CaptionSource(), clip=clip)
        found = sorted(videos.numbers(clip.decode(row[column])) for row, _ in zip(rows, range(2)))
        assert found == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]], name


def test_a_stream_leaves_faulty_videos_out(folder, cache_dir):
    rows = load_rows(instance_data_dir=str(folder), cache_dir=cache_dir, streaming=True)
    rows = keep_encoded(rows, "video", CaptionSource(), clip=Clip(9))
    framing = Framing(((16, 16),))
    stream = iter(StreamedSamples(rows, CaptionSource(), "video", framing, seed=0, clip=Clip(9)))
    samples = [next(stream) for _ in range(4)]
    assert {sample["caption"] for sample in samples} == {"caption 0", "caption 1"}
    assert {sample["pixels"].shape for sample in samples} == {(3, 9, 16, 16)}
    faults = {fault.name.split("/")[-1]: fault.reason for sample in samples for fault in sample["faults"]}
    assert set(faults) == {"2.mp4", "3.mp4", "4.mp4"} and "num_frames=9" in faults["2.mp4"]


def test_videos_without_a_length_and_lists_with_a_rate_are_refused(folder, cache_dir, tmp_path):
    rows = load_rows(instance_data_dir=str(folder), cache_dir=cache_dir)
    with pytest.raises(TwinFlowConfigError, match="image_column='video' contains videos. Set `num_frames`"):
        keep_encoded(rows, "video", CaptionSource())
    source, column = layouts(folder, tmp_path)["folder of frames"]
    rows = load_rows(**source, cache_dir=cache_dir)
    with pytest.raises(TwinFlowConfigError, match="image_column='frames' contains videos. Set `num_frames`"):
        keep_encoded(rows, column, CaptionSource())
    with pytest.raises(TwinFlowConfigError, match="video_fps=8 .*'frames' contains lists of frames"):
        keep_encoded(rows, column, CaptionSource(), clip=Clip(5, fps=8))
