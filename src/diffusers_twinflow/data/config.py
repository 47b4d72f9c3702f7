"""Options of the training data."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import TwinFlowConfigError, option
from ..ranges import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, Range

if TYPE_CHECKING:
    from .captions import CaptionSource
    from .clips import Clip

CAPTION_STRATEGIES = ("column", "textfile", "filename", "instance_prompt")

TEXT_COLUMN = "text"
"""Column name for the lines of a text file."""
SOURCES = ("dataset_name", "instance_data_dir", "data_files", "prompts_file")


@dataclass(frozen=True)
class DataOptions:
    """Data"""

    dataset_name: str | None = option(None, "Hub id of a dataset, or a local folder of data files or images.")
    dataset_config_name: str | None = option(None, "Name of the dataset's configuration.", needs=("dataset_name",))
    dataset_split: str = option("train", "Split of the dataset.", needs=("dataset_name|instance_data_dir|data_files",))
    instance_data_dir: str | None = option(
        None, "Local folder of images or videos, with or without a metadata file.", local=True
    )
    data_files: list[str] | None = option(None, "Files of the dataset to read, such as *.parquet or *.tar.")
    streaming: bool = option(False, "Read the dataset during training instead of downloading it first.", fixed=True)
    image_column: str = option("image", "Column of the images, or of the videos.")
    reference_image_column: str | None = option(None, "Column of the images to edit, for models that edit images.")
    caption_column: list[str] | str = option(
        ["text"], "Column of the captions; with several columns, one caption is drawn each time a sample is used."
    )
    caption_strategy: str | None = option(
        None,
        "Where captions come from; the default is 'instance_prompt' if `instance_prompt` is set, else 'column'.",
        choices=CAPTION_STRATEGIES,
    )
    instance_prompt: str | None = option(
        None, "One caption for every image.", needs=("caption_strategy=instance_prompt|!caption_strategy",)
    )
    caption_dropout_probability: float = option(
        0.0, "Share of the captions to replace by the empty prompt.", SHARE, aliases=["proportion_empty_prompts"]
    )
    repeats: int = option(1, "Number of times to use each image per epoch.", AT_LEAST_1, fixed=True)
    prompts_file: str | None = option(
        None, "File of prompts for `twinflow_image_free`: text with one prompt per line, or a table.", local=True
    )
    resolution: int = option(512, "Side length of the training images in pixels.", AT_LEAST_1)
    num_frames: int | None = option(None, "Number of frames per clip; trains a video model on clips.", AT_LEAST_1)
    video_fps: float | None = option(
        None,
        "Frames to read per second of video; the default is every frame, or the model's rate if it generates sound.",
        POSITIVE,
    )
    center_crop: bool = option(
        True, "Crop images in the middle; turn it off to crop at a random place.", needs=("!twinflow_image_free",)
    )
    random_flip: bool = option(False, "Mirror half of the images.", needs=("!twinflow_image_free",))
    aspect_ratio_buckets: str | None = option(
        None,
        "Train on several image shapes: 'auto', or sizes as 'height,width;height,width'.",
        const="auto",
        fixed=True,
    )
    stop_on_bad_samples: bool = option(False, "Stop with an error at an unreadable sample instead of skipping it.")
    dataloader_num_workers: int = option(
        0, "Number of processes that read the data; 0 reads in the main process.", NOT_NEGATIVE
    )
    max_sequence_length: int | None = option(
        None, "Length of an encoded prompt in tokens; the default depends on the model.", Range(least=1, most=4096)
    )
    cache_latents: bool = option(False, "Encode every image once, before training.", needs=("!twinflow_image_free",))
    cache_text_embeddings: bool = option(False, "Encode every prompt once, before training.")
    cache_directory: str | None = option(
        None, "Folder to save encoded images and prompts in, for later runs.", local=True
    )
    cache_dir: str | None = option(None, "Folder for downloads from the Hub.", local=True)


@dataclass(frozen=True)
class DataConfig(DataOptions):
    """Where samples come from, how they are cropped and captioned, and what is encoded before training.

    Args:
        twinflow_image_free: train without images. Only captions are read.
        has_rows: whether the rows are given as a dataset, so that no option may name a source.
        sound_fps: frames per second of a model that generates videos with sound; `None` for other models.

    Raises:
        TwinFlowConfigError: if options contradict each other.
    """

    twinflow_image_free: bool = False
    has_rows: bool = False
    sound_fps: float | None = None

    @classmethod
    def from_options(
        cls,
        options: DataOptions,
        twinflow_image_free: bool = False,
        *,
        has_rows: bool = False,
        sound_fps: float | None = None,
    ) -> "DataConfig":
        """Take the data options from the options of a run."""
        return cls(
            **{each.name: getattr(options, each.name) for each in fields(DataOptions)},
            twinflow_image_free=twinflow_image_free,
            has_rows=has_rows,
            sound_fps=sound_fps,
        )

    def __post_init__(self) -> None:
        given = [name for name in SOURCES if getattr(self, name)]
        if given and self.has_rows:
            raise TwinFlowConfigError(
                f"`{given[0]}` is set, but the data is given as a dataset. Leave one of them out."
            )
        if not given and not self.has_rows:
            raise TwinFlowConfigError(f"no data is given. Set one of {', '.join(f'`{name}`' for name in SOURCES)}.")
        if len(given) > 1 and given != ["dataset_name", "data_files"]:
            raise TwinFlowConfigError(
                f"{', '.join(f'`{name}`' for name in given)} are given, but only one source of data is allowed. Keep one."
            )
        if self.prompts_file and not self.twinflow_image_free:
            raise TwinFlowConfigError(
                f"prompts_file='{self.prompts_file}' has no images to train on. Set `twinflow_image_free`, or use a "
                "dataset with images."
            )
        if self.cache_directory and not (self.cache_latents or self.cache_text_embeddings):
            raise TwinFlowConfigError(
                f"cache_directory='{self.cache_directory}' has no effect alone. Set `cache_latents`, "
                "`cache_text_embeddings` or both."
            )
        if self.video_fps is not None and not self.num_frames:
            raise TwinFlowConfigError(
                f"video_fps={self.video_fps:g} needs `num_frames`. Set it too, or leave `video_fps` out."
            )
        if self.video_fps is not None and self.video_fps <= 0:
            raise TwinFlowConfigError(f"video_fps={self.video_fps:g} must be more than 0.")
        if self.video_fps and self.sound_fps and self.video_fps != self.sound_fps and not self.twinflow_image_free:
            raise TwinFlowConfigError(
                f"video_fps={self.video_fps:g} is not valid for this model, which generates {self.sound_fps:g} frames per "
                "second with sound. Leave it out."
            )
        if self.reference_image_column:
            self._check_reference()
        if self.streaming:
            self._check_streaming()
        self.captions  # noqa: B018

    def _check_reference(self) -> None:
        for name in ("streaming", "cache_text_embeddings", "twinflow_image_free"):
            if getattr(self, name):
                raise TwinFlowConfigError(
                    f"{name}=True cannot be used with reference_image_column='{self.reference_image_column}', because "
                    f"the reference image is encoded with each prompt. Leave {name} out."
                )

    def _check_streaming(self) -> None:
        refused = {
            "aspect_ratio_buckets": self.aspect_ratio_buckets,
            "cache_latents": self.cache_latents,
            "cache_directory": self.cache_directory,
            "repeats": self.repeats > 1,
        }
        for name, value in refused.items():
            if value:
                raise TwinFlowConfigError(
                    f"{name}={getattr(self, name)} needs all samples before training. Leave `streaming` out."
                )

    @property
    def used_image_column(self) -> str | None:
        """Return the column of images, or `None` if training needs no images."""
        return None if self.twinflow_image_free else self.image_column

    @property
    def clip(self) -> "Clip | None":
        """Return the part of each video to train on, or `None` for images."""
        from .clips import Clip

        return Clip(self.num_frames, self.video_fps, self.sound_fps) if self.num_frames else None

    @property
    def captions(self) -> "CaptionSource":
        from .captions import CaptionSource

        columns = [self.caption_column] if isinstance(self.caption_column, str) else self.caption_column
        strategy = self.caption_strategy or ("instance_prompt" if self.instance_prompt else "column")
        if self.prompts_file:  # the rows are the captions
            strategy = "column"
            columns = [TEXT_COLUMN] if Path(self.prompts_file).suffix.lower() == ".txt" else columns
        return CaptionSource(
            strategy=strategy,
            columns=tuple(columns),
            image_column=self.image_column,
            instance_prompt=self.instance_prompt,
            dropout_probability=self.caption_dropout_probability,
        )

    @property
    def encodes_all_beforehand(self) -> bool:
        """Return whether everything is encoded before training."""
        images = self.cache_latents or self.twinflow_image_free
        return images and self.cache_text_embeddings and not self.streaming
