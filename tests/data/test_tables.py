"""Tables of captions and of paths: csv, json, text and parquet files."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data import DataConfig, open_source
from diffusers_twinflow.data.captions import CaptionSource
from diffusers_twinflow.data.check import read_captions
from diffusers_twinflow.data.columns import keep_encoded
from diffusers_twinflow.data.images import decode
from diffusers_twinflow.data.rows import load_rows
from tests.data.data_files import picture

TABLES = {
    "t.csv": "image,text,number\na.png,007,1\nb.png,null,\nc.png,,3\n",
    "t.jsonl": '{"image": "a.png", "text": "007", "number": 1}\n{"image": "b.png", "text": "null", "number": null}\n'
    '{"image": "c.png", "text": null, "number": 3}\n',
    "t.json": '[{"image": "a.png", "text": "007", "number": 1}, {"image": "b.png", "text": "null", "number": null}, '
    '{"image": "c.png", "text": null, "number": 3}]',
}


@pytest.fixture
def table(files):
    """A table in a folder with three images, whose path has the characters of patterns."""

    def build(name: str, encoding: str = "utf-8") -> str:
        folder = files.new("[photos] x")
        folder.mkdir()
        for number, image in enumerate("abc"):
            picture(number).save(folder / f"{image}.png")
        (folder / name).write_text(TABLES[name], encoding=encoding)
        return str(folder / name)

    return build


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", TABLES)
def test_captions_are_what_is_written_and_paths_are_relative_to_the_file(table, cache_dir, name, encoding, streaming):
    captions = CaptionSource(columns=("text", "number"))
    rows = load_rows(data_files=[table(name, encoding)], cache_dir=cache_dir, streaming=streaming)
    rows = [*keep_encoded(rows, "image", captions)]
    assert [read_captions(row, captions)[0] for row in rows] == [["007", "1"], ["null"], ["3"]]
    assert [decode(row["image"]).tobytes() for row in rows] == [picture(i).tobytes() for i in range(3)]


def test_tables_of_several_folders_and_encodings_are_one_data_set(table, cache_dir):
    paths = [table("t.csv"), table("t.csv", "utf-16"), table("t.csv", "utf-8-sig")]
    rows = load_rows(data_files=paths, cache_dir=cache_dir)
    rows = keep_encoded(rows, "image", CaptionSource())
    assert len(rows) == 9 and [decode(row["image"]).size for row in rows] == [(16, 16)] * 9


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_that_was_saved_to_disk_is_read(files, cache_dir, streaming):
    rows = Dataset.from_dict({"image": [picture(i) for i in range(3)], "text": ["a", "b", "c"]})
    folders = {"one": files.new("one"), "several": files.new("several")}
    rows.save_to_disk(folders["one"])
    DatasetDict({"train": rows, "test": rows.select([2])}).save_to_disk(folders["several"])
    options = {"cache_dir": cache_dir, "streaming": streaming}
    for name, split, texts in [("one", "train", "abc"), ("one", "train[:2]", "ab"), ("several", "test", "c")]:
        loaded = load_rows(str(folders[name]), split=split, **options)
        assert [row["text"] for row in keep_encoded(loaded, "image", CaptionSource())] == [*texts]
    with pytest.raises(
        TwinFlowConfigError, match=r"Unknown split \"test\".*\)\. Set `dataset_split` to a split of the data\.$"
    ):
        load_rows(str(folders["one"]), split="test", **options)


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ({"prompts_file": "no.txt"}, "prompts_file='no.txt'.*one prompt per line"),
        ({"data_files": ["no.csv", "no-*.csv"]}, "data_files='no.csv no-.*Use parquet"),
        ({"instance_data_dir": "no"}, "instance_data_dir='no'.*a folder of images or videos"),
    ],
)
def test_a_source_that_is_missing_says_what_the_option_reads(option, advice):
    with pytest.raises(TwinFlowConfigError, match=advice):
        load_rows(**option)


def test_a_path_from_the_working_directory_still_counts(files, cache_dir, monkeypatch):
    image = files.new("a.png")
    picture(0).save(image)
    monkeypatch.chdir(image.parent)
    rows = load_rows(data_files=[files.text("t.csv", "image,text\na.png,x\n")], cache_dir=cache_dir)
    assert decode(keep_encoded(rows, "image", CaptionSource())[0]["image"]).size == (16, 16)


def test_patterns_and_slices_of_files(files, cache_dir):
    first, *_ = files.parquet(8, files=2)
    pattern = first.replace("0.parquet", "*.parquet")
    assert len(load_rows(data_files=[pattern], cache_dir=cache_dir)) == 8
    assert len(load_rows(data_files=[pattern], cache_dir=cache_dir, split="train[:25%]")) == 2
    with pytest.raises(TwinFlowConfigError, match=r"split 'train\[:25%\]'.*`streaming`"):
        load_rows(data_files=[pattern], cache_dir=cache_dir, split="train[:25%]", streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_are_captions_by_their_names(files, cache_dir, tmp_path, streaming):
    kinds, words = ClassLabel(names=["cat", "dog"]), List(ClassLabel(names=["red", "green"]))
    features = Features({"image": Image(), "kind": kinds, "words": words})
    images = []
    for number in range(3):
        images.append(str(files.new("a.png")))
        picture(number).save(images[-1])
    path = str(files.new("t.parquet"))
    columns = {"image": images, "kind": [0, 1, -1], "words": [[1, 0], None, []]}
    Dataset.from_dict(columns, features=features).to_parquet(path)
    captions = CaptionSource(columns=("kind", "words"))
    rows = keep_encoded(load_rows(data_files=[path], cache_dir=cache_dir, streaming=streaming), "image", captions)
    named = captions.named_by(rows.features)
    assert [read_captions(row, named)[0] for row in rows] == [["cat", "green", "red"], ["dog"], []]
    if not streaming:
        config = DataConfig(data_files=[path], caption_column=["kind", "words"], cache_dir=cache_dir)
        assert open_source(config, tmp_path).rows.facts["captions"][:] == [["cat", "green", "red"], ["dog"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("strategy", ["textfile", "filename", "column", "instance_prompt"])
def test_prompts_need_no_caption_strategy(files, cache_dir, tmp_path, strategy, encoding):
    """A recipe may set one for its images, and the caption column too."""
    path = files.new("prompts.txt")
    path.write_text("a fox\r\n\ufeff\n007\n", encoding=encoding)
    config = DataConfig(
        prompts_file=str(path),
        twinflow_image_free=True,
        caption_strategy=strategy,
        caption_column="caption",
        instance_prompt="x",
        cache_dir=cache_dir,
    )
    assert open_source(config, tmp_path).rows.facts["captions"][:] == [["a fox"], ["007"]]
