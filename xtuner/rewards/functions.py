"""A function of the user's, by a name on a command line or in a config.

my_rewards.py:polite    the function `polite` of that file
package.module:polite   of an installed module
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xtuner.errors import ConfigError
from xtuner.rewards import faults


def find_function(name: str, option: str) -> Callable[..., Any]:
    """The function `name`, `module:function` or `file.py:function`; ConfigError, which names the `option`."""
    module, _, function = name.rpartition(":")
    found = getattr(_load(module, name, option), function, None)
    if not callable(found):
        raise ConfigError(faults.no_function(name, option))
    return found


def check_takes(function: Callable[..., Any], name: str) -> None:
    """ConfigError if `function` cannot be called with a question, an answer and a row."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a callable without a signature
        return
    if wrong := faults.wrong_arguments(name, signature):
        raise ConfigError(wrong)


def _load(module: str, name: str, option: str) -> Any:
    path = Path(module)
    try:
        if path.suffix != ".py":
            return importlib.import_module(module)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded
    except (ImportError, OSError, SyntaxError) as error:
        raise ConfigError(faults.not_loaded(name, option, error)) from error
