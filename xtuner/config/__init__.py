"""Configs: `load_config` reads a Python file, `build` makes the objects that it describes."""

from xtuner.config.build import Builder, build, check_names
from xtuner.config.load import Config, load_config, parse_config, parse_option, parse_value, read_base
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
    "read_base",
]
