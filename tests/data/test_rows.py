import json

import pytest
from datasets import Dataset, IterableDataset

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.captions import CaptionSource
from diffusers_twinflow.data.columns import keep_encoded, unlisted_images
from diffusers_twinflow.data.images import decode
from diffusers_twinflow.data.rows import load_rows, reason_and_remedy

LAYOUTS = {
    "folder with metadata.jsonl": lambda files: {"instance_data_dir": str(files.folder())},
    "folder with metadata.csv": lambda files: {"instance_data_dir": str(files.folder(metadata="csv"))},
    "folder by name": lambda files: {"dataset_name": str(files.folder())},
    "parquet": lambda files: {"data_files": files.parquet(files=2)},
    "parquet by builder": lambda files: {"dataset_name": "parquet", "data_files": files.parquet()},
    "webdataset": lambda files: {"data_files": [files.tar()]},
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_images_and_captions(files, cache_dir, layout, streaming):
    rows = load_rows(**LAYOUTS[layout](files), cache_dir=cache_dir, streaming=streaming)
    assert isinstance(rows, IterableDataset if streaming else Dataset)
    columns = {"image": "png", "text": "txt"} if layout == "webdataset" else {"image": "image", "text": "text"}
    rows = keep_encoded(rows, columns["image"], CaptionSource(columns=(columns["text"],)))
    found = list(rows)
    assert sorted(row[columns["text"]] for row in found) == [f"caption {i}" for i in range(8)]
    assert {decode(row[columns["image"]]).size for row in found} == {(16, 16)}


def test_tables_of_paths(files, cache_dir):
    folder = files.folder(4)
    table = "\n".join(json.dumps({"file": str(folder / f"{i}.png"), "words": f"caption {i}"}) for i in (0, 2))
    rows = load_rows(data_files=[files.text("table.jsonl", table)], cache_dir=cache_dir)
    rows = keep_encoded(rows, "file", CaptionSource(columns=("words",)))
    assert [decode(row["file"]).size for row in rows] == [(16, 16)] * 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.txt", "a fox\na hare"),
        ("prompts.jsonl", '{"text": "a fox"}\n{"text": "a hare"}'),
        ("prompts.csv", "text\na fox\na hare"),
    ],
)
def test_prompts_without_images(files, cache_dir, name, content):
    rows = load_rows(prompts_file=files.text(name, content), cache_dir=cache_dir, split="anything")
    assert list(keep_encoded(rows, None, CaptionSource()))[0] == {"text": "a fox"}
    assert len(rows) == 2


def test_images_that_are_not_used_are_not_read(files, cache_dir):
    rows = load_rows(data_files=files.parquet(), cache_dir=cache_dir)
    assert keep_encoded(rows, None, CaptionSource()).column_names == ["text"]


def test_images_without_a_row_are_found(files, cache_dir):
    folder = files.folder(6)
    metadata = folder / "metadata.jsonl"
    metadata.write_text("\n".join(metadata.read_text().splitlines()[:4]))
    rows = keep_encoded(load_rows(instance_data_dir=str(folder), cache_dir=cache_dir), "image", CaptionSource())
    assert unlisted_images(rows, "image") == [str(folder / "4.png"), str(folder / "5.jpg")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"dataset_name": "/nowhere"}, "dataset_name='/nowhere'"),
        ({"instance_data_dir": "/nowhere"}, "instance_data_dir='/nowhere'.*no such folder"),
        ({"data_files": ["/nowhere/*.parquet"]}, "data_files=.*nowhere"),
        ({"data_files": ["notes.docx"]}, "data_files=.*docx.*parquet"),
        ({"prompts_file": "/nowhere.txt"}, "prompts_file='/nowhere.txt'"),
        ({}, "`dataset_name`.*none"),
        ({"dataset_name": "a", "prompts_file": "b"}, "dataset_name, prompts_file"),
    ],
)
def test_unreadable_sources_are_named(cache_dir, source, message, streaming):
    with pytest.raises(TwinFlowConfigError, match=f"(?s){message}"):
        load_rows(**source, cache_dir=cache_dir, streaming=streaming)


def test_a_configuration_that_does_not_exist_has_one_remedy(files, cache_dir):
    folder = files.new("configurations")
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text('{"text": "a"}')
    head = "".join(f"- config_name: {name}\n  data_files: a.jsonl\n" for name in ("one", "two"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{head}---\n")
    for name in (None, "three"):
        with pytest.raises(TwinFlowConfigError) as raised:
            load_rows(str(folder), config_name=name, cache_dir=cache_dir)
        assert "one" in str(raised.value) and "load_dataset" not in str(raised.value)
        assert str(raised.value).endswith("). Set `dataset_config_name` to one of them.")


@pytest.mark.parametrize(
    ("message", "reason", "remedy"),
    [
        (
            "'a/b' is a gated dataset on the Hub. Visit the dataset page at x to ask for access.",
            "on the Hub",
            "log in",
        ),
        ("'a/b' is a gated dataset on the Hub. You must be authenticated to access it.", "on the Hub", "log in"),
        ("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.", "be accessed", "Correct the name"),
        ("Couldn't reach 'a/b' on the Hub (Offline)", "(Offline)", "Check the connection"),
        ("Couldn't find any data file at /a/b.", "/a/b", "Use a Hub dataset, or a folder"),
    ],
)
def test_the_advice_of_datasets_is_replaced_by_one_remedy(message, reason, remedy):
    found, advice = reason_and_remedy(message, "dataset_name")
    assert found.endswith(reason) and remedy in advice


def test_broken_metadata_and_unknown_splits_are_named(files, cache_dir):
    folder = files.folder()
    with pytest.raises(TwinFlowConfigError, match="instance_data_dir.*test"):
        load_rows(instance_data_dir=str(folder), split="test", cache_dir=cache_dir)
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text"')
    with pytest.raises(TwinFlowConfigError, match="instance_data_dir"):
        load_rows(instance_data_dir=str(folder), cache_dir=cache_dir)


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_columns_are_named_with_those_there_are(files, cache_dir, streaming):
    rows = load_rows(data_files=files.parquet(), cache_dir=cache_dir, streaming=streaming)
    with pytest.raises(TwinFlowConfigError, match="caption_column='words'.*image, text"):
        keep_encoded(rows, "image", CaptionSource(columns=("text", "words")))
    with pytest.raises(TwinFlowConfigError, match="image_column='picture'.*image, text"):
        keep_encoded(rows, "picture", CaptionSource())


def test_the_advice_for_a_missing_column_fits_the_data(files, cache_dir):
    folder = files.folder(2, metadata=None)
    load = {"instance_data_dir": str(folder), "cache_dir": cache_dir}
    with pytest.raises(TwinFlowConfigError, match="`instance_prompt`, or see `caption_strategy`"):
        keep_encoded(load_rows(**load), "image", CaptionSource())
    (folder / "0.txt").write_text("a fox")
    with pytest.raises(TwinFlowConfigError, match="set caption_strategy=textfile"):
        keep_encoded(load_rows(**load), "image", CaptionSource())
    rows = load_rows(data_files=files.parquet(2, caption=["a", "b"]), cache_dir=cache_dir)
    with pytest.raises(TwinFlowConfigError, match="Set `caption_column` to one of them"):
        keep_encoded(rows, "image", CaptionSource())
