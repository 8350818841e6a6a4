"""A program that imports everything once and forks the processes of one world after another.

{"size": 2, "script": "train_in_world", "folder": "/tmp/..."}   a line on stdin
0                                                               a line on stdout: the exit code
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

# What a case imports, before the first fork.
import bitsandbytes  # noqa: F401
import datasets  # noqa: F401
import kto_in_world  # noqa: F401
import peft  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import train_in_world  # noqa: F401
import transformers.models.auto.modeling_auto  # noqa: F401

from xtuner.parallel import launch


class Forked:
    """A forked process, as the launcher sees those that it starts."""

    def __init__(self, script: str, folder: Path, environment: dict[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os._exit(_run(script, folder, environment))

    def poll(self) -> int | None:
        return self.returncode if self.returncode is not None else self._wait(os.WNOHANG)

    def wait(self, timeout: float) -> int | None:
        return self.returncode if self.returncode is not None else self._wait(0)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _wait(self, options: int) -> int | None:
        pid, status = os.waitpid(self.pid, options)
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _run(script: str, folder: Path, environment: dict[str, str]) -> int:
    stop_with_parent = launch._stop_with_parent()
    if stop_with_parent is not None:
        stop_with_parent()
    os.environ.update(environment)
    try:
        importlib.import_module(script).main(folder)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(size: int, script: str, folder: str) -> int:
    """The exit code of a world of `size` processes; the launcher watches over them."""
    processes = launch.Processes(size, port=launch._free_port())
    children = [Forked(script, Path(folder), launch._environment(processes, local)) for local in range(size)]
    try:
        return launch._wait(children, 0, [])  # type: ignore[arg-type]
    finally:
        launch._send(children, signal.SIGKILL)  # type: ignore[arg-type]


def main() -> None:
    """Answer each line."""
    # What runs print is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(run(**json.loads(line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
