import pytest

from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.data.config import DataConfig
from diffusers_twinflow.training.arguments import TrainingArguments


def test_options_are_taken_from_those_of_a_run():
    arguments = TrainingArguments("base", dataset_name="a", rank=3, repeats=2)
    assert DataConfig.from_options(arguments) == DataConfig(dataset_name="a", repeats=2)
    assert DataConfig.from_options(arguments, twinflow_image_free=True).used_image_column is None


def test_the_strategy_of_captions_follows_from_the_prompt():
    assert DataConfig("a").captions.strategy == "column"
    assert DataConfig("a", instance_prompt="sks dog").captions.strategy == "instance_prompt"
    assert DataConfig("a", instance_prompt="x", caption_strategy="filename").captions.strategy == "filename"
    assert DataConfig("a", caption_column=["a", "b"]).captions.columns == ("a", "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`dataset_name`.*`prompts_file`"),
        ({"dataset_name": "a", "instance_data_dir": "b"}, "`dataset_name`, `instance_data_dir`"),
        ({"prompts_file": "a.txt"}, "prompts_file='a.txt'.*`twinflow_image_free`"),
        ({"dataset_name": "a", "cache_directory": "c"}, "cache_directory='c'.*`cache_latents`"),
        ({"dataset_name": "a", "streaming": True, "repeats": 2}, "repeats=2.*`streaming`"),
        ({"dataset_name": "a", "streaming": True, "cache_latents": True}, "cache_latents=True.*`streaming`"),
        ({"dataset_name": "a", "streaming": True, "aspect_ratio_buckets": "auto"}, "aspect_ratio_buckets=auto"),
        ({"dataset_name": "a", "video_fps": 8}, "video_fps=8 .*`num_frames`"),
        ({"dataset_name": "a", "num_frames": 5, "video_fps": 0}, "video_fps=0 must be more than 0"),
        ({"dataset_name": "a", "caption_strategy": "instance_prompt"}, "`instance_prompt`"),
        ({"dataset_name": "a", "caption_dropout_probability": -1}, "caption_dropout_probability=-1"),
    ],
)
def test_contradictions_are_named(options, message):
    with pytest.raises(TwinFlowConfigError, match=message):
        DataConfig(**options)
