"""What a process may take of a machine's memory, and who limits it."""

import psutil
import pytest
import torch

from xtuner.estimate.machine import host_memory
from xtuner.model.recompute import free_memory

GROUPS = {
    "version 2": ("0::/pod/run", "", ("memory.max", "memory.current", "inactive_file")),
    "version 1": (
        "4:cpu,memory:/pod/run\n0::/",
        "memory",
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ),
}


def group(folder, names, limit, used, files):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {files}\n")


@pytest.mark.parametrize("version", GROUPS)
def test_the_tightest_cgroup_around_the_process_decides(tmp_path, version):
    """One above it may have the least left; files that were read make room again."""
    lines, tree, names = GROUPS[version]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{lines}\n")
    top = tmp_path / "sys/fs/cgroup" / tree
    assert host_memory(tmp_path)[0] == psutil.virtual_memory().total
    group(top / "pod/run", names, 5000, 3000, 1000)
    assert host_memory(tmp_path) == (5000, 3000)
    group(top / "pod", names, 6000, 5500, 500)
    assert host_memory(tmp_path) == (5000, 1000)
    # A container sees no folders of its own path, only what is its own as the root.
    group(top, names, 4000, 5000, 0)
    assert host_memory(tmp_path) == (4000, 0)
    group(top, names, "max" if version == "version 2" else 2**63 - 4096, 0, 0)
    assert host_memory(tmp_path) == (5000, 1000)


def test_a_host_is_asked_the_same_by_estimate_and_run():
    """What is free for recomputation and for comparing a merge is no more than the machine allows."""
    assert 0 < free_memory(torch.device("cpu")) <= host_memory()[0] <= psutil.virtual_memory().total
