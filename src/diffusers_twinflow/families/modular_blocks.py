"""Pipelines with the interface of stock pipelines for models that diffusers ships as modular blocks."""

import inspect
import json
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import diffusers
import torch
from diffusers import ModularPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from huggingface_hub import snapshot_download

from ..configuration import TwinFlowConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

FROM_PROMPT = "text2"
REWRITE_PROMPTS = ("prompt_upsampler", "prompt_enhancer")
"""Blocks in which a language model rewrites the prompt. They are left out, so prompts are used as they are."""
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
MODEL_OPTIONS = ("device_map", "low_cpu_mem_usage", "max_memory", "use_safetensors", "variant")
"""Options of `from_pretrained` that only models take."""


@dataclass
class BlocksOutput(BaseOutput):
    """What the blocks of a modular pipeline return. What they do not return is `None`."""

    images: Any = None
    videos: Any = None
    audios: Any = None
    audio: Any = None
    sound: Any = None
    sampling_rate: Any = None


class BlocksPipeline(DiffusionPipeline):
    """A modular pipeline behind the interface of a stock pipeline.

    It has the components of the modular pipeline as attributes, and a call with the inputs of its blocks. Do not create
    it directly: `blocks_pipeline_class` builds the subclass for a modular class, and `from_modular` converts a loaded
    modular pipeline.

    Attributes:
        modular_class: the class of the modular pipeline.
        specs: the modular pipeline without components, which says what it needs.
        call_parameters: parameters of the call.
    """

    config_name = ModularPipeline.config_name
    modular_class: type[ModularPipeline]
    specs: ModularPipeline
    call_parameters: dict[str, inspect.Parameter]

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        missing = self.specs.components.keys() - parts.keys()
        self.register_modules(**{name: parts.get(name) for name in self.specs.components})
        for name in self.specs.config_component_names:
            if name in missing or parts[name] is None:
                self.register_modules(**{name: copy(getattr(self.specs, name))})
        self.register_to_config(
            **{name: parts.get(name, default) for name, default in config_defaults(self.specs).items()}
        )

    @classmethod
    def from_modular(cls, modular: ModularPipeline) -> "Self":
        """Convert a modular pipeline. The components are shared.

        Raises:
            TwinFlowConfigError: if the blocks of the modular pipeline are not those of its class.
        """
        if names_of(without_rewriting(modular.blocks)) != names_of(cls.specs.blocks):
            raise TwinFlowConfigError(
                f"this {type(modular).__name__} has other blocks than {cls.__name__}, and only pipelines with the blocks "
                "of their class are supported. Load it with ModularPipeline.from_pretrained, without changing its blocks."
            )
        configs = {name: modular.config[name] for name in config_defaults(cls.specs)}
        return cls(**{name: modular.components[name] for name in cls.specs.components}, **configs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> "Self":
        """Load all components. What is in the repository is loaded from there, and the rest from where its index says.

        Args:
            pretrained_model_name_or_path: folder with a `modular_model_index.json`.
            options: components by name, and `dtype`, `variant`, `use_safetensors`, `quantization_config` and the like,
                as for `DiffusionPipeline.from_pretrained`.
        """
        modular = cls.modular_class(cls.specs.blocks, pretrained_model_name_or_path)
        parts = {name: modular.config[name] for name in config_defaults(cls.specs)}
        parts |= {name: options.pop(name) for name in (*parts, *cls.specs.components) if name in options}
        for name in modular.pretrained_component_names:
            if name not in parts:
                parts[name] = _load(modular, name, Path(pretrained_model_name_or_path), options)
        pipeline = cls(**parts)
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        """Save a modular pipeline that stock diffusers loads. It takes the arguments of `DiffusionPipeline`.

        Its index names no repository, so the components are loaded from the folder.
        """
        modular = self.to_modular()
        modular.save_pretrained(str(save_directory), *args, overwrite_modular_index=True, **options)
        path = Path(save_directory, self.config_name)
        index = json.loads(path.read_text(encoding="utf-8"))
        for name in modular.pretrained_component_names:
            library, class_name = self.config[name]
            spec = index[name][2] | {"pretrained_model_name_or_path": None, "subfolder": name}
            if library is not None:
                spec["type_hint"] = [library, class_name]
            index[name] = [library, class_name, spec]
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def download(cls, pretrained_model_name: Any, **options: Any) -> str:
        """Download the index and the components that are in the same repository, and return the folder."""
        hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
        patterns = [cls.config_name, *(f"{name}/*" for name in cls.specs.pretrained_component_names)]
        return snapshot_download(pretrained_model_name, allow_patterns=patterns, **hub_options)

    def to_modular(self) -> ModularPipeline:
        """Return the modular pipeline with these components, which are shared."""
        modular = copy(self.specs)
        modular.register_components(**self.components)
        modular.register_to_config(**{name: self.config[name] for name in config_defaults(self.specs)})
        return modular

    @torch.no_grad()
    def __call__(self, *args: Any, return_dict: bool = True, **kwargs: Any) -> BlocksOutput | tuple[Any, ...]:
        """Run the blocks. The arguments are the inputs of the blocks.

        Returns:
            The outputs of the blocks; a tuple if `return_dict` is false.
        """
        given = inspect.Signature(list(self.call_parameters.values())).bind(*args, **kwargs).arguments
        modular = self.to_modular()
        modular._blocks = modular.blocks  # a copy, for the progress bars
        for block in nested(modular._blocks):
            if hasattr(block, "set_progress_bar_config"):
                block.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        state = modular(**given)
        names = {each.name for each in modular.blocks.outputs}
        output = BlocksOutput(**{name: state.get(name) for name in BlocksOutput.__dataclass_fields__ if name in names})
        return output if return_dict else output.to_tuple()


def _load(modular: ModularPipeline, name: str, directory: Path, options: dict[str, Any]) -> Any:
    """Load one component; `None` if the index does not say where it is."""
    spec = modular.get_component_spec(name)
    place: dict[str, Any] = {}
    if (directory / (spec.subfolder or name)).is_dir():
        place = {
            "pretrained_model_name_or_path": str(directory),
            "subfolder": spec.subfolder or name,
            "revision": None,
        }
    elif spec.pretrained_model_name_or_path is None:
        return None
    if isinstance(spec.type_hint, type) and not issubclass(spec.type_hint, torch.nn.Module):
        return spec.load(**place)
    dtype = options.get("dtype", torch.float32)
    quantized = getattr(options.get("quantization_config"), "quant_mapping", {}).get(name)
    return spec.load(
        **place,
        **{option: options[option] for option in MODEL_OPTIONS if option in options},
        dtype=dtype.get(name, dtype.get("default", torch.float32)) if isinstance(dtype, dict) else dtype,
        **({} if quantized is None else {"quantization_config": quantized}),
    )


@cache
def blocks_pipeline_class(class_name: str) -> type[BlocksPipeline] | None:
    """Return the pipeline class of a modular class of diffusers; `None` if diffusers has no such modular class."""
    found: Any = getattr(diffusers, class_name, None)
    if not (isinstance(found, type) and issubclass(found, ModularPipeline)) or found is ModularPipeline:
        return None
    return class_of(found(without_rewriting(found().blocks)))


def blocks_pipeline(modular: ModularPipeline) -> BlocksPipeline:
    """Give a loaded modular pipeline the interface of a stock pipeline, which training and loading LoRAs need.

    Args:
        modular: the modular pipeline, of a class of diffusers. It is not changed, and its components are shared.

    Raises:
        TwinFlowConfigError: if its blocks are not those of its class.

    Examples:
        >>> modular = ModularPipeline.from_pretrained("...")
        >>> modular.load_components(dtype=torch.bfloat16)
        >>> pipe = blocks_pipeline(modular)
        >>> load_twinflow_lora(pipe, "me/my-lora")
    """
    found = blocks_pipeline_class(type(modular).__name__)
    if found is None:
        raise TwinFlowConfigError(
            f"{type(modular).__name__} is not a modular pipeline class of diffusers. Pass one, such as a "
            "Flux3ModularPipeline."
        )
    return found.from_modular(modular)


def class_of(specs: ModularPipeline) -> type[BlocksPipeline]:
    """Build the pipeline class of a modular pipeline. Its blocks need not be those of its class.

    Args:
        specs: the modular pipeline, without components that have weights.
    """
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    call = call_parameters(specs)
    returns = inspect.Parameter("return_dict", inspect.Parameter.KEYWORD_ONLY, default=True)
    types: dict[str, Any] = {str(each.name): each.type_hint for each in specs.blocks.expected_components}
    parts = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=types[name]) for name in specs.components
    ]
    configs = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in config_defaults(specs).items()
    ]

    def __init__(self: Any, **parts: Any) -> None:
        BlocksPipeline.__init__(self, **parts)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return BlocksPipeline.__call__(self, *args, **kwargs)

    own = {
        name: _shared(name)
        for name, each in inspect.getmembers(type(specs))
        if isinstance(each, property) and not hasattr(BlocksPipeline, name)
    }
    __init__.__annotations__ = types
    cast(Any, __init__).__signature__ = inspect.Signature([me, *parts, *configs])
    __call__.__doc__ = BlocksPipeline.__call__.__doc__
    cast(Any, __call__).__signature__ = inspect.Signature([me, *call.values(), returns])
    namespace = own | {
        "__init__": __init__,
        "__call__": __call__,
        "__module__": __name__,
        "__doc__": BlocksPipeline.__doc__,
        "modular_class": type(specs),
        "specs": specs,
        "call_parameters": call,
        "_optional_components": list(specs.components),
    }
    return type(type(specs).__name__, (BlocksPipeline,), namespace)


