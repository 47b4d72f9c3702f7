"""The options of a run's data, under the names that the training script gives them."""

from argparse import Namespace
from dataclasses import dataclass, fields
from pathlib import Path

from ..configuration import TwinFlowConfigError
from .captions import CaptionSource
from .clips import Clip

TEXT_COLUMN = "text"
"""The column of the lines of a text file."""
SOURCES = ("dataset_name", "instance_data_dir", "data_files", "prompts_file")


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from, how they are cut and captioned, and what of them is encoded before training.

    Raises:
        TwinFlowConfigError: where options contradict each other.
    """

    dataset_name: str | None = None
    dataset_config_name: str | None = None
    dataset_split: str = "train"
    instance_data_dir: str | None = None
    data_files: list[str] | None = None
    prompts_file: str | None = None
    cache_dir: str | None = None
    streaming: bool = False
    image_column: str = "image"
    reference_image_column: str | None = None
    caption_column: list[str] | str = "text"
    caption_strategy: str | None = None
    instance_prompt: str | None = None
    caption_dropout_probability: float = 0.0
    stop_on_bad_samples: bool = False
    repeats: int = 1
    resolution: int = 512
    num_frames: int | None = None
    video_fps: float | None = None
    center_crop: bool = True
    random_flip: bool = False
    aspect_ratio_buckets: str | None = None
    dataloader_num_workers: int = 0
    cache_latents: bool = False
    cache_text_embeddings: bool = False
    cache_directory: str | None = None
    max_sequence_length: int | None = None
    twinflow_image_free: bool = False

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> "DataConfig":
        """The options among a script's arguments."""
        return cls(**{field.name: getattr(arguments, field.name) for field in fields(cls)})

    def __post_init__(self):
        given = [name for name in SOURCES if getattr(self, name)]
        if not given:
            raise TwinFlowConfigError(f"no data: give one of {', '.join(f'--{name}' for name in SOURCES)}.")
        if len(given) > 1 and given != ["dataset_name", "data_files"]:
            raise TwinFlowConfigError(f"data comes from one place, but {', '.join(given)} are given: leave one.")
        if self.prompts_file and not self.twinflow_image_free:
            raise TwinFlowConfigError(
                f"prompts_file='{self.prompts_file}' has no images to train on: set --twinflow_image_free, or give "
                "a dataset."
            )
        if self.cache_directory and not (self.cache_latents or self.cache_text_embeddings):
            raise TwinFlowConfigError(
                f"cache_directory='{self.cache_directory}' has nothing to keep: set --cache_latents, "
                "--cache_text_embeddings or both."
            )
        if self.video_fps is not None and not self.num_frames:
            raise TwinFlowConfigError(
                f"video_fps={self.video_fps:g} is of clips: set --num_frames too, or leave it out."
            )
        if self.video_fps is not None and self.video_fps <= 0:
            raise TwinFlowConfigError(f"video_fps={self.video_fps:g} must be more than 0.")
        if self.reference_image_column:
            self._check_reference()
        if self.streaming:
            self._check_streaming()
        self.captions  # noqa: B018

    def _check_reference(self) -> None:
        for name in ("streaming", "cache_text_embeddings", "twinflow_image_free"):
            if getattr(self, name):
                raise TwinFlowConfigError(
                    f"{name}=True does not go with reference_image_column='{self.reference_image_column}', whose image "
                    f"is encoded with each prompt: leave {name} out."
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
                    f"{name}={getattr(self, name)} needs to know all samples beforehand: leave --streaming out."
                )

    @property
    def used_image_column(self) -> str | None:
        """The column of images; `None` where training makes its own."""
        return None if self.twinflow_image_free else self.image_column

    @property
    def clip(self) -> Clip | None:
        """What of a video is trained on; `None` where images are."""
        return Clip(self.num_frames, self.video_fps) if self.num_frames else None

    @property
    def captions(self) -> CaptionSource:
        columns = [self.caption_column] if isinstance(self.caption_column, str) else self.caption_column
        strategy = self.caption_strategy or ("instance_prompt" if self.instance_prompt else "column")
        if self.prompts_file:  # its rows are the captions: there is no image to take another caption from
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
        """Whether nothing is left to encode once training begins."""
        images = self.cache_latents or self.twinflow_image_free
        return images and self.cache_text_embeddings and not self.streaming
