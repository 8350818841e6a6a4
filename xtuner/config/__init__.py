"""From a Python file to objects: `load_config` reads names and values, `build` makes what they name."""

from xtuner.config.build import Builder, build, check_names
from xtuner.config.load import Config, load_config, parse_config, parse_option, parse_value
from xtuner.config.ref import Ref

__all__ = [
    "Builder",
    "Config",
    "Ref",
    "build",
    "check_names",
    "load_config",
    "parse_config",
    "parse_option",
    "parse_value",
]
