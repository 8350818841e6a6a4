"""A program -> whether it runs to its end, in a process that can do nothing else.

    network, other processes    none: namespaces of its own
    files                       /usr and Python, to be read; a scratch folder in memory, to be written
    limits                      time, memory, processes, size of files, output
    at the end                  everything that it has started is killed

The namespaces are made by bubblewrap where it is installed, else by `enter.py`. Before the first program a
sandbox has to show that it holds (`PROBE`); where none does, nothing is run.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from xtuner.errors import ConfigError, XTunerError
from xtuner.language import translate

PASSED, FAILED, EXITED = "passed", "failed", "exited"
TIME, MEMORY, OUTPUT = "time", "memory", "output"

SCRATCH = "/scratch"
SCRATCH_BYTES = 2**26
OUTPUT_BYTES = 2**20
STARTING_S = 60.0
"""Seconds until a program begins, on a machine that is busy."""
KEPT_BYTES = 4000
"""Bytes of the end of standard error that are kept."""
SYSTEM = ("/bin", "/etc/alternatives", "/etc/ld.so.cache", "/lib", "/lib32", "/lib64", "/nix/store", "/usr")
# Users that nobody has: the processes of each sandbox that root starts are counted on their own.
_FIRST_USER = 0x60000000
_numbers = itertools.count()

_INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
_ENTER = str(Path(__file__).with_name("enter.py"))

PROBE = """
import os, socket
assert [name for _, name in socket.if_nameindex()] in ([], ["lo"]), "it has a network"
assert os.getpid() < 10, "it sees other processes"
for path in {writable!r}:
    try:
        open(os.path.join(path, "x"), "x").close()
    except OSError:
        continue
    raise AssertionError(f"it can write to {{path}}")
assert not [path for path in {unreadable!r} if os.path.exists(path)], "it can read the home folder"
with open("x", "x") as file:
    file.write("x")
children = []
try:
    while len(children) <= {processes}:
        if not (child := os.fork()):
            import time
            time.sleep(10)
            os._exit(0)
        children.append(child)
except BlockingIOError:
    pass
assert 0 < len(children) < {processes}, f"its limit of processes does not hold (before Linux 5.14)"
"""
"""A program that fails where it could do what it must not."""


@dataclass(frozen=True)
class Limits:
    """Seconds, bytes of memory of all processes together, and the number of these."""

    seconds: int = 10
    memory: int = 2**30
    processes: int = 16


@dataclass(frozen=True)
class Outcome:
    """How a program ended: PASSED, or what was wrong; and the end of its standard error."""

    kind: str
    stderr: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program ran to its end, without an exception."""
        return self.kind == PASSED


class SandboxError(XTunerError, RuntimeError):
    """A sandbox could not be made, so nothing is known of its program."""


Command = Callable[[Sequence[str], str], "tuple[list[str], int | None]"]
"""A command and an empty folder -> the command that runs it in a sandbox, and the user that starts it."""


class Sandbox:
    """Runs programs of Python, each in a sandbox of its own; may be used from several threads."""

    def __init__(self, name: str, command: Command, limits: Limits) -> None:
        self.name = name
        self._command = command
        self._limits = limits

    def run(self, program: str) -> Outcome:
        """How `program` ends; SandboxError if it could not be started."""
        token = secrets.token_hex(16)
        job = {"program": program, "token": token, **vars(self._limits)}
        with tempfile.TemporaryFile() as source, tempfile.TemporaryDirectory() as folder:
            source.write(json.dumps(job).encode())
            source.seek(0)
            reader, writer = os.pipe()
            words = [sys.executable, "-s", "-B", "-c", _INSIDE, str(writer)]
            command, user = self._command(words, folder)
            try:
                process = subprocess.Popen(
                    command,
                    stdin=source,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[writer],
                    start_new_session=True,
                    cwd="/",
                    env=_environment(),
                    **({} if user is None else {"user": user, "group": user, "extra_groups": []}),  # type: ignore[call-overload]
                )
            finally:
                os.close(writer)
            with process, open(reader, "rb", buffering=0) as channel:
                assert process.stderr is not None
                try:
                    return _Watch(process, channel, self._limits).outcome(token.encode())
                finally:
                    _kill(process)


class _Watch:
    """A running program: what it writes, how long it runs, how much memory its processes have."""

    def __init__(self, process: subprocess.Popen[bytes], channel: IO[bytes], limits: Limits) -> None:
        self._process, self._limits = process, limits
        self._stderr, self._channel = process.stderr, channel
        self._written = {"stderr": b"", "channel": b""}
        self._num_bytes = 0

    def outcome(self, token: bytes) -> Outcome:
        """How the program ends; it may go on running if it went beyond a limit."""
        kind = self._follow(token)
        text = self._written["stderr"].decode("utf-8", "replace").strip("\n")
        report = self._written["channel"]
        if report == b"begun" + token:
            return Outcome(PASSED)
        if not report.startswith(b"begun"):
            what = translate("the sandbox could not be started: {reason}", reason=_last(text) or kind)
            raise SandboxError(what)
        if kind is None:
            code = self._process.wait()
            # By the limit of processor time.
            is_late = code == 128 + signal.SIGXCPU
            kind = EXITED if code == 0 or "SystemExit: " in _last(text) else TIME if is_late else FAILED
            kind = MEMORY if _last(text).startswith("MemoryError") else kind
        return Outcome(kind, text)

    def _follow(self, token: bytes) -> str | None:
        """Read until the program has ended; the limit that it reached, or None."""
        end = time.monotonic() + STARTING_S
        has_begun = False
        with selectors.DefaultSelector() as selector:
            for name, file in (("stderr", self._stderr), ("channel", self._channel)):
                assert file is not None
                os.set_blocking(file.fileno(), False)
                selector.register(file, selectors.EVENT_READ, name)
            # A program may close its files and go on.
            while selector.get_map() or self._process.poll() is None:
                for key, _ in selector.select(0.05):
                    data = os.read(key.fd, 2**16)
                    if not data:
                        selector.unregister(key.fileobj)
                    self._take(key.data, data)
                if self._written["channel"] == b"begun" + token:
                    return None
                if self._written["channel"] and not has_begun:
                    has_begun, end = True, time.monotonic() + self._limits.seconds
                if self._num_bytes > OUTPUT_BYTES:
                    return OUTPUT
                if time.monotonic() > end:
                    return TIME
                if _memory_of(self._process.pid) > self._limits.memory:
                    return MEMORY
        return None

    def _take(self, name: str, data: bytes) -> None:
        if name == "stderr":
            self._num_bytes += len(data)
        # Of the channel the beginning counts: a program may write to it without end.
        kept = self._written[name] + data
        self._written[name] = kept[-KEPT_BYTES:] if name == "stderr" else kept[:KEPT_BYTES]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process, and with it the namespace and all processes in it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()


