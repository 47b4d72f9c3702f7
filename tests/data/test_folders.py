"""Local folders: every file is a sample, or is reported with a reason."""

import json
import os
import socket
import unicodedata

import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data import DataConfig, open_source
from diffusers_twinflow.data.listing import list_folder
from diffusers_twinflow.data.rows import load_rows, load_source
from tests.data.data_files import picture

LOOK_LIKE_SPLITS = [
    "red_train.png",
    "train1.png",
    "dog.train.png",
    "steam train.png",
    "test.png",
    "a_val-1.png",
    "dev.png",
]


@pytest.fixture
def folder(files):
    """Images of those names in a folder whose path has the characters of patterns."""

    def build(*names: str):
        directory = files.new("[photos] {a,b}?* x")
        directory.mkdir()
        for number, name in enumerate(names):
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = "AVIF" if path.suffix == ".avif" else "JPEG" if path.suffix.lower()[1] == "j" else "PNG"
            picture(number).save(path, kind)
        return directory

    return build


@pytest.fixture
def names(cache_dir):
    """The names of the images that a folder gives, and what is left out."""

    def look(directory, option: str = "instance_data_dir", **options):
        loaded = load_source(**{option: str(directory)}, cache_dir=cache_dir, **options)
        column = "image" if "image" in loaded.rows.column_names else "video"
        rows = loaded.rows.cast_column(column, loaded.rows.features[column])
        found = sorted(os.path.relpath(row[column]["path"], directory) for row in rows)
        return found, {os.path.relpath(path, directory): reason for path, reason in loaded.ignored.items()}

    return look


@pytest.mark.parametrize("option", ["instance_data_dir", "dataset_name"])
@pytest.mark.parametrize("streaming", [False, True])
def test_names_that_look_like_splits_mean_nothing(folder, names, option, streaming):
    found = ["10_train/b.png", "test_set/c.jpeg", "train_set/a.png", "z.avif", *LOOK_LIKE_SPLITS]
    assert names(folder(*found), option, streaming=streaming) == (sorted(found), {})


def test_folders_named_exactly_like_splits_are_splits(folder, names):
    directory = folder("train/a.png", "train/sub/b.png", "val/c.png", "test/d.png", "loose.png")

    def outside(split, *paths):
        return dict.fromkeys(paths, f"outside the folder of split '{split}'")

    training = ["train/a.png", "train/sub/b.png"]
    others = outside("train", "loose.png", "test/d.png", "val/c.png")
    for option in ("instance_data_dir", "dataset_name"):
        assert names(directory, option) == (training, others)
    assert names(directory, split="validation")[0] == ["val/c.png"]
    both = names(directory, split="train+test")
    assert both == ([*sorted(["test/d.png", *training])], outside("train+test", "loose.png", "val/c.png"))
    with pytest.raises(TwinFlowConfigError, match="no split 'test'.*no folder test or testing"):
        names(folder("train/a.png"), split="test")


def test_without_a_folder_for_training_everything_is_trained_on(folder, names):
    assert names(folder("test/a.png", "b.png")) == (["b.png", "test/a.png"], {})


