"""Who this process is among its peers. The only reader of RANK, WORLD_SIZE and their like.

started by            says it in                                       here
xtuner, torchrun      RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT    as they are
srun                  SLURM_PROCID SLURM_NTASKS SLURM_LOCALID ...           written to the names above
mpirun                OMPI_COMM_WORLD_RANK ... or PMI_RANK ...              written to the names above
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from xtuner.devices import accelerator
from xtuner.errors import ConfigError
from xtuner.language import translate

if TYPE_CHECKING:
    import torch

# Where the processes of several machines meet unless PORT or MASTER_PORT says otherwise.
DEFAULT_PORT = 29500


def rank() -> int:
    """This process's number over all machines, 0 when alone."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """This process's number on its machine, 0 when alone."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """How many processes train together, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_world_size() -> int:
    """How many processes of the run are on this machine, 0 where the launcher does not say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 0 if "WORLD_SIZE" in os.environ else 1))


def master_address() -> str:
    """Where rank 0 is."""
    return os.environ["MASTER_ADDR"]


def is_launched() -> bool:
    """Whether something else has started this process as one of several."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def write_place() -> None:
    """Tell libraries that read the environment what this module answers."""
    place = {"RANK": rank(), "LOCAL_RANK": local_rank(), "WORLD_SIZE": world_size()}
    os.environ.update({name: str(number) for name, number in place.items()})


def device() -> torch.device:
    """The torch device this process computes on: its own accelerator, or the CPU where there is none."""
    import torch

    found = accelerator()
    return torch.device(found, local_rank()) if found else torch.device("cpu")


def init_from_launcher(launcher: str) -> None:
    """Learn this process's place from what `launcher` (pytorch, slurm, mpi or none) left it."""
    if launcher == "none" or is_launched():
        return
    read = {"slurm": _read_slurm, "mpi": _read_mpi}.get(launcher)
    if read is None:
        raise ConfigError(
            translate(
                "--launcher pytorch: this process was not started by torchrun or with NPROC_PER_NODE; "
                "start it with NPROC_PER_NODE=N xtuner train ..., or torchrun --nproc-per-node N -m "
                "xtuner train ..."
            )
        )
    place = read()
    address = os.environ.get("ADDR") or os.environ.get("MASTER_ADDR") or place.get("MASTER_ADDR")
    if not address:
        raise ConfigError(
            translate(
                "--launcher {launcher}: set ADDR to the name or address of the first machine",
                launcher=launcher,
            )
        )
    port = os.environ.get("PORT") or os.environ.get("MASTER_PORT") or place.get("MASTER_PORT")
    os.environ.update({**place, "MASTER_ADDR": address, "MASTER_PORT": port or str(DEFAULT_PORT)})


def _read_slurm() -> dict[str, str]:
    if "SLURM_PROCID" not in os.environ:
        raise ConfigError(
            translate("--launcher slurm: this process was not started by srun; write srun xtuner train ...")
        )
    # Jobs that share a machine must not meet on the same port.
    port = DEFAULT_PORT + int(os.environ.get("SLURM_JOB_ID", 0)) % 1000
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    return {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_NTASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "MASTER_ADDR": first_host(nodes),
        "MASTER_PORT": str(port),
    }


def first_host(nodes: str) -> str:
    """The first name in Slurm's way to write several: `gpu[07-09,12],cpu1` -> `gpu07`."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else ""


def _read_mpi() -> dict[str, str]:
    for rank_name, size_name, local_name, local_size in (
        (
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        ),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ):
        if rank_name in os.environ:
            size = os.environ[size_name]
            place = {
                "RANK": os.environ[rank_name],
                "WORLD_SIZE": size,
                "LOCAL_RANK": os.environ.get(local_name, "0"),
            }
            return place | ({"MASTER_ADDR": "127.0.0.1"} if os.environ.get(local_size) == size else {})
    raise ConfigError(
        translate(
            "--launcher mpi: this process was not started by mpirun; write mpirun -n N xtuner train ..."
        )
    )