def _shared(name: str) -> property:
    """Return a property that reads the modular pipeline, such as `vae_scale_factor`."""
    return property(lambda pipeline: getattr(pipeline.to_modular(), name))


def __getattr__(name: str) -> Any:
    """Return the pipeline class of a modular class, so that instances can be pickled."""
    found = blocks_pipeline_class(name) if name.endswith("ModularPipeline") else None
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def call_parameters(specs: ModularPipeline) -> dict[str, inspect.Parameter]:
    """Return the inputs of a pipeline's blocks as parameters of a call.

    An input without a default is needed if the blocks for a prompt need it, or else the first of their workflows.
    """
    blocks = specs.blocks
    names: list[str] = list(blocks._workflow_map or ())
    chosen = next((name for name in names if name.startswith(FROM_PROMPT)), names[0] if names else None)
    run = blocks if chosen is None else blocks.get_workflow(chosen)
    needed = {each.name for each in run.inputs if each.required and each.default is None}
    defaults = {each.name: each.default for each in (*blocks.inputs, *run.inputs)}
    ordered = sorted(filter(None, defaults), key=lambda name: (name not in needed, name != "prompt"))
    return {
        name: inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if name in needed else defaults[name],
        )
        for name in ordered
    }


def config_defaults(specs: ModularPipeline) -> dict[str, Any]:
    """Return the options of a modular pipeline that are not components, such as `boundary_ratio`."""
    return {each.name: specs.config[each.name] for each in specs.blocks.expected_configs}


def nested(blocks: Any) -> Iterator[Any]:
    """Yield the blocks and all blocks in them."""
    yield blocks
    for block in getattr(blocks, "sub_blocks", {}).values():
        yield from nested(block)


def without_rewriting(blocks: Any) -> Any:
    """Remove the blocks that rewrite prompts, and return the blocks."""
    for name in REWRITE_PROMPTS:
        blocks.sub_blocks.pop(name, None)
    return blocks


def names_of(blocks: Any) -> list[tuple[str, ...]]:
    """Return the classes of all nested blocks, with the names of the blocks in them."""
    return [(type(each).__name__, *getattr(each, "sub_blocks", {})) for each in nested(blocks)]
