"""Find out which stock classes the installed diffusers has."""

from collections.abc import Iterable
from functools import cache

import diffusers

COMPLETE_VERSION = "0.42.1"
"""A release of diffusers that has every class this package extends or calls."""


@cache
def _present() -> frozenset[str]:
    """Return the names in diffusers. Listing them takes milliseconds."""
    return frozenset(dir(diffusers))


def absent_from_diffusers(class_names: Iterable[str]) -> list[str]:
    """Return the class names that the installed diffusers lacks, without importing the classes."""
    return [name for name in class_names if name not in _present()]


def absence(class_name: str) -> str:
    """Return a message that the installed diffusers lacks a class, and which release has it."""
    return (
        f"diffusers {diffusers.__version__} has no {class_name}. Install a release that has it: "
        f"pip install diffusers=={COMPLETE_VERSION}"
    )
