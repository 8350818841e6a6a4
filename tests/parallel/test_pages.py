"""The pages about memory and several processes agree with the code."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from xtuner.parallel.launch import configured_processes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("name", ["memory.md", "multi_gpu.md"])
def test_tables_are_what_the_code_prints(name):
    """python benchmarks/plan.py --write"""
    spec = importlib.util.spec_from_file_location("plan", ROOT / "benchmarks" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page.split(module.BEGIN)[1].split(module.END)[0].strip() == module.PAGES[name]().strip()


def test_pods_of_the_manifest_find_each_other(monkeypatch):
    (text,) = blocks("kubernetes.md", "yaml")
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert list(replicas) == ["Master", "Worker"]
    pods = sum(replica["replicas"] for replica in replicas.values())
    for name in ("NNODES", "NODE_RANK", "ADDR", "PORT", "LOCAL_RANK", "PET_NNODES"):
        monkeypatch.delenv(name, raising=False)
    for replica in replicas.values():
        spec = replica["template"]["spec"]
        (container,) = spec["containers"]
        assert container["name"] == "pytorch"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        gpus = container["resources"]["limits"]["nvidia.com/gpu"]
        given = {"MASTER_ADDR": "xtuner-master-0", "MASTER_PORT": "23456", "WORLD_SIZE": str(pods)}
        given |= {e["name"]: e["value"] for e in container["env"]} | {"RANK": "3"}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        started = configured_processes()
        assert (started.here, started.world_size, started.first_rank) == (gpus, gpus * pods, 3 * gpus)
        assert (started.address, started.port) == ("xtuner-master-0", 23456)


@pytest.mark.parametrize("there", [False, True])
def test_the_batch_file_resumes_a_stopped_job(there, tmp_path):
    """`srun` and `scontrol` of this test record their arguments."""
    (script,) = blocks("slurm.md", "bash")
    for name, code in (("srun", 143), ("scontrol", 0)):
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\necho {name} "$@"\nexit {code}\n')
        program.chmod(0o755)
    if there:
        (tmp_path / "iter_5.pth").touch()
    script = script.replace("/shared/work", str(tmp_path))
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
    resume = " --resume" if there else ""
    train = f"srun xtuner train my.py --work-dir {tmp_path} --launcher slurm --fsdp{resume}"
    assert (done.stdout.splitlines(), done.stderr, done.returncode) == (
        [train, "scontrol requeue 7"],
        "",
        143,
    )
