"""Module attributes that are imported when they are first used (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    namespace: dict[str, Any], names: Mapping[str, str], submodules: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Create the `__getattr__` and the `__dir__` of a module.

    Type checkers read the same names from imports under `TYPE_CHECKING`.

    Args:
        namespace: `globals()` of the module.
        names: maps each name to the module it is imported from, relative to the package or absolute.
        submodules: modules of the package that are attributes too.
    """
    module, package = namespace["__name__"], namespace["__package__"]

    def __getattr__(name: str) -> Any:
        if name in submodules:
            return importlib.import_module(f".{name}", package)
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        namespace[name] = value = getattr(importlib.import_module(names[name], package), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*namespace, *names, *submodules})

    return __getattr__, __dir__
