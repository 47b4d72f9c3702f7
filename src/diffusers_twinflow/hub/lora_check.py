"""Check that a LoRA file fits a transformer. Only the file's header is needed."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file

from ..configuration import TwinFlowConfigError
from .files import SAVE_AGAIN, TensorHeader, check_finite, read_header

METADATA_KEY = "lora_adapter_metadata"
MAX_PATTERN_KEYS = 500
"""PEFT matches every module with every key of a pattern by a regular expression, and Python caches 512 of them."""
MAX_MODULE_NAMES = 10_000
HALVES = ("lora_A.weight", "lora_B.weight")
FREE_FIELDS = {
    "alpha_pattern",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "use_rslora",
}


def check_lora(path: Path, transformer: torch.nn.Module, component_name: str = "transformer") -> None:
    """Check that a LoRA file fits a transformer. Weights are read only after their shapes are checked.

    Args:
        path: LoRA file in safetensors format.
        transformer: model that the LoRA is loaded into.
        component_name: name of the transformer in the pipeline, which is the prefix of the weights' names.

    Raises:
        TwinFlowConfigError: if the weights have other modules, shapes or ranks, if the metadata is missing, contradicts
            the weights or describes more than a plain LoRA, or if values are not finite.
    """
    header = read_header(path)
    prefix = f"{component_name}."
    config = _lora_config(path, header, prefix)
    shapes = _shapes_by_module(path, header, prefix)
    modules = {name: m for name, m in transformer.named_modules() if _is_own_module(name)}
    expected = _targets(config, modules)
    if set(shapes) != expected:
        odd = sorted(set(shapes) ^ expected)[0]
        raise TwinFlowConfigError(
            f"'{path.name}' and its metadata do not name the same modules of this {type(transformer).__name__} "
            f"(for example '{odd}'), so it belongs to another model. Load it into the base that it was trained for."
        )
    ranks = _by_module(path, "rank_pattern", config.rank_pattern or {}, expected)
    _by_module(path, "alpha_pattern", config.alpha_pattern or {}, expected)
    for name, pair in shapes.items():
        rank = ranks.get(name, config.r)
        wanted = _expected_shapes(modules[name], rank)
        if pair != wanted:
            raise TwinFlowConfigError(
                f"'{path.name}' has shapes {pair} at '{name}', but this {type(transformer).__name__} needs {wanted} "
                f"for the rank {rank} of its metadata: it belongs to a model of another size, or its rank is wrong. Load it into "
                "the base that it was trained for."
            )
    check_finite(path)


def read_lora(path: Path, component_name: str = "transformer") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a LoRA file that `check_lora` accepted.

    Returns:
        The weights by their names without the component's prefix, and the fields of the `LoraConfig`.
    """
    prefix = f"{component_name}."
    stored = json.loads(read_header(path).metadata[METADATA_KEY])
    weights = {name.removeprefix(prefix): tensor for name, tensor in load_file(path).items()}
    return weights, {name.removeprefix(prefix): value for name, value in stored.items()}


def _lora_config(path: Path, header: TensorHeader, prefix: str) -> LoraConfig:
    if METADATA_KEY not in header.metadata:
        raise TwinFlowConfigError(
            f"'{path.name}' has no {METADATA_KEY} in its header, so its alpha is unknown: save it again with "
            "save_twinflow_lora."
        )
    try:
        stored = json.loads(header.metadata[METADATA_KEY])
        fields = {name.removeprefix(prefix): value for name, value in stored.items()}
        is_prefixed = bool(fields) and all(name.startswith(prefix) for name in stored)
    except (ValueError, AttributeError, RecursionError) as error:
        raise TwinFlowConfigError(
            f"'{path.name}' has {METADATA_KEY} that is not a JSON object ({error}). {SAVE_AGAIN}"
        ) from error
    if not is_prefixed:
        raise TwinFlowConfigError(
            f"'{path.name}' has {METADATA_KEY} that does not describe a {prefix[:-1]}. {SAVE_AGAIN}"
        )
    plain = json.loads(json.dumps(LoraConfig().to_dict(), default=list))
    for name, value in fields.items():
        if name not in FREE_FIELDS and value != plain.get(name, plain):
            raise TwinFlowConfigError(
                f"'{path.name}' sets {name}={value!r} in its {METADATA_KEY}, but must be a plain LoRA. Save it with "
                "save_twinflow_lora."
            )
    problem = _field_problem(fields)
    if problem:
        raise TwinFlowConfigError(f"'{path.name}' has {problem} in its {METADATA_KEY}. {SAVE_AGAIN}")
    return LoraConfig(**{name: fields[name] for name in FREE_FIELDS & set(fields) - {"peft_version"}})


