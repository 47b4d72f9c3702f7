"""The module in which saved pipelines find the TwinFlow transformer classes: their `model_index.json` names it.

diffusers looks for the class in a loaded module that also has `ModelMixin`. `import diffusers_twinflow` therefore loads
this module, which imports diffusers only when one of its names is used.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("diffusers" if name == "ModelMixin" else __package__), name)
