import io
import json
import logging
import os

import pytest
from PIL import ExifTags, Image

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data import DataConfig, open_source
from diffusers_twinflow.data.captions import CaptionSource
from diffusers_twinflow.data.check import check_rows
from diffusers_twinflow.data.columns import keep_encoded
from diffusers_twinflow.data.images import decode, measure
from diffusers_twinflow.data.report import CORRUPT_IMAGES, IGNORED_FILES, MISSING_CAPTIONS, DataReport, Fault
from diffusers_twinflow.data.rows import load_rows, load_source
from tests.data.data_files import encoded, picture


@pytest.fixture
def check(cache_dir, tmp_path):
    """Check a folder, and give what is left and the report."""

    def run(folder, captions=None, stop=False):
        captions = captions or CaptionSource()
        loaded = load_source(instance_data_dir=str(folder), cache_dir=cache_dir)
        rows = keep_encoded(loaded.rows, "image", captions)
        report = DataReport(tmp_path / "report.json", stop=stop)
        left_out = [Fault(MISSING_CAPTIONS, path, "no row names it") for path in loaded.unlisted]
        return check_rows(rows, captions, "image", report, left_out=left_out)

    run.report = lambda: json.loads((tmp_path / "report.json").read_text())
    return run


def damage(folder) -> None:
    """Break 1.jpg by cutting it, 2.png by overwriting it, 4.png by removing it; 0, 3, 5, 6, 7 stay whole."""
    whole = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "4.png").unlink()


def test_faulty_samples_are_named_and_left_out(files, check, caplog):
    captions = [f"caption {i}" for i in range(8)]
    captions[5], captions[6] = None, "  "
    folder = files.folder(captions=captions)
    damage(folder)
    picture(9).save(folder / "unlisted.png")
    with caplog.at_level(logging.WARNING):
        checked = check(folder)
    assert [fact["captions"] for fact in checked.facts] == [[f"caption {i}"] for i in (0, 3, 7)]
    assert [decode(row["image"]).size for row in checked.rows] == [(16, 16)] * 3
    report = check.report()
    assert (report["samples"], report["trained_on"]) == (9, 3)
    assert report[CORRUPT_IMAGES]["count"] == 3 and report[MISSING_CAPTIONS]["count"] == 3
    named = " ".join([*report[CORRUPT_IMAGES]["samples"], *report[MISSING_CAPTIONS]["samples"]])
    for name in ("1.jpg", "2.png", "4.png", "5.jpg", "6.png", "unlisted.png"):
        assert name in named and name in caplog.text
    assert "2.png): no known image format" in caplog.text and "1.jpg): OSError: Truncated" in caplog.text
    assert "3 corrupt images, 3 missing captions" in caplog.text


def test_a_whole_folder_has_no_faults(files, check):
    assert len(check(files.folder()).rows) == 8
    assert check.report() == {
        "samples": 8,
        "trained_on": 8,
        CORRUPT_IMAGES: {"count": 0, "samples": {}},
        MISSING_CAPTIONS: {"count": 0, "samples": {}},
        IGNORED_FILES: {"count": 0, "samples": {}},
    }


def test_stopping_instead(files, check):
    folder = files.folder()
    damage(folder)
    with pytest.raises(TwinFlowConfigError, match="3 corrupt images, 0 missing captions.*1.jpg.*stop_on_bad_samples"):
        check(folder, stop=True)
    assert check.report()[CORRUPT_IMAGES]["count"] == 3


def test_nothing_left_is_an_error(files, check):
    with pytest.raises(TwinFlowConfigError, match="no sample.*0 corrupt images, 8 missing captions"):
        check(files.folder(captions=[""] * 8))


def test_captions_in_files_of_another_name_are_told(files, cache_dir, tmp_path):
    folder = files.folder(2, metadata=None)
    (folder / "0.png.txt").write_text("a fox")
    options = {"instance_data_dir": str(folder), "caption_strategy": "textfile", "cache_dir": cache_dir}
    message = (
        rf"2 missing captions, 1 ignored files \(such as row 0 .*: there is no file '{folder}/0.txt'; all are listed"
    )
    with pytest.raises(TwinFlowConfigError, match=message):
        open_source(DataConfig(**options), tmp_path)


