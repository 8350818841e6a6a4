"""Tools of MCP servers, which run as separate processes and communicate over stdin and stdout.

{"mcpServers": {"files": {"command": "mcp-server-files", "args": ["/data"], "env": {"LEVEL": "1"}}}}
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from concurrent import futures
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from xtuner.chat.plugins.tool import SECONDS, Tool, ToolError
from xtuner.errors import ConfigError, NotFoundError
from xtuner.extras import install_extra
from xtuner.language import translate
from xtuner.log import logger


class McpServers:
    """The servers named in a file, started; their `tools` work until `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        servers = _read(path)
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise ConfigError(
                translate(
                    "--tools {path}: MCP servers need the package mcp: {command}",
                    path=path,
                    command=install_extra("agents"),
                )
            ) from None
        self.tools: list[Tool] = []
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(servers,), daemon=True, name="mcp servers")
        self._thread.start()
        if not self._started.wait(SECONDS):
            raise ConfigError(
                translate(
                    "--tools {path}: the servers did not start within {seconds:g} s",
                    path=path,
                    seconds=SECONDS,
                )
            )
        if self._error is not None:
            raise ConfigError(
                translate("--tools {path}: {error}", path=path, error=_first(self._error))
            ) from self._error

    def close(self) -> None:
        """Stop the servers."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(10)

    def _run(self, servers: Mapping[str, Mapping[str, Any]]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(servers))
        except BaseException as error:
            self._error = self._error or error
            logger.debug(translate("MCP servers ended"), exc_info=error)
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self, servers: Mapping[str, Mapping[str, Any]]) -> None:
        # The client library requires that one task starts and stops the servers.
        from mcp import ClientSession, StdioServerParameters
        from mcp.client.stdio import stdio_client

        async with AsyncExitStack() as stack:
            for name, server in servers.items():
                parameters = StdioServerParameters(
                    command=server["command"],
                    args=[str(word) for word in server.get("args", [])],
                    env={**os.environ, **server.get("env", {})},
                )
                # Other output of a server would appear in the middle of the dialogue.
                file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
                log = stack.enter_context(file)
                try:
                    read, write = await stack.enter_async_context(stdio_client(parameters, errlog=log))
                    session = await stack.enter_async_context(ClientSession(read, write))
                    await asyncio.wait_for(session.initialize(), SECONDS / 2)
                    listed = await session.list_tools()
                except Exception as error:
                    log.seek(0)
                    last = log.read().strip().rpartition("\n")[2] or _first(error)
                    raise ConfigError(
                        translate("the MCP server {name!r} did not start: {last}", name=name, last=last)
                    ) from error
                self.tools += [self._tool(session, tool) for tool in listed.tools]
            self._started.set()
            await self._ended.wait()

    def _tool(self, session: Any, listed: Any) -> Tool:
        schema = listed.input_schema or {}
        properties = schema.get("properties") or {}
        descriptions = {key: str(value.get("description") or "") for key, value in properties.items()}

        def call(**arguments: Any) -> str:
            return self._wait(_call(session, listed.name, arguments))

        required = tuple(schema.get("required") or ())
        return Tool(listed.name, listed.description or listed.name, call, descriptions, required)

    def _wait(self, work: Coroutine[Any, Any, str]) -> str:
        if not self._thread.is_alive():
            work.close()
            raise ToolError("the MCP server has ended")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(SECONDS)
        except futures.TimeoutError:  # in Python 3.10 not the builtin one
            future.cancel()
            raise ToolError(f"the MCP server did not answer within {SECONDS:g} s") from None


async def _call(session: Any, name: str, arguments: dict[str, Any]) -> str:
    result = await session.call_tool(name, arguments)
    text = "\n".join(getattr(part, "text", f"({part.type})") for part in result.content)
    if result.is_error:
        raise ToolError(text)
    return text


def _first(error: BaseException) -> str:
    """The message of the first error in a group of them."""
    while isinstance(inner := getattr(error, "exceptions", None), (tuple, list)) and inner:
        error = inner[0]
    return str(error) or type(error).__name__


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise NotFoundError(translate("--tools {path}: no such file", path=path))
    try:
        servers = json.loads(path.read_text(encoding="utf-8"))["mcpServers"]
        good = servers and all(isinstance(server["command"], str) for server in servers.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise ConfigError(
            translate(
                '--tools {path} names no MCP servers: write {{"mcpServers": {{"NAME": {{"command": '
                '"..."}}}}}}',
                path=path,
            )
        )
    return servers
