"""Have a forked process read the Hub's settings from its environment again.

`huggingface_hub` and others read the endpoint, the home folder and more while they are imported, and copy them.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

LIBRARIES = {"accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "transformers"}


def find_copies() -> list[tuple[ModuleType, str]]:
    """The globals of libraries that hold a setting of the Hub, or an address or path below one."""
    from huggingface_hub import constants

    settings = {name for name in vars(constants) if name.startswith("HF_")}
    roots = (constants.ENDPOINT, constants.HF_HOME)
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in LIBRARIES]
    return [
        (module, name)
        for module in modules
        if module is not constants
        for name, value in list(vars(module).items())
        if name in settings or (isinstance(value, str | Path) and str(value).startswith(roots))
    ]


def read_again(copies: list[tuple[ModuleType, str]]) -> None:
    """Set `huggingface_hub.constants`, and the copies of it, to what this process's environment says."""
    from huggingface_hub import constants, hf_api

    before = dict(vars(constants))
    importlib.reload(constants)
    roots = [(before[name], getattr(constants, name)) for name in ("ENDPOINT", "HF_HOME")]
    for module, name in copies:
        value = getattr(module, name)
        if name in before and value == before[name]:
            setattr(module, name, getattr(constants, name))
            continue
        for old, new in roots:
            if isinstance(value, str | Path) and str(value).startswith(old):
                setattr(module, name, type(value)(new + str(value).removeprefix(old)))
    hf_api.api.endpoint = constants.ENDPOINT
