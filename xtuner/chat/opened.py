"""A model that is loaded to be talked to, with the history, as its settings say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xtuner.chat.answer import Answerer, Show
from xtuner.chat.load_model import find_parts, load_model, reads_images
from xtuner.chat.plugins import moss
from xtuner.chat.plugins.mcp_servers import McpServers
from xtuner.chat.plugins.moss import MossAnswerer
from xtuner.chat.plugins.tool import Tool, plugins, tools_from_file
from xtuner.chat.react import Agent, rules
from xtuner.chat.session import make_session
from xtuner.chat.settings import Settings
from xtuner.chat.trained_with import choose_template
from xtuner.dataset.images.decode import read_image
from xtuner.errors import ConfigError
from xtuner.generation.generate import Completion
from xtuner.generation.limits import context_length
from xtuner.language import translate
from xtuner.log import logger
from xtuner.scoring.scorer import Scorer, load_scorer
from xtuner.utils import PROMPT_TEMPLATE


@dataclass(frozen=True)
class Opened:
    """What answers: the model with its history, and `answer`, which may also call tools.

    `make_system` adds an agent's instructions to a system text.
    """

    answerer: Answerer
    answer: Callable[[str, Show], Completion]
    adapter: str | None
    make_system: Callable[[str], str]


def open_model(settings: Settings, stack: ExitStack) -> Opened:
    """Load the model of `settings`; `stack` stops the servers of its tools."""
    settings.check()
    # Names are checked before the model is loaded, which takes minutes.
    named = (settings.adapter, settings.llava, settings.model)
    folders: list[str | Path] = [f for f in named if f is not None]
    template = choose_template(settings.prompt_template, folders)
    system = settings.system_text()
    if settings.plugins and not settings.lagent:
        moss.check_template(template)
        template = moss.MOSS_TEMPLATE
        asked = settings.system is not None or settings.system_template not in (None, "moss_sft")
        system = system if asked else moss.system_text(settings.plugins, settings.bot_name)
    return _load(settings, template, system, _tools(settings, stack))


def _tools(settings: Settings, stack: ExitStack) -> list[Tool]:
    """The tools that the model may call; `stack` stops their servers."""
    if not settings.lagent:
        return plugins(settings.plugins) if settings.plugins else []
    tools = [] if settings.tools and not settings.plugins else plugins(settings.plugins)
    for name in settings.tools:
        path = Path(name).expanduser()
        if path.suffix == ".json":
            servers = McpServers(path)
            stack.callback(servers.close)
            tools += servers.tools
        else:
            tools += tools_from_file(path)
    names = [tool.name for tool in tools]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ConfigError(translate("--tools: there are two tools named {name!r}", name=sorted(doubled)[0]))
    logger.info(translate("Tools: %s"), ", ".join(names))
    return tools


def _load(settings: Settings, template: Mapping[str, Any] | None, system: str, tools: list[Tool]) -> Opened:
    from xtuner import devices, dist

    if settings.offload_folder is not None and not devices.kind_of(dist.device()).many_devices:
        logger.warning(
            translate("--offload-folder has no effect: on %s all layers stay in memory"), dist.device().type
        )
    scorer = _scorer(settings)
    _check_images(settings)
    parts = find_parts(settings)
    images = {name: read_image(name) for name in settings.images}
    adapter = settings.adapter if parts is None else parts.llm_adapter
    model, tokenizer, pictures = load_model(settings, parts, adapter)
    if images and pictures is None:
        raise ConfigError(
            translate(
                "--image {image}: the model cannot read images, for the reason above",
                image=settings.images[0],
            )
        )
    opening = [pictures.add(images[name], name=name) for name in settings.images] if pictures else []
    if template is None and getattr(tokenizer, "chat_template", None):
        template = PROMPT_TEMPLATE.auto
    make_system = partial(rules, tools) if settings.lagent else str
    context = context_length(model)
    session = make_session(
        tokenizer, template, make_system(system), settings.bot_name, context, pictures, opening
    )
    answerer = Answerer(model, tokenizer, session, settings, scorer)
    answer: Callable[[str, Show], Completion] = answerer
    if tools:
        answer = Agent(answerer, tools) if settings.lagent else MossAnswerer(answerer, tools)
    return Opened(answerer, answer, adapter, make_system)


def _scorer(settings: Settings) -> Scorer | None:
    """The reward model that chooses among answers; None without one."""
    if settings.reward is None:
        return None
    return load_scorer(settings.reward, trust_remote_code=settings.trust_remote_code, is_reward=True)


def _check_images(settings: Settings) -> None:
    """Raise ConfigError for an image if the model reads none."""
    if settings.images and not reads_images(settings):
        raise ConfigError(
            translate(
                "--image {image}: the family of {model} reads no images here; name a vision-language "
                "model, or add --llava FOLDER with a projector and --visual-encoder CLIP",
                image=settings.images[0],
                model=settings.model,
            )
        )