def _memory_of(pid: int) -> int:
    """The bytes that a process and its descendants have in memory."""
    total, pending = 0, [str(pid)]
    while pending:
        folder = Path("/proc", pending.pop())
        try:
            total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for thread in (folder / "task").iterdir():
                pending += (thread / "children").read_text().split()
        except OSError:
            continue  # it has ended
    return total


def _last(text: str) -> str:
    return text.rpartition("\n")[2]


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "LANG": "C.UTF-8",
        # The order of sets is the same every time.
        "PYTHONHASHSEED": "0",
        # Each thread of these libraries takes a part of the memory.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


# --- the two ways to make one -------------------------------------------------------------------------------


def _folders() -> list[str]:
    """The folders and files that a program may read: those of the system, and Python with its packages."""
    executable = Path(sys.executable).resolve()
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, str(executable.parent.parent)}
    own -= {*_hidden(), "/"}
    return sorted({path for path in (*SYSTEM, *own) if os.path.exists(path)})


def _hidden() -> list[str]:
    """The home folder, unless it is one that a sandbox makes itself; [] for a user without one."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return []
    return [] if home in ("/", "/tmp", SCRATCH) else [home]


def _user() -> int | None:
    """A user whose processes are not those of another sandbox, where the system lets us choose."""
    # Root's number of processes is not limited.
    return _FIRST_USER + (os.getpid() % 2**16) * 2**10 + next(_numbers) % 2**10 if os.getuid() == 0 else None


def _by_namespaces(command: Sequence[str], folder: str) -> tuple[list[str], int | None]:
    job = {
        "root": folder,
        "folders": _folders(),
        "hidden": _hidden(),
        "scratch": SCRATCH,
        "size": SCRATCH_BYTES,
        "uid": _user(),
        "environment": _environment(),
        "command": list(command),
    }
    return [sys.executable, "-I", "-S", _ENTER, json.dumps(job)], None


def _by_bubblewrap(command: Sequence[str], folder: str) -> tuple[list[str], int | None]:
    hidden, folders = _hidden(), _folders()
    words = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent"]
    for path in sorted([*folders, *hidden]):
        if path not in hidden:
            words += ["--ro-bind", path, path]
        elif any(Path(path).is_relative_to(other) for other in folders):
            words += ["--tmpfs", path]
    for name in ("null", "zero", "random", "urandom"):
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    words += ["--symlink", SCRATCH, "/dev/shm", "--dir", SCRATCH]
    if not any(path.startswith("/tmp/") for path in folders):
        words += ["--symlink", SCRATCH, "/tmp"]
    words += ["--remount-ro", "/", "--size", str(SCRATCH_BYTES), "--tmpfs", SCRATCH, "--chdir", SCRATCH]
    return [*words, "--", *command], _user()


WAYS: dict[str, Command] = {"bubblewrap": _by_bubblewrap, "namespaces": _by_namespaces}


def find_sandbox(limits: Limits) -> Sandbox:
    """The first sandbox that holds; ConfigError with the reasons and the cure if there is none."""
    reasons = []
    for name, command in WAYS.items():
        sandbox = Sandbox(name, command, limits)
        if not (reason := why_not(sandbox)):
            return sandbox
        reasons.append(f"{name}: {reason}")
    raise ConfigError(
        translate(
            "programs that a model writes run in a sandbox alone, and none can be made here ({reasons}): "
            "install bubblewrap, or allow user namespaces (sysctl user.max_user_namespaces, "
            "kernel.apparmor_restrict_unprivileged_userns=0; in a container, start it with "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN)",
            reasons="; ".join(reasons),
        )
    )


def why_not(sandbox: Sandbox) -> str:
    """Why programs must not run in this sandbox; "" if it holds."""
    if sys.platform != "linux":
        return translate("it needs Linux")
    if sandbox.name == "bubblewrap" and shutil.which("bwrap") is None:
        return translate("it is not installed")
    try:
        outcome = Sandbox(sandbox.name, sandbox._command, Limits()).run(_probe())
    except (SandboxError, OSError) as error:
        return str(error)
    return "" if outcome.passed else _last(outcome.stderr) or outcome.kind


@functools.cache
def _probe() -> str:
    folders, homes = _folders(), _hidden()
    names = [path for home in homes if Path(home).is_dir() for path in Path(home).iterdir()]
    kept = {path for path in names if any(Path(other).is_relative_to(path) for other in folders)}
    unreadable = [str(path) for path in names if path not in kept]
    writable = ["/", "/usr", *homes, *folders]
    return PROBE.format(writable=writable, unreadable=unreadable, processes=Limits().processes)
