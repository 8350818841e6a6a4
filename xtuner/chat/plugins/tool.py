"""A function that a model may call, and the result of a call.

def weather(city: str, days: int = 1) -> str:        Tool("weather", "The weather of the next days.",
    \"\"\"The weather of the next days.                       {"city": "the name of a city", "days": ""},
                                               ->          required=("city",))
    Args:
        city: the name of a city
    \"\"\"

A call never ends the dialogue: the model receives errors, and calls that take too long are abandoned.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtuner.chat.plugins.calculate import calculate
from xtuner.chat.plugins.search import KEY, search_from_environment
from xtuner.chat.plugins.solve import solve
from xtuner.errors import ConfigError, NotFoundError
from xtuner.language import translate
from xtuner.log import logger

MAX_RESULT = 4000  # characters
SECONDS = 60.0
PLUGINS = ("calculate", "solve", "search")
_PARAMETER = re.compile(r"^(?::param\s+)?(?:\w+\s+)?(\w+)\s*(?:\([^)]*\))?\s*:\s+(\S.*)$")


class ToolError(RuntimeError):
    """A call failed; the message is for the model."""


@dataclass(frozen=True)
class Tool:
    """A function with a description of its purpose and parameters for the model."""

    name: str
    description: str
    function: Callable[..., Any]
    parameters: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    types: Mapping[str, Any] = field(default_factory=dict)

    def call(self, arguments: Mapping[str, Any], seconds: float = SECONDS) -> str:
        """The result as text of at most MAX_RESULT characters; ToolError if the call fails."""
        unknown = [name for name in arguments if name not in self.parameters]
        missing = [name for name in self.required if name not in arguments]
        if unknown or missing:
            takes = ", ".join(self.parameters) or "nothing"
            wrong = f"does not take {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
            raise ToolError(f"{self.name} {wrong}; it takes {takes}")
        given = {name: self._converted(name, value) for name, value in arguments.items()}
        result = _within(lambda: self.function(**given), self.name, seconds)
        text = result if isinstance(result, str) else str(result)
        if len(text) > MAX_RESULT:
            text = f"{text[:MAX_RESULT]} ... ({len(text) - MAX_RESULT} more characters left out)"
        return text

    def _converted(self, name: str, value: Any) -> Any:
        kind = self.types.get(name)
        if kind in (int, float) and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            try:
                return kind(value)
            except ValueError:
                raise ToolError(
                    f"{self.name}: {name} is {value!r}, not a value of type {kind.__name__}"
                ) from None
        return str(value) if kind is str else value


def _within(function: Callable[[], Any], name: str, seconds: float) -> Any:
    """The return value of `function`; ToolError if it fails or takes longer than `seconds`."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["result"] = function()
        except Exception as error:  # a tool may raise anything
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True, name=f"tool {name}")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise ToolError(f"{name} did not answer within {seconds:g} s")
    if error := outcome.get("error"):
        logger.debug(translate("the tool %s failed"), name, exc_info=error)
        raise ToolError(str(error) or type(error).__name__) from error
    return outcome["result"]


def plugin(name: str) -> Tool:
    """The built-in tool `name`; ConfigError if its requirements are missing."""
    if name == "calculate":
        words = "Work out arithmetic exactly."
        return Tool(name, words, calculate, {"expression": "such as (3 + 4) * sqrt(2)"}, ("expression",))
    if name == "solve":
        words = "Solve equations."
        return Tool(name, words, solve, {"equations": "such as x + y = 3, x - y = 1"}, ("equations",))
    search = search_from_environment()
    words = "Search the web."
    return Tool(
        name, words, lambda query: "\n".join(search(query)), {"query": "what to look for"}, ("query",)
    )


def plugins(names: tuple[str, ...]) -> list[Tool]:
    """The tools `names`; all usable tools if `names` is empty."""
    if names:
        return [plugin(name) for name in dict.fromkeys(names)]
    found = []
    for name in PLUGINS:
        try:
            found.append(plugin(name))
        except ConfigError:
            logger.warning(translate("The agent has no web search: set the environment variable %s"), KEY)
    return found


def tools_from_file(path: Path) -> list[Tool]:
    """The public functions that the Python file `path` defines."""
    if not path.is_file():
        raise NotFoundError(translate("--tools {path}: no such file", path=path))
    spec = importlib.util.spec_from_file_location(f"xtuner_tools_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(
            translate("--tools {path}: give a Python file (.py) or a list of MCP servers (.json)", path=path)
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code
        raise ConfigError(
            translate("--tools {path}: {kind}: {error}", path=path, kind=type(error).__name__, error=error)
        ) from error
    functions = [
        value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not functions:
        raise ConfigError(translate("--tools {path} defines no public function", path=path))
    return [tool_from_function(function, f"--tools {path}") for function in functions]


def tool_from_function(function: Callable[..., Any], place: str = "tools") -> Tool:
    """A tool with the name, signature and docstring of `function`."""
    name = function.__name__
    words = inspect.getdoc(function)
    if not words:
        raise ConfigError(
            translate(
                "{place}: {name} has no docstring; its first paragraph tells the model what it does",
                place=place,
                name=name,
            )
        )
    if inspect.iscoroutinefunction(function):
        raise ConfigError(
            translate("{place}: {name} is async; write a plain function", place=place, name=name)
        )
    matches = [_PARAMETER.match(line.strip()) for line in words.splitlines()[1:]]
    descriptions = {match[1]: match[2] for match in matches if match}
    parameters, required, types = {}, [], {}
    try:
        hints = inspect.get_annotations(function, eval_str=True)
    except NameError:
        hints = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(
                translate(
                    "{place}: {name} takes {parameter}; a model can only give named arguments",
                    place=place,
                    name=name,
                    parameter=parameter,
                )
            )
        parameters[parameter.name] = descriptions.get(parameter.name, "")
        types[parameter.name] = hints.get(parameter.name)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    description = " ".join(words.split("\n\n")[0].split())
    return Tool(name, description, function, parameters, tuple(required), types)