def test_changed_files_are_checked_again(files, check):
    """`datasets` keeps the result of the pass; it must not outlive the files."""
    folder = files.folder(metadata=None)
    for image in folder.iterdir():
        image.with_suffix(".txt").write_text("a text")
    textfile = CaptionSource("textfile")
    first = check(folder, textfile)
    content = first.facts["content"][:]
    assert check(folder, textfile).facts["content"][:] == content
    (folder / "0.txt").write_text("another text")
    picture(99).save(folder / "2.png")
    os.utime(folder / "2.png", (0, 0))
    again = check(folder, textfile)
    assert again.facts["captions"][0] == ["another text"]
    assert [a == b for a, b in zip(content, again.facts["content"])] == [True] * 2 + [False] + [True] * 5
    (folder / "3.txt").unlink()
    assert len(check(folder, textfile).rows) == 7 and "3.txt" in str(check.report())


def test_changed_files_that_a_table_points_to_are_checked_again(files, cache_dir):
    folder = files.folder(3, metadata=None)
    (folder / "0.txt").write_text("a text")
    table = files.text("table.jsonl", json.dumps({"image": str(folder / "0.png")}))

    def look() -> dict:
        captions = CaptionSource("textfile")
        rows = keep_encoded(load_rows(data_files=[table], cache_dir=cache_dir), "image", captions)
        return check_rows(rows, captions, "image", DataReport(None)).facts[0]

    first = look()
    assert look() == first and first["captions"] == ["a text"]
    (folder / "0.txt").write_text("another text")
    assert look() == first | {"captions": ["another text"]}
    picture(99, (20, 20)).save(folder / "0.png")
    assert look()["width"] == 20


def test_several_processes_check_alike(files, cache_dir, tmp_path):
    rows = load_rows(data_files=files.parquet(), cache_dir=cache_dir)
    rows = keep_encoded(rows, "image", CaptionSource())
    one, two = (
        check_rows(rows, CaptionSource(), "image", DataReport(None), num_proc=number).facts.to_list()
        for number in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_file_is_broken_to_the_check_exactly_where_it_is_to_training(kind):
    whole = encoded(picture(0, (40, 24)), kind)
    assert measure({"bytes": whole, "path": None}) == (40, 24)
    outcomes = set()
    for length in range(1, len(whole), 7):
        value = {"bytes": whole[:length], "path": None}
        broken = []
        for read in (measure, decode):
            try:
                read(value)
            except Exception:
                broken.append(read)
        assert len(broken) in (0, 2)
        outcomes.add(len(broken))
    assert 2 in outcomes


def test_size_is_that_of_the_image_as_it_is_turned():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    picture(0, (40, 24)).save(buffer, "JPEG", exif=exif)
    value = {"bytes": buffer.getvalue(), "path": None}
    assert measure(value) == decode(value).size == (24, 40)


def test_a_report_counts_a_sample_once_and_goes_on_after_a_resume(tmp_path, caplog):
    path = tmp_path / "out" / "report.json"
    DataReport(path).add([Fault(CORRUPT_IMAGES, "a", "cut"), Fault(CORRUPT_IMAGES, "a", "cut")])
    resumed = DataReport(path, resume=True)
    caplog.clear()
    resumed.add([Fault(CORRUPT_IMAGES, "a", "cut"), Fault(MISSING_CAPTIONS, "b", "no text")])
    assert "b: no text" in caplog.text and "a: cut" not in caplog.text
    saved = json.loads(path.read_text())
    assert (saved[CORRUPT_IMAGES]["count"], saved[MISSING_CAPTIONS]["count"]) == (1, 1)
    with pytest.raises(TwinFlowConfigError, match="1 corrupt images, 1 missing captions.*a: cut"):
        DataReport(path, resume=True, stop=True).add([])
    DataReport(path).add([])
    assert json.loads(path.read_text())[CORRUPT_IMAGES]["count"] == 0


def test_a_report_is_written_when_there_is_something_new(tmp_path):
    report = DataReport(tmp_path / "report.json")
    report.add([])
    (tmp_path / "report.json").unlink()
    report.add([])
    assert not (tmp_path / "report.json").exists()
    report.add([Fault(CORRUPT_IMAGES, "a", "cut")])
    assert (tmp_path / "report.json").exists()


def test_long_lists_are_cut_in_the_log_alone(tmp_path, caplog):
    DataReport(tmp_path / "report.json").add([Fault(CORRUPT_IMAGES, f"image {i}", "cut") for i in range(50)])
    assert "image 19" in caplog.text and "image 20" not in caplog.text and "30 more" in caplog.text
    assert "image 49" in (tmp_path / "report.json").read_text()