def test_a_metadata_file_beside_folders_describes_them_all(folder, names):
    directory = folder("train/a.png", "test/b.png")
    rows = [{"file_name": name, "text": "x"} for name in ("train/a.png", "test/b.png")]
    (directory / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert names(directory) == (["test/b.png", "train/a.png"], {})


@pytest.mark.parametrize("streaming", [False, True])
def test_a_slice_of_a_split(folder, names, streaming):
    directory = folder(*(f"{i}.png" for i in range(10)))
    assert names(directory, split="train[:30%]", streaming=streaming)[0] == ["0.png", "1.png", "2.png"]
    assert names(directory, split="train[:1]+train[8:]", streaming=streaming)[0] == ["0.png", "8.png", "9.png"]


def test_every_file_is_trained_on_or_counted_with_its_reason(folder, cache_dir, tmp_path, monkeypatch):
    directory = folder("a.PNG", "b.JFIF", "c.avif", "d.jpeg")
    for name in ("x.MOV", "._a.png", ".DS_Store", "Thumbs.db", "r.CR2", "note.txt", "zero.png", "h.heic", "j.jxl"):
        (directory / name).write_bytes(b"" if name == "zero.png" else bytes(40))
    (directory / "ps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (directory / "__MACOSX").mkdir()
    (directory / "__MACOSX" / "._a.png").touch()
    for fifo in ("fifo.png", "fifo"):
        os.mkfifo(directory / fifo)
    for link, target in {"loop": directory, "gone.png": "nowhere", "self": "self", "dev.png": "/dev/zero"}.items():
        os.symlink(target, directory / link)
    (tmp_path / "elsewhere").mkdir()
    picture(9).save(tmp_path / "elsewhere" / "linked.png")
    os.symlink(tmp_path / "elsewhere", directory / "link")
    with open(os.fsencode(directory) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    with socket.socket(socket.AF_UNIX) as server:
        with monkeypatch.context() as patch:  # the path of a socket has about 100 characters at most
            patch.chdir(directory)
            server.bind("socket.png")
        config = DataConfig(instance_data_dir=str(directory), instance_prompt="x", cache_dir=cache_dir)
        source = open_source(config, tmp_path / "out")
    trained = [os.path.relpath(row["image"]["path"], directory) for row in source.rows.rows]
    assert trained == ["a.PNG", "b.JFIF", "c.avif", "d.jpeg", "link/linked.png"]
    report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    corrupt = {name.split("/")[-1].rstrip(")"): why for name, why in report["corrupt_images"]["samples"].items()}
    assert corrupt == {
        "dev.png": "not a file but a device",
        "fifo.png": "not a file but a FIFO",
        "gone.png": f"FileNotFoundError: [Errno 2] No such file or directory: '{directory / 'gone.png'}'",
        "h.heic": "no known image format",
        "j.jxl": "no known image format",
        "ps.png": "no known image format",
        "socket.png": "not a file but a socket",
        "zero.png": "the file is empty",
    }
    ignored = {os.path.relpath(name, directory): why for name, why in report["ignored_files"]["samples"].items()}
    assert ignored == {
        "x.MOV": "a video among images",
        "r.CR2": "not an image or a video",
        "note.txt": "not an image or a video",
        "fifo": "a FIFO",
        "loop": "a link to a folder that it is in",
        "self": "a broken link (Too many levels of symbolic links)",
        "\\udcff.png": "a path that is not UTF-8",
        "__MACOSX": "a hidden or system folder",
        **dict.fromkeys((".DS_Store", "._a.png", "Thumbs.db"), "a hidden or system file"),
    }
    assert report["samples"] == 13 and report["trained_on"] == 5


def test_ignored_files_do_not_stop_a_run_that_stops_at_bad_samples(folder, cache_dir, tmp_path):
    directory = folder("a.png")
    (directory / ".DS_Store").touch()
    options = {"instance_data_dir": str(directory), "instance_prompt": "x", "cache_dir": cache_dir}
    assert len(open_source(DataConfig(**options, stop_on_bad_samples=True), tmp_path).rows.rows) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_folders_that_cannot_be_read_are_named(folder):
    directory = folder("a.png", "sub/b.png")
    (directory / "sub").chmod(0)
    try:
        listing = list_folder(directory)
    finally:
        (directory / "sub").chmod(0o755)
    assert listing.ignored == {str(directory / "sub"): "a folder that cannot be read (Permission denied)"}


def test_the_image_column_chooses_between_images_and_videos(folder, names):
    directory = folder("a.png")
    (directory / "b.mp4").write_bytes(b"x")
    assert names(directory) == (["a.png"], {"b.mp4": "a video among images"})
    assert names(directory, image_columns=["video"]) == (["b.mp4"], {"a.png": "an image among videos"})


def test_a_folder_without_images_says_what_it_has(folder, names):
    directory = folder()
    (directory / "a.pdf").touch()
    (directory / "b.txt").touch()
    with pytest.raises(TwinFlowConfigError, match="no image or video.*2 x not an image or a video"):
        names(directory)


@pytest.mark.parametrize("option", ["instance_data_dir", "dataset_name"])
def test_names_of_folders_can_be_captions(folder, cache_dir, tmp_path, option):
    directory = folder("cat/a.png", "dog/b.png")
    config = DataConfig(**{option: str(directory)}, caption_column="label", cache_dir=cache_dir)
    assert open_source(config, tmp_path).rows.facts["captions"][:] == [["cat"], ["dog"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions_of_metadata_are_what_is_written(folder, cache_dir, tmp_path, kind, encoding):
    decomposed, composed = (unicodedata.normalize(form, "é.png") for form in ("NFD", "NFC"))
    directory = folder("a.png", "b.png", "c.png", "sub/d.png", decomposed, "unlisted.png", "._a.png")
    captions = {"a.png": "007", "b.png": "null", "c.png": "", "sub\\d.png": "2024-05-01", composed: "\ufeff"}
    rows = [{"file_name": name, "text": text} for name, text in captions.items()]
    if kind == "csv":
        content = "file_name,text\r\n" + "".join(f"{row['file_name']},{row['text']}\r\n" for row in rows)
    else:
        content = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (directory / f"metadata.{kind}").write_bytes(content.encode(encoding))
    source = open_source(DataConfig(instance_data_dir=str(directory), cache_dir=cache_dir), tmp_path)
    assert source.rows.facts["captions"][:] == [["007"], ["null"], ["2024-05-01"]]
    missing = {
        os.path.basename(name).rstrip(")"): why for name, why in source.report.faults["missing_captions"].items()
    }
    assert missing == {"c.png": "no text (column)", decomposed: "no text (column)", "unlisted.png": "no row names it"}


def test_captions_of_several_types_are_texts(folder, cache_dir, tmp_path):
    directory = folder("a.png", "b.png", "c.png")
    captions = [7, "eight", ["nine", None, 10]]
    rows = [{"file_name": f"{name}.png", "text": text} for name, text in zip("abc", captions)]
    (directory / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(DataConfig(instance_data_dir=str(directory), cache_dir=cache_dir), tmp_path)
    assert source.rows.facts["captions"][:] == [["7"], ["eight"], ["nine", "10"]]


def test_images_that_no_row_names_are_counted_whatever_the_captions_are(folder, cache_dir, tmp_path):
    directory = folder("a.png", "b.png", "before.png")
    (directory / "metadata.jsonl").write_text('{"file_name": "a.png", "reference_file_name": "before.png"}')
    options = {"instance_data_dir": str(directory), "cache_dir": cache_dir, "instance_prompt": "x"}
    source = open_source(DataConfig(**options, reference_image_column="reference"), tmp_path)
    assert len(source.rows.rows) == 1
    assert source.report.faults["ignored_files"] == {str(directory / "b.png"): "no row names it"}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"metadata.jsonl": '{"file_name": "a.png"}\n{"file_na'}, "metadata.jsonl', line 2: "),
        ({"metadata.jsonl": "[1]"}, "line 1: each line must be an object"),
        ({"metadata.jsonl": '{"file_name": "../a.png"}'}, "'../a.png' must be a path inside"),
        ({"metadata.jsonl": '{"file_name": "/etc/passwd"}'}, "'/etc/passwd' must be a path inside"),
        ({"metadata.jsonl": '{"file_name": "http://x/a.png"}'}, "'http://x/a.png' must be a path inside"),
        ({"metadata.jsonl": '{"name": "a.png"}'}, "no column 'file_name'"),
        ({"metadata.csv": "file_name\na.png", "metadata.jsonl": "{}"}, "several metadata files"),
        ({"metadata.csv": ""}, "metadata.csv': No columns"),
    ],
)
def test_bad_metadata_is_named(folder, cache_dir, metadata, message):
    directory = folder("a.png")
    for name, content in metadata.items():
        (directory / name).write_text(content)
    with pytest.raises(TwinFlowConfigError, match=message):
        load_rows(instance_data_dir=str(directory), cache_dir=cache_dir)


def test_images_of_one_stem_share_their_text_file(folder, cache_dir, tmp_path):
    directory = folder("a.png", "a.jpg", "b.png", "c.png")
    (directory / "a.TXT").write_bytes(b"one\r\ntwo\r\n")
    (directory / "b.txt").write_text("\ufeff", encoding="utf-8")
    os.mkfifo(directory / "c.txt")
    config = DataConfig(instance_data_dir=str(directory), caption_strategy="textfile", cache_dir=cache_dir)
    source = open_source(config, tmp_path)
    assert source.rows.facts["captions"][:] == [["one", "two"]] * 2
    assert [*source.report.faults["missing_captions"].values()] == ["no text (textfile)", "not a file but a FIFO"]
