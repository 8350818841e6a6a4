"""A script that runs inside of the sandbox: sets limits, runs a program, reports that it ended.

standard input   {"program": ..., "token": ..., "memory": bytes, "seconds": 10, "processes": 16}
descriptor       b"begun", then the token if the whole program ran without an exception

A program that exits, that is killed or that raises never comes to the token, whatever it prints and to
whichever descriptor. The functions that report are bound before the program runs, so that it cannot replace
them.
"""

from __future__ import annotations

import json
import linecache
import os
import resource
import sys
import traceback
import types

FILE_BYTES = 2**24


def main(channel: int) -> None:
    """Run the program of standard input; the exit code is 0 if it passed, else 1."""
    with open(0, "rb", closefd=False) as file:
        job = json.load(file)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.set_inheritable(channel, False)
    for name, value in (
        ("RLIMIT_AS", job["memory"]),
        ("RLIMIT_CPU", job["seconds"] + 1),
        ("RLIMIT_FSIZE", FILE_BYTES),
        ("RLIMIT_NPROC", job["processes"]),
        ("RLIMIT_NOFILE", 256),
        ("RLIMIT_CORE", 0),
    ):
        # Beyond the first limit of time comes the signal that says so, beyond the second SIGKILL.
        resource.setrlimit(getattr(resource, name), (value, value + 2 * (name == "RLIMIT_CPU")))
    write, leave = os.write, os._exit
    write(channel, b"begun")
    token = job.pop("token").encode()
    code = 1
    try:
        _run(job["program"])
        write(channel, token)
        code = 0
    except SystemExit as error:
        sys.stderr.write(f"SystemExit: {error.code}\n")
    except BaseException as error:
        # Without the two functions of this file.
        frames = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
        traceback.print_exception(type(error), error, frames)
    sys.stderr.flush()
    leave(code)


def _run(program: str) -> None:
    module = types.ModuleType("answer")
    # Dataclasses and pickle look for the module of a class there.
    sys.modules["answer"] = module
    linecache.cache["answer.py"] = (len(program), None, program.splitlines(keepends=True), "answer.py")
    exec(compile(program, "answer.py", "exec"), module.__dict__)


if __name__ == "__main__":
    main(int(sys.argv[1]))
