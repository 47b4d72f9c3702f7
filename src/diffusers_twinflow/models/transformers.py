"""Where saved pipelines find the TwinFlow classes of transformers: their `model_index.json` names this module.

diffusers looks a class up in a module that is loaded already and holds `ModelMixin` too. `import diffusers_twinflow`
therefore loads this module, which imports diffusers only when one of its names is used.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("diffusers" if name == "ModelMixin" else __package__), name)
