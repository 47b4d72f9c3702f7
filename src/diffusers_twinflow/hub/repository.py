"""The configuration of TwinFlow repositories.

A LoRA repository contains `pytorch_lora_weights.safetensors` (a plain diffusers LoRA), `twinflow_config.json`,
`scheduler/scheduler_config.json`, and `twinflow_time_conditioning.safetensors` if the time conditioning was trained. The
repository of a whole model is the pipeline in diffusers layout with the same two configuration files.
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..configuration import TwinFlowConfig, TwinFlowConfigError
from ..families import FAMILIES, family_of_pipeline_class
from ..models.modeling_twinflow import SAVED_CONDITIONING
from .base_loras import BaseLora, parse_base_loras
from .files import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    LORA_NAME,
    MODULAR_INDEX_NAME,
    LocatedRepository,
    index_name,
    locate_repository,
    read_json,
    second_name,
)
from .old_formats import FORMAT_VERSION, convert_options
from .portable import Portable
from .published_config import RECOMMENDED_STEPS, family_of_published, named_base, own_components
from .published_folders import PublishedFolder, find_published

LORA, FULL = "lora", "full"
MAX_STEPS, MAX_TOKENS, MAX_FORMAT_VERSION = 1000, 4096, 1000


@dataclass(repr=False)
class TwinFlowRepositoryConfig:
    """The contents of `twinflow_config.json`.

    Attributes:
        train_type: "lora" or "full".
        family: name of the base's family.
        base_model: Hub id of the base, or its path relative to the directory of this file.
        base_model_revision: revision of the base, or `None`.
        base_loras: LoRAs that are merged into the base before this LoRA is loaded, see `BaseLora`. A path is relative
            to the directory of this file. A whole model contains them already.
        num_inference_steps: step count that the model was distilled for.
        max_sequence_length: length of the encoded prompts in training, in tokens.
        options: the TwinFlow options as written in the file. `twinflow` returns them converted to the present format.
        trained: details of the training: steps, batch size, learning rate, versions.
        has_time_conditioning: whether a LoRA has a time conditioning. `save_twinflow_lora` sets it.
        portable: how the stock weights carry the target time, see `Portable.from_dict`. Saving sets it.
        denoisers: the components that a LoRA adapts, the one for high noise first; `None` if it is one.
            `save_twinflow_lora` sets it.
        format_version: format of `options`. Files without it have version 1, see `old_formats`.
    """

    train_type: str
    family: str
    base_model: str
    base_model_revision: str | None = None
    num_inference_steps: int = 1
    guidance_scale: float = 0.0
    max_sequence_length: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)
    has_time_conditioning: bool | None = None
    portable: dict[str, Any] | None = None
    base_loras: list[str] = field(default_factory=list)
    denoisers: list[str] | None = None
    format_version: int = FORMAT_VERSION

    @property
    def trained_denoisers(self) -> list[str]:
        """Return the components that a LoRA adapts, the one for high noise first."""
        return self.denoisers or [FAMILIES[self.family].component_name]

    def file_of(self, denoiser: str, name: str) -> str:
        """Return the name of a denoiser's file in the repository of a LoRA, for the file `name` of one denoiser."""
        return name if denoiser == self.trained_denoisers[0] else second_name(name)

    @property
    def needs_time_conditioning(self) -> bool:
        """Return whether a LoRA with this configuration needs its time conditioning.

        Old repositories without `has_time_conditioning` have one if they were trained with TwinFlow.
        """
        if self.has_time_conditioning is None:
            return self.options.get("twinflow_enabled") is True
        return self.has_time_conditioning

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(train_type={self.train_type!r}, family={self.family!r}, "
            f"base_model={self.base_model!r}, num_inference_steps={self.num_inference_steps})"
        )

    def locate_base(self, repository: LocatedRepository) -> str:
        """Return the Hub id or the path of the base. A path is accepted only in a local repository.

        Raises:
            TwinFlowConfigError: if a Hub repository names a base that is not a Hub id.
        """
        local = repository.directory / self.base_model
        if repository.is_local and local.is_dir():
            return str(local)
        try:
            validate_repo_id(self.base_model)
        except HFValidationError as error:
            raise TwinFlowConfigError(
                f"'{repository.name}' names the base model '{self.base_model}', which is neither a directory there nor "
                "a Hub id: pass the base's path or Hub id as base_model=."
            ) from error
        return self.base_model

    def locate_base_loras(self, repository: LocatedRepository) -> list[BaseLora]:
        """Return the LoRAs of the base, with paths as seen from here. A path is accepted only in a local repository."""
        found = []
        for lora in parse_base_loras(self.base_loras):
            if repository.is_local and (repository.directory / lora.name).exists():
                lora = lora.found_in(repository.directory)
            elif lora.hub_id is None:
                raise TwinFlowConfigError(
                    f"'{repository.name}' needs the LoRA '{lora}', which is neither a path there nor a Hub id: pass the "
                    "LoRAs of the base as base_loras=."
                )
            found.append(lora)
        return found

    def with_base_of(self, repository: LocatedRepository) -> "TwinFlowRepositoryConfig":
        """Return the configuration with the absolute path of the base, if the base is a directory."""
        if not repository.is_local:
            return self
        local = repository.directory / self.base_model
        loras = [str(lora.found_in(repository.directory)) for lora in parse_base_loras(self.base_loras)]
        return replace(self, base_model=str(local.resolve()) if local.is_dir() else self.base_model, base_loras=loras)

    @property
    def twinflow(self) -> TwinFlowConfig:
        """Return the TwinFlow options, converted from an earlier format if needed."""
        return convert_options(TwinFlowConfig.from_dict(self.options), self.format_version)

    def to_json(self) -> str:
        """Return the text of `twinflow_config.json`. Training arguments that contain a token are left out."""
        values = asdict(self)
        arguments = values["trained"].get("arguments")
        if isinstance(arguments, dict):
            values["trained"]["arguments"] = {k: v for k, v in arguments.items() if not k.endswith("token")}
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def save(self, directory: str | Path) -> None:
        """Write it as `twinflow_config.json` into `directory`."""
        (Path(directory) / CONFIG_NAME).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, name_or_path: str | Path, **hub_options: Any) -> "TwinFlowRepositoryConfig":
        """Read it from a local directory or a Hub repository.

        Raises:
            TwinFlowConfigError: if it is missing or not valid.
        """
        return cls.load_located(locate_repository(name_or_path, **hub_options))

    @classmethod
    def load_located(cls, repository: LocatedRepository) -> "TwinFlowRepositoryConfig":
        """Read the configuration of a repository whose files are on this machine.

        Two kinds of repositories need no `twinflow_config.json`: a pipeline whose transformer was saved with a time
        conditioning (its step count is the default), and a repository of the TwinFlow authors or SimpleTuner.
        """
        path = repository.find(CONFIG_NAME)
        if path is None:
            saved = _config_of_pipeline(repository)
            if saved is not None:
                return saved
            published = find_published(repository)
            if published is not None:
                return cls.of_published(published)
            if repository.find(MODULAR_INDEX_NAME):
                raise TwinFlowConfigError(
                    f"'{repository.name}' is a modular pipeline and not a TwinFlow repository. Load it with "
                    "ModularPipeline.from_pretrained, and give it a TwinFlowScheduler with update_components."
                )
            _refuse_checkpoints(repository)
            found = f"only {LORA_NAME}, a plain LoRA" if repository.find(LORA_NAME) else "none of its files"
            raise TwinFlowConfigError(
                f"'{repository.name}' has no {CONFIG_NAME} and {found}, so it is not a TwinFlow repository. Load a plain "
                "LoRA with load_lora_weights, and a plain pipeline with DiffusionPipeline.from_pretrained."
            )
        values = {"format_version": 1} | read_json(path)
        known = {config_field.name for config_field in fields(cls)}
        try:
            config = cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise TwinFlowConfigError(
                f"{CONFIG_NAME} of '{repository.name}' is not complete ({error}). Save the repository again."
            ) from error
        if config.train_type not in (LORA, FULL) or config.family not in FAMILIES:
            raise TwinFlowConfigError(
                f"{CONFIG_NAME} of '{repository.name}' has train_type={str(config.train_type)[:80]!r} and "
                f"family={str(config.family)[:80]!r}: this version supports {LORA} and {FULL}, and the families "
                f"{', '.join(FAMILIES)}."
            )
        _check_types(config, repository.name)
        return config

    @classmethod
    def of_published(cls, published: PublishedFolder) -> "TwinFlowRepositoryConfig":
        """Build the configuration for a repository of the TwinFlow authors or SimpleTuner.

        Raises:
            TwinFlowConfigError: if no family has a pipeline for its transformer.
        """
        base = None if own_components(published) else named_base(published)
        family = family_of_published(published)
        return cls(FULL, family.name, base or published.name, num_inference_steps=RECOMMENDED_STEPS)


