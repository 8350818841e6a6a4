"""Programs that want more than to answer: each runs for real, and none gets it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xtuner.errors import ConfigError
from xtuner.evaluation.code import sandbox as module
from xtuner.evaluation.code.sandbox import WAYS, Limits, Sandbox, SandboxError, find_sandbox, why_not

LIMITS = Limits(seconds=2, memory=2**28, processes=16)


@pytest.fixture(params=WAYS)
def sandbox(request):
    """Each way to make a sandbox that this machine has."""
    found = Sandbox(request.param, WAYS[request.param], LIMITS)
    if reason := why_not(found):
        pytest.skip(f"{request.param}: {reason}")
    return found


@pytest.fixture
def secret():
    """A file in the home folder, as a key of ssh is."""
    folder = Path.home() / f".xtuner-test-{os.getpid()}"
    folder.mkdir()
    (folder / "id").write_text("key")
    module._probe.cache_clear()
    yield folder / "id"
    (folder / "id").unlink()
    assert list(folder.iterdir()) == []
    folder.rmdir()
    module._probe.cache_clear()


def outcome(sandbox, program):
    start = time.monotonic()
    found = sandbox.run(program)
    assert time.monotonic() - start < LIMITS.seconds + 8
    return found


def test_one_of_the_ways_is_tested_where_linux_lets_it():
    """On a machine of which a user may make namespaces, nothing of this file is skipped in silence."""
    if subprocess.run(
        ["unshare", "--user", "--net", "--pid", "--fork", "true"], capture_output=True
    ).returncode:
        pytest.skip("no namespaces here")
    assert find_sandbox(LIMITS).name in WAYS


def test_a_program_that_ends_has_passed(sandbox):
    """Whatever it prints, also with threads of its own, and files in its scratch folder."""
    program = """
import dataclasses, json, tempfile, threading

@dataclasses.dataclass
class Point:
    x: "int" = 1

thread = threading.Thread(target=print, args=("x" * 2**21,))
thread.start()
thread.join()
with tempfile.TemporaryFile("w") as file:
    json.dump(dataclasses.asdict(Point()), file)
assert __name__ != "__main__"
"""
    assert outcome(sandbox, program).kind == "passed"


def test_a_failing_test_shows_where(sandbox):
    """The last lines of standard error are those of the program alone."""
    found = outcome(sandbox, "def f(x):\n    return x\n\nassert f(1) == 2, 'no'\n")
    assert found.kind == "failed"
    line = '  File "answer.py", line 4, in <module>\n    assert f(1) == 2'
    assert found.stderr.startswith(f"Traceback (most recent call last):\n{line}")
    assert found.stderr.endswith("\nAssertionError: no")


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("while True: pass", "time"),
        ("import time; time.sleep(60)", "time"),
        ("import os, time\nos.closerange(0, 256)\ntime.sleep(60)", "time"),
        ("x = 'x' * 2**30", "memory"),
        ("x = []\nwhile True: x.append(bytearray(2**20))", "memory"),
        ("import os\nwhile True: os.write(2, b'x' * 2**16)", "output"),
        ("import os; os._exit(0)", "exited"),
        ("import sys; sys.exit()", "exited"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failed"),
        ("def f(:", "failed"),
        ("def f(): f()\nf()", "failed"),
        ("import ctypes; ctypes.string_at(0)", "failed"),
    ],
)
def test_what_is_no_answer_has_not_passed(sandbox, program, kind):
    found = outcome(sandbox, program)
    assert (found.kind, found.passed) == (kind, False)


def test_several_processes_share_the_memory(sandbox):
    """Each of them stays below the limit, all together do not."""
    program = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        break
x = bytearray(os.urandom(2**10)) * 2**16
time.sleep(60)
"""
    assert outcome(sandbox, program).kind == "memory"


def test_the_network_is_not_there(sandbox):
    """Not even a server of the same machine is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)"
        found = outcome(sandbox, program)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert found.kind == "failed"
    assert "OSError: [Errno 101] Network is unreachable" in found.stderr or "Refused" in found.stderr


def test_files_of_the_user_are_neither_read_nor_written(sandbox, secret):
    """The home folder, the folder of this file and that of temporary files are not there."""
    program = f"""
import os
for path in {[str(secret), __file__, str(secret.parent)]!r}:
    assert not os.path.exists(path), path
for folder in {[str(Path.home()), "/", "/usr", sys.prefix, sys.base_prefix, "/tmp/.."]!r}:
    try:
        open(os.path.join(folder, "written"), "w")
    except OSError:
        continue
    raise AssertionError(folder)
"""
    found = outcome(sandbox, program)
    assert found.passed, found.stderr
    assert outcome(sandbox, f"open({str(secret)!r}).read()").stderr.endswith(f"directory: {str(secret)!r}")
    assert secret.read_text() == "key"


def test_the_scratch_folder_is_limited_and_gone_afterwards(sandbox):
    """Files are, and all of them together."""
    program = """
for number in range(20):
    with open(f"file{number}", "wb") as file:
        file.write(bytes(2**23))
"""
    assert "No space left on device" in outcome(sandbox, program).stderr
    assert outcome(sandbox, "open('one', 'wb').write(bytes(2**25))").kind == "failed"
    assert outcome(sandbox, "import os; assert os.listdir('.') == []").passed


def alive(word):
    """The processes of this machine with `word` in their command line."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if word in (path / "cmdline").read_bytes().decode("utf-8", "replace"):
                found.append(path.name)
        except OSError:
            continue
    return found


