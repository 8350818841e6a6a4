"""A script that enters new namespaces and becomes another program in them.

    python -I -S enter.py '{"root": ..., "folders": [...], "hidden": [...], "scratch": "/scratch",
                            "size": ..., "uid": 1000, "environment": {...}, "command": [...]}'

    the process that was started
        1    in new namespaces of processes, mounts, network, IPC and host name: mounts what may be seen
             2    without privileges: the command; when it ends, 1 ends, and all processes with it

Of the disk `folders` are there, to be read; `scratch` is memory of `size` bytes; the network is down.
A user makes a user namespace first. Root has no need to, and the command runs as the user `uid`, whose
processes are counted on their own.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
AT_RECURSIVE, AT_FDCWD = 0x8000, -100
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
MOUNT_SETATTR = 442  # its number on every processor; the C library has no function of that name
DEVICES = ("null", "zero", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    names = [None if value is None else os.fsencode(value) for value in (source, target, kind)]
    _call("mount", *names, ctypes.c_ulong(flags), None if options is None else options.encode())


def _read_only(path: str, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY | ATTR_NOSUID | flags, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), AT_RECURSIVE, attributes, size)


def main(job: dict) -> None:
    """Start the command of `job` in new namespaces; this process ends when it ends."""
    _end_with_parent()
    uid, gid = os.getuid(), os.getgid()
    is_user = not _enter(uid, gid)
    child = os.fork()
    if child:
        os._exit(_code_of(child))
    _end_with_parent()
    _see(job)
    if not (child := os.fork()):
        _without_privileges(None if is_user else job["uid"])
        os.execve(job["command"][0], job["command"], job["environment"])
    os._exit(_code_of(child))


def _end_with_parent() -> None:
    _call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _enter(uid: int, gid: int) -> bool:
    """Enter the namespaces; returns whether that was possible without a user namespace, as root."""
    flags = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    if uid == 0:
        try:
            _call("unshare", flags)
            return True
        except PermissionError:
            pass  # root of a container
    _call("unshare", flags | NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return False


def _see(job: dict) -> None:
    """Make the root of the file system of `job`: what it may see."""
    root = job["root"]
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    # A folder within another comes after it.
    for path in sorted([*job["folders"], *job["hidden"]]):
        if path in job["hidden"]:
            if os.path.isdir(root + path):
                _mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755")
            continue
        if os.path.isdir(path):
            os.makedirs(root + path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            open(root + path, "a").close()
        _mount(path, root + path, None, MS_BIND | MS_REC)
        _read_only(root + path, ATTR_NODEV)
    os.mkdir(f"{root}/dev")
    for name in DEVICES:
        open(f"{root}/dev/{name}", "x").close()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, MS_BIND)
    scratch = job["scratch"]
    os.mkdir(root + scratch)
    for name in ("/dev/shm", "/tmp"):
        if not os.path.exists(root + name):
            os.symlink(scratch, root + name)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    _read_only("/", 0)
    _mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV, f"size={job['size']},nr_inodes=10000,mode=1777")
    os.chdir(scratch)


def _without_privileges(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    if uid is not None:
        os.setresuid(uid, uid, uid)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _code_of(child: int) -> int:
    """The exit code of `child`, 128 and the signal for one that was killed; others that end are reaped."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
