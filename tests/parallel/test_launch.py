"""Starting processes: environment variables, signals, failures, exit codes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from xtuner import dist
from xtuner.errors import ConfigError
from xtuner.parallel.launch import Processes, _free_port, configured_processes, launch, num_processes

NAMES = (
    "NPROC_PER_NODE NNODES NODE_RANK ADDR PORT RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT PET_NNODES"
)


@pytest.fixture
def env(monkeypatch):
    """A function that sets the environment to the given variables of launchers only."""
    for name in [*NAMES.split(), *(n for n in os.environ if n.startswith(("SLURM_", "OMPI_", "PMI_")))]:
        monkeypatch.delenv(name, raising=False)

    def change(**names):
        for name, value in names.items():
            monkeypatch.setenv(name, value)

    return change


def test_one_process_needs_no_launch(env):
    assert configured_processes() is None


def test_one_machine_uses_a_free_port(env):
    env(NPROC_PER_NODE="2")
    first, second = configured_processes(), configured_processes()
    assert (first.here, first.world_size, first.address) == (2, 2, "127.0.0.1")
    assert first.port != second.port


def test_several_machines_use_a_fixed_port(env):
    env(NPROC_PER_NODE="8", NNODES="2", NODE_RANK="1", ADDR="10.0.0.1")
    assert configured_processes() == Processes(here=8, nodes=2, node=1, address="10.0.0.1", port=29500)
    assert configured_processes().first_rank == 8


POD = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}


@pytest.mark.parametrize(
    ("names", "here", "nodes"),
    [
        ({}, 1, 4),
        ({"NPROC_PER_NODE": "8"}, 8, 4),
        ({"NPROC_PER_NODE": "2", "PET_NNODES": "2"}, 2, 2),  # the number is of processes
        ({"NPROC_PER_NODE": "2", "PET_NNODES": "1:4"}, 2, 4),
    ],
)
def test_pods_of_kubernetes_are_machines(env, names, here, nodes):
    """The operator gives RANK to a pod, not to a process."""
    env(**POD, **names)
    assert configured_processes() == Processes(here, nodes, node=1, address="job-master-0", port=23456)
    assert num_processes() == (here * nodes, here)


def test_a_process_of_torchrun_is_not_a_pod(env):
    env(**POD, LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")
    assert num_processes() == (4, 2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"NPROC_PER_NODE": "two"}, "NPROC_PER_NODE is 'two'; it must be a whole number of at least 1"),
        ({"NNODES": "2"}, "NNODES is 2, but ADDR is not set"),
        ({"NNODES": "2", "NODE_RANK": "2", "ADDR": "a"}, "NODE_RANK is 2, but NNODES is 2: it counts from 0"),
    ],
)
def test_invalid_settings(env, names, message):
    env(**names)
    with pytest.raises(ConfigError, match=message):
        configured_processes()


SLURM = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4242"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("launcher", "names", "place"),
    [
        ("slurm", {**SLURM, "SLURM_JOB_NODELIST": "gpu[07-09,12]"}, ("9", "16", "1", "gpu07", "29742")),
        ("mpi", {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, ("1", "2", "1", "127.0.0.1", "29500")),
        ("mpi", {**MPI, "ADDR": "node0", "PORT": "1234"}, ("1", "2", "1", "node0", "1234")),
        ("none", SLURM, (None,) * 5),
    ],
)
def test_ranks_from_a_scheduler(env, launcher, names, place):
    env(RANK="", **names)
    del os.environ["RANK"]
    dist.init_from_launcher(launcher)
    found = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    try:
        assert tuple(os.environ.get(name) for name in found) == place
    finally:
        for name in found:
            os.environ.pop(name, None)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[07-09,12]", "gpu07"), ("a1,a2", "a1"), ("n[3]-ib,x", "n3-ib"), ("host", "host")],
)
def test_the_first_of_slurms_hosts(nodes, first):
    assert dist.first_host(nodes) == first


@pytest.mark.parametrize("launcher", ["pytorch", "slurm", "mpi"])
def test_a_launcher_that_did_not_start_this_is_an_error(env, launcher):
    with pytest.raises(ConfigError, match=f"--launcher {launcher}: "):
        dist.init_from_launcher(launcher)


def in_each(code):
    return [sys.executable, "-c", f"import os, sys, signal, time\nrank = int(os.environ['RANK'])\n{code}"]


def test_each_process_gets_its_rank(tmp_path):
    code = f"open(r'{tmp_path}/' + os.environ['RANK'], 'w').write(' '.join(os.environ[n] for n in "
    code += "('LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')))"
    assert launch(in_each(code), Processes(2, nodes=2, node=1, address="a", port=7)) == 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"2": "0 4 a 7", "3": "1 4 a 7"}


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("sys.exit(3)", 3, "failed with exit code 3; the other processes were stopped"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            137,
            "was killed by SIGKILL, as the system does when memory",
        ),
    ],
)
def test_a_failed_process_stops_all_and_is_named(end, code, message, capfd):
    start = time.monotonic()
    assert launch(in_each(f"{end} if rank == 1 else time.sleep(60)"), Processes(2)) == code
    assert time.monotonic() - start < 10
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("xtuner: error: rank 1 (process ")
    assert message in line


def test_what_a_command_finds_out_is_no_failure(capfd):
    """An exit code that is a result is returned without a word, and no process is stopped for it."""
    code = "time.sleep(0.2 * rank); sys.exit(1)"
    assert launch(in_each(code), Processes(2), results=(1,)) == 1
    assert capfd.readouterr().err == ""
    assert launch(in_each("sys.exit(2)"), Processes(2), results=(1,)) == 2
    assert "failed with exit code 2" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_all_and_sets_the_exit_code(number, code, tmp_path):
    """The processes have unlimited time to save."""
    work = f"""
