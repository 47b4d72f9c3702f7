import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_twinflow import TwinFlowConfigError
from diffusers_twinflow.integrations.simpletuner import ignored_options, translate_recipe
from diffusers_twinflow.integrations.simpletuner.data_backends import NOT_SUPPORTED, TRANSLATED, WITHOUT_EFFECT
from diffusers_twinflow.integrations.simpletuner.recipes import read_recipe

TEXT_EMBEDS = {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a folder of images and a table, beside the folder that holds the recipe."""
    (tmp_path / "images").mkdir()
    (tmp_path / "list.csv").write_text("url,caption\n")
    (tmp_path / "config").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def translate(place, *backends, **options):
    (place / "config" / "data.json").write_text(json.dumps([*backends, TEXT_EMBEDS]))
    recipe = {"data_backend_config": "data.json"} | options
    read = read_recipe(recipe, directory=place / "config")
    return {name: value for name, value in read.options.items() if name not in read.defaults}


def local(**changes):
    backend = {"id": "mine", "type": "local", "instance_data_dir": "images", "caption_strategy": "textfile"}
    return backend | {"crop": True, "resolution": 512} | changes


def test_a_folder_with_text_files(place):
    backend = local(
        dataset_type="image",
        crop_style="center",
        crop_aspect="square",
        resolution=1024,
        resolution_type="pixel_area",
        minimum_image_size=0,
        maximum_image_size=2048,
        target_downsample_size=1536,
        prepend_instance_prompt=False,
        instance_prompt="a fox",
        only_instance_prompt=False,
        cache_dir_vae="cache/vae/{model_family}",
        metadata_backend="discovery",
        repeats=3,
        disabled=False,
    )
    assert translate(place, backend) == {
        "instance_data_dir": "images",
        "caption_strategy": "textfile",
        "resolution": 1024,
        "center_crop": True,
        "repeats": 4,
    }


def test_a_hub_data_set(place):
    backend = {
        "id": "hub",
        "type": "huggingface",
        "dataset_name": "owner/pictures",
        "caption_strategy": "huggingface",
        "metadata_backend": "huggingface",
        "split": "test",
        "huggingface": {
            "caption_column": ["short", "long"],
            "image_column": "picture",
            "width_column": "width",
            "file_extension": "jpg",
        },
        "resolution": 0.25,
        "resolution_type": "area",
    }
    assert translate(place, backend) == {
        "dataset_name": "owner/pictures",
        "dataset_split": "test",
        "image_column": "picture",
        "caption_column": ["short", "long"],
        "caption_strategy": "column",
        "resolution": 512,
        "aspect_ratio_buckets": "auto",
        "center_crop": True,
        "repeats": 1,
    }


def test_a_table_of_files(place):
    backend = {"id": "t", "type": "csv", "csv_file": "list.csv", "csv_caption_column": "caption", "crop": True}
    translated = translate(place, backend | {"caption_strategy": "csv"})
    assert translated["data_files"] == ["list.csv"] and translated["caption_strategy"] == "column"
    assert translated["image_column"] == "url" and translated["caption_column"] == ["caption"]


def test_captions_of_a_table_in_the_folder(place):
    table = {"path": "metadata.parquet", "filename_column": "file_name", "caption_column": "text"}
    translated = translate(place, local(caption_strategy="parquet", parquet=table, metadata_backend="parquet"))
    assert translated["instance_data_dir"] == "images"
    assert translated["caption_strategy"] == "column" and translated["caption_column"] == ["text"]


def test_videos_are_clips(place):
    video = {"num_frames": 9.0, "min_frames": 9, "is_i2v": False}
    translated = translate(place, local(dataset_type="video", video=video))
    assert translated["num_frames"] == 9 and translated["instance_data_dir"] == "images"
    hub = {"type": "huggingface", "dataset_name": "a/b", "dataset_type": "video", "video": video}
    for block, column in (({}, "video"), ({"video_column": "clip"}, "clip")):
        assert translate(place, local(**hub, huggingface=block, caption_strategy=None))["image_column"] == column


def test_a_recipe_that_says_only_the_instance_prompt(place):
    options = {"only_instance_prompt": True, "instance_prompt": "a fox"}
    translated = translate(place, local(), **options)
    assert (translated["caption_strategy"], translated["instance_prompt"]) == ("instance_prompt", "a fox")
    assert "instance_prompt" not in translate(place, local(), instance_prompt="a fox")
    with pytest.raises(TwinFlowConfigError, match="write the instance prompt into the captions"):
        translate(place, local(), prepend_instance_prompt=True)


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_option_that_is_off_does_not_matter(place, value):
    assert translate(place, local(some_new_feature=value)) == translate(place, local())


def test_comments_and_trailing_commas_are_read(place):
    text = '\ufeff[ // mine\n {"id": "mine", "instance_data_dir": "images", /* text */ "caption_strategy": "textfile",},\n]'
    (place / "data.json").write_text(text, encoding="utf-8")
    assert translate_recipe({"data_backend_config": "data.json"})["instance_data_dir"] == "images"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"caption_strategy": "filename"}, {"caption_strategy": "filename"}),
        ({"caption_strategy": None}, {"caption_strategy": "filename"}),
        (
            {"caption_strategy": "instanceprompt", "instance_prompt": "a fox"},
            {"caption_strategy": "instance_prompt", "instance_prompt": "a fox"},
        ),
        (
            {"only_instance_prompt": True, "instance_prompt": "a fox"},
            {"caption_strategy": "instance_prompt", "instance_prompt": "a fox"},
        ),
        ({"crop_style": "random"}, {"center_crop": False}),
        ({"crop_aspect": "preserve"}, {"center_crop": False, "aspect_ratio_buckets": "auto"}),
        ({"crop": False, "resolution_type": "pixel_area"}, {"center_crop": True, "aspect_ratio_buckets": "auto"}),
        ({"resolution": 640, "resolution_type": "pixel"}, {"resolution": 640}),
        ({"resolution": 1.05, "resolution_type": "area"}, {"resolution": 1024}),
    ],
)
def test_each_option(place, changes, expected):
    translated = translate(place, local(**changes))
    assert expected.items() <= translated.items()


def test_what_the_recipe_says_holds_where_the_data_set_is_silent(place):
    backend = local()
    del backend["resolution"]
    assert translate(place, backend, resolution=1.0, resolution_type="area")["resolution"] == 1024
    named = translate(place, local(), resolution=2048, resolution_type="pixel_area", caption_strategy="filename")
    assert named == translate(place, local())


def test_disabled_data_sets_and_caches_are_passed_over(place):
    caches = [{"id": "v", "type": "local", "dataset_type": "image_embeds"}, {"id": "w", "type": "local"}]
    others = [local(id="off", disabled=True), local(id="off too", disable=True, type="aws")]
    assert translate(place, *caches, *others, local()) == translate(place, local())


def test_paths_are_found_from_the_working_directory_and_from_the_recipe(place):
    (place / "config" / "more").mkdir()
    translated = translate(place, local(instance_data_dir="more"))
    assert translated["instance_data_dir"] == str(place / "config" / "more")
    (place / "there.json").write_text(json.dumps([local()]))
    assert translate_recipe({"--data_backend_config": "there.json"})["instance_data_dir"] == "images"


def test_what_is_left_out_is_named(place):
    backend = local(minimum_image_size=128, cache_dir_vae="cache", probability=1.0)
    (place / "data.json").write_text(json.dumps([backend]))
    reasons = ignored_options({"data_backend_config": "data.json"})
    assert reasons.keys() == {f"data.json: {key}" for key in ("minimum_image_size", "cache_dir_vae", "probability")}
    assert "every image is used" in reasons["data.json: minimum_image_size"]


def test_the_sound_of_videos_is_their_sound_track(place):
    sound = {"auto_split": True, "sample_rate": 16000, "channels": 1, "allow_zero_audio": False}
    clips = {"dataset_type": "video", "video": {"num_frames": 9}}
    assert translate(place, local(**clips, audio=sound)) == translate(place, local(**clips))
    (place / "data.json").write_text(json.dumps([local(**clips, audio=sound)]))
    assert (
        "sound track of each video is used"
        in ignored_options({"data_backend_config": "data.json"})["data.json: audio"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "aws"}, "'mine' of data.json has type='aws'.*local, huggingface, csv"),
        ({"dataset_type": "audio"}, "dataset_type='audio'.*only images and videos"),
        ({"dataset_type": "video"}, "video.num_frames=None.*such as 81"),
        ({"dataset_type": "video", "video": {"num_frames": 8.5}}, r"video.num_frames=8\.5"),
        ({"dataset_type": "video", "video": {"num_frames": 9, "is_i2v": True}}, "video.is_i2v=True"),
        ({"video": {"num_frames": 9}}, "set dataset_type to video"),
        ({"audio": {"auto_split": False}}, "audio.auto_split=False.*videos without a sound track train no sound"),
        ({"audio": "all"}, "audio='all'.*must be a JSON object"),
        ({"dataset_type": "conditioning"}, "dataset_type='conditioning'"),
        ({"instance_data_dir": "nowhere"}, "instance_data_dir='nowhere', which does not exist"),
        ({"dataset_type": "image", "instance_data_dir": None}, "instance_data_dir=None"),
        ({"caption_strategy": "webshart"}, "caption_strategy='webshart'.*use one of"),
        ({"caption_strategy": "instanceprompt"}, "instance_prompt=None"),
        ({"caption_strategy": "parquet", "parquet": {"path": "a.parquet"}}, "name the table metadata.csv"),
        ({"prepend_instance_prompt": True, "instance_prompt": "a"}, "write the instance prompt into the captions"),
        ({"resolution": "big"}, "resolution='big'"),
        ({"resolution_type": "inches"}, "use pixel, area or pixel_area"),
        ({"crop_style": "face"}, "crop_style='face'.*use center or random"),
        ({"crop_aspect": "random"}, "crop_aspect='random'"),
        ({"crop": False, "resolution_type": "pixel"}, "resolution_type=pixel_area"),
        ({"repeats": -1}, "repeats=-1"),
        ({"start_step": 300}, "one run per stage"),
        ({"caption_shuffle": {"enable": True}}, "shuffle the captions yourself"),
        ({"type": "huggingface"}, "dataset_name=None"),
        ({"type": "huggingface", "dataset_name": "a/b", "huggingface": {"filter_func": {"a": 1}}}, "filter_func"),
        ({"instance_data_dri": "images"}, "Did you mean 'instance_data_dir'"),
    ],
)
def test_refused(place, changes, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        translate(place, local(**changes))


def test_several_data_sets_are_refused_by_name(place):
    with pytest.raises(TwinFlowConfigError, match=r"2 datasets to train on \('mine', 'yours'\).*Disable"):
        translate(place, local(), local(id="yours"))
    with pytest.raises(TwinFlowConfigError, match=r"0 datasets to train on \(none\)"):
        translate(place)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", "[" * 100_000])
def test_a_file_that_is_no_list_is_refused(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(TwinFlowConfigError, match="data.json"):
        translate_recipe({"data_backend_config": "data.json"}, directory=tmp_path)


KEYS = sorted(TRANSLATED | WITHOUT_EFFECT.keys() | NOT_SUPPORTED.keys())
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()) | st.just({"a": 1})


@given(st.sampled_from(KEYS), VALUES, st.sampled_from(["local", "huggingface", "csv"]))
def test_any_value_is_translated_or_refused_clearly(tmp_path_factory, key, value, kind):
    place = tmp_path_factory.mktemp("any")
    (place / "config").mkdir()
    (place / "images").mkdir()
    backend = local(type=kind, instance_data_dir=str(place / "images"), dataset_name="a/b", csv_file=str(place))
    try:
        assert translate(place, backend | {"csv_caption_column": "text", key: value})
    except TwinFlowConfigError as error:
        assert str(error)