def test_a_fork_bomb_ends_with_its_sandbox(sandbox):
    """The number of processes is limited, and none of them outlives it."""
    before = len(os.listdir("/proc"))
    program = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    found = outcome(sandbox, program)
    assert found.kind in ("time", "memory")
    assert len(os.listdir("/proc")) < before + 40
    assert (
        "BlockingIOError"
        in outcome(sandbox, "import os\nwhile os.fork(): pass\nimport time; time.sleep(9)").stderr
    )


def test_no_process_outlives_its_program(sandbox):
    """Not one in a session of its own, whose parent has ended."""
    word = f"xtuner-survivor-{os.getpid()}"
    command = f"import time; time.sleep(60)  # {word}"
    program = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {command!r}], start_new_session=True)
"""
    assert outcome(sandbox, program).passed
    end = time.monotonic() + 5
    while alive(word) and time.monotonic() < end:
        time.sleep(0.05)
    assert alive(word) == []


def test_no_program_outlives_a_killed_command(sandbox):
    """Not one that would run on for a minute."""
    word = f"xtuner-orphan-{os.getpid()}"
    program = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", "import time; time.sleep(60)  # {word}"], start_new_session=True)
"""
    code = "import sys; from xtuner.evaluation.code.sandbox import *; "
    code += "Sandbox('', WAYS[sys.argv[1]], Limits(60)).run(sys.argv[2])"
    with subprocess.Popen([sys.executable, "-c", code, sandbox.name, program]) as command:
        end = time.monotonic() + 20
        while len(alive(f"sleep(60)  # {word}")) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        # The command itself has the word too.
        assert len(alive(f"sleep(60)  # {word}")) == 2
        command.kill()
    while alive(word) and time.monotonic() < end:
        time.sleep(0.05)
    assert alive(word) == []


def test_parents_and_others_cannot_be_killed(sandbox):
    """Of all processes a program can reach its own alone."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        program = f"""
import os, signal
for pid in (1, os.getppid(), {os.getpid()}, {other.pid}, {os.getppid()}):
    for number in (signal.SIGKILL, signal.SIGTERM):
        if pid != os.getpid():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                pass
os.kill(-1, signal.SIGTERM)
"""
        found = outcome(sandbox, program)
        assert other.poll() is None
        other.kill()
    assert found.kind in ("failed", "exited", "passed")


def test_the_report_cannot_be_written_by_the_program(sandbox):
    """Whatever it writes to whichever file, replaces, or leaves for the end."""
    program = """
import atexit, builtins, json, os, sys, threading, types
main = sys.modules["__main__"]
for name in ("main", "_run"):
    setattr(main, name, lambda *args: None)
json.load = json.dumps = lambda *args, **kwargs: {"token": ""}
builtins.exec = builtins.compile = lambda *args, **kwargs: None
for fd in range(3, 256):
    try:
        os.write(fd, b"begunpassed" + b"0" * 32)
    except OSError:
        pass
atexit.register(lambda: os.write(3, b"passed"))
write = os.write
os.write = lambda fd, data: write(fd, b"passed")
os._exit = sys.exit = lambda *args: None
"""
    assert outcome(sandbox, program + "raise SystemExit(0)").kind == "exited"
    assert outcome(sandbox, program + "assert False").kind == "failed"
    assert not outcome(sandbox, program).passed


def test_nothing_of_this_process_is_left_in_the_sandbox(sandbox, monkeypatch):
    """No variable of the environment, and no open file."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    program = """
import os
assert not [name for name in os.environ if "TOKEN" in name], os.environ
for fd in range(3, 256):
    try:
        kind = os.fstat(fd).st_mode & 0o170000
    except OSError:
        continue
    assert kind in (0o010000, 0o020000), (fd, oct(kind))
"""
    with open(__file__) as file:
        os.set_inheritable(file.fileno(), True)
        found = outcome(sandbox, program)
    assert found.passed, found.stderr


@pytest.mark.parametrize("home", ["/", "/tmp", "/none"])
def test_users_whose_home_is_no_folder_of_their_own_have_a_sandbox(sandbox, monkeypatch, home):
    """As in containers."""
    monkeypatch.setenv("HOME", home)
    module._probe.cache_clear()
    assert why_not(sandbox) == ""
    module._probe.cache_clear()


def test_no_program_runs_where_no_sandbox_holds(monkeypatch, tmp_path):
    """A command that runs it without one is noticed, one that fails too; the message names the cure."""
    ran = tmp_path / "ran"
    monkeypatch.setattr(module, "WAYS", {"nothing": lambda words, folder: (list(words), None)})
    with pytest.raises(ConfigError, match=r"nothing: .*\): install bubblewrap, or allow user namespaces"):
        find_sandbox(LIMITS)
    monkeypatch.setattr(module, "WAYS", {"broken": lambda words, folder: (["/bin/false"], None)})
    with pytest.raises(ConfigError, match=r"\(broken: the sandbox could not be started: .*\): install"):
        find_sandbox(LIMITS)
    with pytest.raises(SandboxError):
        Sandbox("broken", lambda words, folder: (["/bin/false"], None), LIMITS).run(
            f"open({str(ran)!r}, 'w')"
        )
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="it needs Linux"):
        find_sandbox(LIMITS)
    assert not ran.exists()
