"""`xtuner web`: starts the pages and, if a model is named, its server; both stop together."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xtuner.chat.server.serve import listen
from xtuner.chat.web import client
from xtuner.errors import ConfigError
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model_folder import check_model_folder

MAX_REQUEST_BYTES = (
    96 * 2**20
)  # each turn sends all images of the dialogue, 16 of 4 MiB and a third for base64


@dataclass(frozen=True)
class WebSettings:
    """Settings of `xtuner web`; `serve_arguments` are passed to `xtuner serve`."""

    model_or_url: str | None = None
    work_dir: str | None = None
    host: str = "127.0.0.1"
    port: int = 8501
    api_key: str | None = None
    serve_arguments: Sequence[str] = ()


def web(settings: WebSettings) -> int:
    """Show the pages until stopped; returns the exit code of the process that ended first."""
    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError(
            translate("xtuner web needs the package streamlit: {command}", command=install_extra("web"))
        )
    target = settings.model_or_url
    is_url = target is not None and target.startswith(("http://", "https://"))
    if settings.serve_arguments and (target is None or is_url):
        raise ConfigError(
            translate(
                "{option} needs a model that this command serves: give its folder",
                option=settings.serve_arguments[0],
            )
        )
    if settings.work_dir is not None and not Path(settings.work_dir).expanduser().is_dir():
        raise ConfigError(translate("--work-dir {work_dir}: no such folder", work_dir=settings.work_dir))
    port = _free_port(settings.host, settings.port)
    environment = {**os.environ, **({"XTUNER_API_KEY": settings.api_key} if settings.api_key else {})}
    children: list[subprocess.Popen[bytes]] = []
    try:
        url = target if is_url else None
        if is_url and url is not None:
            client.Client(url, settings.api_key).models()
        elif target is not None:
            check_model_folder(target)
            served_at = _free_port("127.0.0.1", 0)
            command = [sys.executable, "-m", "xtuner", "serve", target, "--port", str(served_at)]
            command += ["--max-request-bytes", str(MAX_REQUEST_BYTES)]
            children.append(subprocess.Popen([*command, *settings.serve_arguments], env=environment))
            url = f"http://127.0.0.1:{served_at}"
            if (code := _wait_for(f"{url}/health", children[0])) is not None:
                return code
        # For its welcome, which tells the address again, Streamlit asks a server for this machine's.
        quiet = {**environment, "STREAMLIT_LOGGER_HIDE_WELCOME_MESSAGE": "true"}
        children.append(subprocess.Popen(_streamlit(settings, url, port), env=quiet))
        host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # all addresses of this machine
        if (code := _wait_for(f"http://{host}:{port}/_stcore/health", children[-1])) is not None:
            return code
        logger.info(translate("Open http://%s:%d in a browser (Ctrl-C ends it)"), host, port)
        while all(child.poll() is None for child in children):
            time.sleep(0.2)
        return next(child.returncode for child in children if child.returncode is not None)
    finally:
        _end(children)


def _free_port(host: str, port: int) -> int:
    """`port`, or any free port for 0; ConfigError if another program uses it."""
    with listen(host, port) as listener:
        return int(listener.getsockname()[1])


def _streamlit(settings: WebSettings, url: str | None, port: int) -> list[str]:
    options = {
        "server.address": settings.host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "logger.level": "warning",
    }
    page = Path(__file__).with_name("main.py")
    command = [sys.executable, "-m", "streamlit", "run", str(page)]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    more = [
        *(["--url", url] if url else []),
        *(["--work-dir", settings.work_dir] if settings.work_dir else []),
    ]
    return [*command, "--", *more]


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> int | None:
    """None as soon as the server answers at `url`; its exit code if it ended before."""
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return None
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return server.returncode


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
