"""Which stock classes the installed diffusers has."""

from collections.abc import Iterable

import diffusers

COMPLETE_VERSION = "0.42.1"
"""A release of diffusers that has every class this package extends or calls."""


def absent_from_diffusers(class_names: Iterable[str]) -> list[str]:
    """Those of the classes that the installed diffusers lacks; no module of a class is imported."""
    present = set(dir(diffusers))
    return [name for name in class_names if name not in present]


def absence(class_name: str) -> str:
    """Say that the installed diffusers lacks a class, and which release has it."""
    return (
        f"diffusers {diffusers.__version__} has no {class_name}. diffusers {COMPLETE_VERSION} has it: "
        f"pip install diffusers=={COMPLETE_VERSION}"
    )
