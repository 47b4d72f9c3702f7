"""Load functions of the user that are named as `module:function`."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..configuration import TwinFlowConfigError


def load_function(name: str, option: str) -> Callable[..., Any]:
    """Load a function of the user.

    Args:
        name: the function as `module:function`. The module may be in the working directory.
        option: the option that names it, for the error.

    Raises:
        TwinFlowConfigError: if there is no such function.
    """
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TwinFlowConfigError(
            f"{option}='{name}' cannot be loaded ({error}). Write it as module:function."
        ) from error
    if not callable(function):
        raise TwinFlowConfigError(f"{option}='{name}' is a {type(function).__name__}: it must be a function.")
    return function