def _refuse_checkpoints(repository: LocatedRepository) -> None:
    """Raise an error that tells how to convert a checkpoint, if the folder is one or contains only checkpoints."""
    if not repository.is_local:
        return
    folder = repository.directory
    convert = "diffusers-twinflow convert {} NEW_FOLDER"
    if (folder / CHECKPOINT_NAME).is_file():
        raise TwinFlowConfigError(
            f"'{repository.name}' is a checkpoint of a training run. Convert it first: {convert.format(repository.name)}"
        )
    last = max(folder.glob(f"*/{CHECKPOINT_NAME}"), key=lambda path: path.stat().st_mtime, default=None)
    if last is not None:
        raise TwinFlowConfigError(
            f"'{repository.name}' is a training run that has not saved its result yet. Continue it with "
            f"--resume_from_checkpoint latest, or convert a checkpoint: {convert.format(last.parent)}"
        )


def _config_of_pipeline(repository: LocatedRepository) -> TwinFlowRepositoryConfig | None:
    """Build the configuration of a saved pipeline, or return `None` if its transformer has no time conditioning."""
    index = repository.find(index_name(repository.directory))
    class_name = read_json(index).get("_class_name") if index else None
    family = family_of_pipeline_class(class_name) if class_name else None
    if family is None:
        return None
    config_name = f"{family.component_name}/config.json"
    if not repository.is_local:
        options = {"subfolder": repository.subfolder, **repository.hub_options}
        repository = locate_repository(repository.name, patterns=[config_name], **options)
    path = repository.find(config_name)
    values = read_json(path, name=config_name) if path else {}
    if SAVED_CONDITIONING not in values and values.get("twinflow_enabled") is not True:
        return None
    return TwinFlowRepositoryConfig(FULL, family.name, repository.name)


