"""`xtuner serve`: bind the port, load the model and its adapters, answer requests until stopped.

SIGTERM or Ctrl-C    no new requests; running ones have `shutdown_s` seconds to end; then the port is free
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.chat.hosts import is_loopback
from xtuner.chat.load_model import find_parts, load_model
from xtuner.chat.settings import ModelSettings, check_llava_flags
from xtuner.chat.trained_with import choose_template
from xtuner.errors import ConfigError
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger
from xtuner.paths import name_and_place
from xtuner.utils import PROMPT_TEMPLATE

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,]+")


@dataclass(frozen=True)
class ServeSettings(ModelSettings):
    """The settings of `xtuner serve`; `adapters` are NAME=PATH or PATH."""

    adapters: Sequence[str] = ()
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_new_tokens: int = 2048
    max_running: int = 32
    max_waiting: int = 256
    max_request_bytes: int = 8 * 2**20
    timeout_s: float = 600.0
    shutdown_s: float = 30.0
    allowed_origins: Sequence[str] = ()
    reward: str | None = None
    image_folder: str | None = None
    fetch_images: bool = False

    def check(self) -> None:
        """Raise ConfigError for an invalid value."""
        rules: list[tuple[str, float, bool, str]] = [
            ("port", self.port, 0 <= self.port < 65536, "0 (any that is free) to 65535"),
            ("max-new-tokens", self.max_new_tokens, self.max_new_tokens > 0, "1 or more"),
            ("max-running", self.max_running, self.max_running > 0, "1 or more"),
            ("max-waiting", self.max_waiting, self.max_waiting > 0, "1 or more"),
            ("max-request-bytes", self.max_request_bytes, self.max_request_bytes > 0, "1 or more"),
            ("timeout", self.timeout_s, self.timeout_s > 0, "above 0"),
            ("shutdown-time", self.shutdown_s, self.shutdown_s >= 0, "0 or more"),
        ]
        for name, value, holds, cure in rules:
            if not holds:
                raise ConfigError(
                    translate(
                        "--{name} is {value}: write {cure}.", name=name, value=value, cure=translate(cure)
                    )
                )
        for origin in self.allowed_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    translate(
                        "--allowed-origins {origin!r}: write pages as browsers name them, http://host:port "
                        "without a path, with commas between, or * for all",
                        origin=origin,
                    )
                )
        check_llava_flags(self)
        if self.image_folder is not None and not Path(self.image_folder).expanduser().is_dir():
            raise ConfigError(
                translate("--image-folder {folder}: there is no such folder.", folder=self.image_folder)
            )
        if self.adapters and self.llava is not None:
            raise ConfigError(
                translate(
                    "--adapter {adapter} and --llava {llava}: name one of them.",
                    adapter=self.adapters[0],
                    llava=self.llava,
                )
            )

    def named_adapters(self) -> dict[str, str]:
        """The folders of the adapters by the names that requests use."""
        base = self.base_name()
        found: dict[str, str] = {}
        for text in self.adapters:
            name, path = name_and_place(text)
            if path == text:
                name = Path(text).resolve().name
            if not name or not path:
                raise ConfigError(translate("--adapter {text!r}: write NAME=FOLDER, or FOLDER.", text=text))
            if name in found or name == base:
                raise ConfigError(
                    translate(
                        "--adapter {text!r}: the name {name!r} is taken; give it another one: NAME={path}",
                        text=text,
                        name=name,
                        path=path,
                    )
                )
            found[name] = path
        return found

    def base_name(self) -> str:
        """The name of the base model in requests."""
        return self.name or Path(self.model).resolve().name or self.model


def serve(settings: ServeSettings) -> None:
    """Serve until stopped. Raises ConfigError if the port is in use or a package is missing."""
    settings.check()
    _need_packages()
    adapters = settings.named_adapters()
    base = settings.base_name()
    # Names and the port are checked before the model is loaded, which takes minutes.
    folders: list[str | Path] = [f for f in (settings.llava, settings.model) if f is not None]
    template = choose_template(settings.prompt_template, folders)
    templates = {
        name: choose_template(settings.prompt_template, [path, settings.model])
        for name, path in adapters.items()
    }
    listener = listen(settings.host, settings.port)
    try:
        service = _load(settings, base, template, adapters, templates)
        service.scheduler.start()
        try:
            _run(settings, service, listener)
        finally:
            service.scheduler.close()
    finally:
        listener.close()


def _need_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            translate(
                "xtuner serve needs the package {name}: {command}",
                name=error.name,
                command=install_extra("serve"),
            )
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `host` and `port`; ConfigError if this fails."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(
            translate("--host {host}: there is no such address: {error}", host=host, error=error.strerror)
        ) from error
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Only a listening socket prevents others from using the port.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                translate(
                    "port {port} of {host} is in use by another program: stop that one, or choose "
                    "another --port",
                    port=port,
                    host=host,
                )
            ) from error
        raise ConfigError(
            translate(
                "{host}:{port} cannot be listened at: {error}", host=host, port=port, error=error.strerror
            )
        ) from error
    return listener


def _load(
    settings: ServeSettings, base: str, template: Any, adapters: dict[str, str], templates: dict[str, Any]
) -> Any:
    from xtuner.chat.server.images import ImageReader
    from xtuner.chat.server.prompts import PromptWriter
    from xtuner.chat.server.scheduler import Scheduler
    from xtuner.chat.server.service import Served, Service
    from xtuner.generation.limits import context_length
    from xtuner.model.lora import attach_adapter, check_adapter_folder

    for path in adapters.values():
        check_adapter_folder(path)
    scorer = None if settings.reward is None else _load_scorer(settings)
    parts = find_parts(settings)
    adapter = None if parts is None else parts.llm_adapter
    model, tokenizer, pictures = load_model(settings, parts, adapter)
    always = None if adapter is None else "default"
    num_tokens = model.get_input_embeddings().num_embeddings
    own = PROMPT_TEMPLATE.auto if getattr(tokenizer, "chat_template", None) else None
    models = [Served(base, settings.model, always, own if template is None else template)]
    for i, (name, path) in enumerate(adapters.items()):
        # The name of an adapter in peft must not contain dots, unlike that in requests.
        model = attach_adapter(model, path, name=f"adapter_{i}")
        chosen = own if templates[name] is None else templates[name]
        models.append(Served(name, path, f"adapter_{i}", chosen))
        logger.info(translate("Load adapter %s from %s"), name, path)
    scheduler = Scheduler(
        model.eval(),
        tokenizer,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        pictures=pictures,
    )
    return Service(
        scheduler,
        models,
        PromptWriter(tokenizer, context_length(model), pictures),
        num_tokens=num_tokens,
        max_new_tokens=settings.max_new_tokens,
        timeout_s=settings.timeout_s,
        api_key=settings.api_key,
        max_request_bytes=settings.max_request_bytes,
        host=settings.host,
        allowed_origins=settings.allowed_origins,
        scorer=scorer,
        images=ImageReader(settings.image_folder, settings.fetch_images, settings.max_request_bytes),
    )


def _load_scorer(settings: ServeSettings) -> Any:
    from xtuner.scoring.scorer import load_scorer

    assert settings.reward is not None
    return load_scorer(settings.reward, trust_remote_code=settings.trust_remote_code, is_reward=True)


def _run(settings: ServeSettings, service: Any, listener: socket.socket) -> None:
    from xtuner.chat.server.app import make_app
    from xtuner.chat.server.http import Server

    if not settings.api_key and not is_loopback(settings.host):
        logger.warning(
            translate("whoever reaches %s can use this server: --api-key asks them for a key"), settings.host
        )
    server = Server(make_app(service), service.scheduler, settings.shutdown_s)
    host, port = listener.getsockname()[:2]
    names = ", ".join(model.name for model in service.models)
    address = f"[{host}]" if ":" in host else host
    logger.info(translate("Serving %s at http://%s:%d/v1 (Ctrl-C ends it)"), names, address, port)
    server.run(sockets=[listener])