def stop(n, _):
    time.sleep(0.3)
    open(r'{tmp_path}/saved' + str(rank), 'w')
    sys.exit(128 + n)
signal.signal({int(number)}, stop)
open(r'{tmp_path}/ready' + str(rank), 'w')
time.sleep(60)
"""

    def send():
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    assert launch(in_each(work), Processes(2)) == code
    sender.join()
    assert sorted(p.name for p in tmp_path.glob("saved*")) == ["saved0", "saved1"]


def test_a_second_signal_stops_processes_that_hang(tmp_path, monkeypatch):
    """A collective may never return; a second signal does not wait for it."""
    monkeypatch.setattr("xtuner.parallel.launch.GRACE", 0.2)
    monkeypatch.setattr("xtuner.parallel.launch.ONE_PRESS_SECONDS", 0.0)
    hung = in_each(f"signal.signal(15, signal.SIG_IGN); open(r'{tmp_path}/there', 'w'); time.sleep(60)")

    def stop_twice():
        while not (tmp_path / "there").exists():
            time.sleep(0.01)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    threading.Thread(target=stop_twice).start()
    begun = time.monotonic()
    assert launch(hung, Processes(1)) == 143
    assert time.monotonic() - begun < 30


@pytest.mark.skipif(sys.platform != "linux", reason="a service of Linux")
def test_nothing_outlives_the_launcher(tmp_path):
    """The processes stop after a kill -9 of the launcher."""
    child = in_each(f"open(r'{tmp_path}/' + str(os.getpid()), 'w'); time.sleep(60)")
    code = f"from xtuner.parallel.launch import *; launch({child!r}, Processes(2))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    while len(pids := [int(p.name) for p in tmp_path.iterdir()]) < 2:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_the_others_can_be_stopped(number):
    """At once: it would wait for half an hour."""
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        # A shell's background processes ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from xtuner.parallel.world import make_world\n"
        "print('waiting', flush=True)\n"
        "make_world()\n"
    )
    port = str(_free_port())
    place = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **place, "MASTER_PORT": port}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "waiting\n"
            time.sleep(1)
            process.send_signal(number)
            assert process.wait(10) in (143, -signal.SIGINT)
        finally:
            process.kill()