def _field_problem(fields: dict) -> str | None:
    """Return what is wrong with the fields that a plain LoRA may set, or `None` if they are valid."""

    def is_rank(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6

    def is_pattern(value: Any, is_value: Callable[[Any], bool]) -> bool:
        return (
            isinstance(value, dict)
            and len(value) <= MAX_PATTERN_KEYS
            and all(f"_{k}".replace(".", "_").isidentifier() and is_value(value[k]) for k in value)
        )

    def is_names(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) <= MAX_MODULE_NAMES
            and all(isinstance(name, str) and name for name in value)
        )

    checks = {
        "r": is_rank,
        "lora_alpha": is_number,
        "lora_dropout": lambda v: is_number(v) and 0 <= v < 1,
        "init_lora_weights": lambda v: v in (True, False, "gaussian"),
        "target_modules": lambda v: is_names(v) and v,
        "exclude_modules": lambda v: v is None or is_names(v),
        "rank_pattern": lambda v: is_pattern(v, is_rank),
        "alpha_pattern": lambda v: is_pattern(v, is_number),
        "use_rslora": lambda v: isinstance(v, bool),
        "inference_mode": lambda v: isinstance(v, bool),
        "base_model_name_or_path": lambda v: v is None or isinstance(v, str),
        "revision": lambda v: v is None or isinstance(v, str),
        "peft_version": lambda v: v is None or isinstance(v, str),
    }
    for name in ("r", "lora_alpha", "target_modules"):
        if name not in fields:
            return f"no {name}"
    for name in sorted(fields):
        if name in checks and not checks[name](fields[name]):
            return f"{name}={repr(fields[name])[:200]}, which is not allowed"
    return None


def _shapes_by_module(path: Path, header: TensorHeader, prefix: str) -> dict[str, list[tuple[int, ...] | None]]:
    shapes: dict[str, list[tuple[int, ...] | None]] = {}
    for name, shape in header.shapes.items():
        half = next((i for i, ending in enumerate(HALVES) if name.endswith("." + ending)), None)
        if half is None or not name.startswith(prefix):
            raise TwinFlowConfigError(
                f"'{path.name}' has '{name}', which is not a LoRA weight of a {prefix[:-1]}. Save it with "
                "save_twinflow_lora."
            )
        module = name[len(prefix) : -len(HALVES[half]) - 1]
        shapes.setdefault(module, [None, None])[half] = shape
    return shapes


def _is_own_module(name: str) -> bool:
    return ".base_layer" not in name and ".lora_" not in name


def _endings(name: str) -> list[str]:
    """Return the names that PEFT accepts for a module: its whole name, and each end of it that starts after a dot."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _targets(config: LoraConfig, modules: Iterable[str]) -> set[str]:
    """Return the modules that the metadata names, found as PEFT does but in one pass."""
    targets, excluded = set(config.target_modules or ()), set(config.exclude_modules or ())
    return {name for name in modules if not targets.isdisjoint(ends := _endings(name)) and excluded.isdisjoint(ends)}


def _by_module(path: Path, field: str, pattern: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the value of a pattern for each module name. The first matching key is used, as in PEFT.

    Raises:
        TwinFlowConfigError: if a key is not used by any module.
    """
    order = {key: place for place, key in enumerate(pattern)}
    keys = {
        name: min(fitting, key=order.__getitem__)
        for name in names
        if (fitting := [ending for ending in _endings(name) if ending in order])
    }
    if unused := order.keys() - set(keys.values()):
        raise TwinFlowConfigError(
            f"'{path.name}' has a {field} with {len(unused)} keys that no module uses, such as "
            f"'{sorted(unused)[0][:80]}': save it again with save_twinflow_lora."
        )
    return {name: pattern[key] for name, key in keys.items()}


def _expected_shapes(layer: torch.nn.Module, rank: int) -> list[tuple[int, ...] | None]:
    module = getattr(layer, "base_layer", layer)
    if isinstance(module, torch.nn.Linear):
        return [(rank, module.in_features), (module.out_features, rank)]
    if isinstance(module, torch.nn.Conv2d):
        return [
            (rank, module.in_channels // module.groups, *module.kernel_size),
            (module.out_channels, rank, 1, 1),
        ]
    return [None, None]