def _check_types(config: TwinFlowRepositoryConfig, name: str) -> None:
    def refuse(field_name: str, allowed: str) -> NoReturn:
        raise TwinFlowConfigError(
            f"{CONFIG_NAME} of '{name}' has {field_name}={str(getattr(config, field_name))[:80]!r}: it must be {allowed}."
        )

    def is_count(value: Any, highest: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= highest

    if not (isinstance(config.base_model, str) and config.base_model and "\0" not in config.base_model):
        refuse("base_model", "a Hub id, or a path relative to its directory")
    if not (config.base_model_revision is None or isinstance(config.base_model_revision, str)):
        refuse("base_model_revision", "a string or null")
    if not is_count(config.num_inference_steps, MAX_STEPS):
        refuse("num_inference_steps", f"a whole number from 1 to {MAX_STEPS}")
    if isinstance(config.guidance_scale, bool) or config.guidance_scale != 0:
        refuse("guidance_scale", "0, because guidance is built into the weights")
    if config.max_sequence_length is not None and not is_count(config.max_sequence_length, MAX_TOKENS):
        refuse("max_sequence_length", f"null or a whole number from 1 to {MAX_TOKENS}")
    if not (config.has_time_conditioning is None or isinstance(config.has_time_conditioning, bool)):
        refuse("has_time_conditioning", "true, false or null")
    if not is_count(config.format_version, MAX_FORMAT_VERSION):
        refuse("format_version", f"a whole number from 1 to {MAX_FORMAT_VERSION}")
    for field_name in ("options", "trained"):
        if not isinstance(getattr(config, field_name), dict):
            refuse(field_name, "a JSON object")
    names = [*FAMILIES[config.family].denoiser_names]
    if config.denoisers not in (None, names, names[:1]):
        refuse("denoisers", f"null or {names}")
    if not isinstance(config.base_loras, list):
        refuse("base_loras", "a list of texts")
    parse_base_loras(config.base_loras)
    if config.portable is not None:
        Portable.from_dict(config.portable)
