"""Host memory and time of each process while a checkpoint is written, and while it is read.

python benchmarks/checkpoint_memory.py [--processes 4] [--layers 16]     layers of 2048 x 2048, fp32, AdamW

Peak is the memory of a process above what it had before, in MB and in its own parts of the state.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from xtuner.engine.backend import FSDPBackend
from xtuner.engine.checkpoints import sharded
from xtuner.engine.checkpoints.background import BackgroundWriter
from xtuner.engine.checkpoints.files import load_checkpoint, open_checkpoint, save_checkpoint
from xtuner.engine.optim import OptimWrapper
from xtuner.model.train_module import TrainModule
from xtuner.parallel.launch import asked_for, launch
from xtuner.parallel.world import make_world

WIDTH = 2048


class Layers(TrainModule):
    """Linear layers, one after the other."""

    def __init__(self, count: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count))

    def num_items(self, data):
        return 1

    def forward(self, data, data_samples=None, mode="loss", num_items=None):
        for layer in self.layers:
            data = layer(data)
        return {"loss": data.square().mean(), "sums": {}}


def rss(name: str) -> float:
    """A line of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def peak(work: Callable[[], object]) -> tuple[float, float]:
    """The peak of memory above what was there before `work`, and its seconds."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start = rss("VmRSS"), time.perf_counter()
    work()
    return rss("VmHWM") - before, time.perf_counter() - start


def measure(folder: Path, count: int) -> None:
    """Write and read in every form; rank 0 prints what each process needed."""
    torch.set_num_threads(1)
    world = make_world()
    world.connect()
    backend = FSDPBackend(world)
    backend.wrap(Layers(count), torch.device("cpu"))
    wrapper = OptimWrapper(torch.optim.AdamW(backend.model.parameters()))
    backend.model(torch.randn(4, WIDTH))["loss"].backward()
    wrapper.optimizer.step()
    wrapper.optimizer.zero_grad()
    own = 3 * sum(p.to_local().numel() for p in backend.model.parameters()) * 4 / 2**20
    writer, background = sharded.ShardedWriter(world), BackgroundWriter()
    background.snapshots.mesh = writer.mesh

    def parts() -> sharded.Separated:
        state = {"state_dict": backend.model_parts(), "optimizer": backend.optimizer_parts(wrapper)}
        return sharded.separate(state)

    def write_whole() -> None:
        state = {"state_dict": backend.model_state(), "optimizer": backend.optimizer_state(wrapper)}
        if world.is_first:
            save_checkpoint(state, folder / "iter_1.pth")

    def write_async() -> None:
        background.write(parts(), functools.partial(writer.save, path=folder / "iter_3.pth"))
        background.wait()

    def read_whole() -> None:
        state = load_checkpoint(folder / "iter_1.pth") if world.is_first else {}
        backend.load_model(state.get("state_dict"))
        backend.load_optimizer(wrapper, state.get("optimizer"))

    def read_parts() -> None:
        state = open_checkpoint(folder / "iter_2.pth")
        read = functools.partial(sharded.read, folder / "iter_2.pth")
        backend.load_model_parts(state["state_dict"], read)
        backend.load_optimizer_parts(wrapper, state["optimizer"], read)

    works = {
        "write sharded": lambda: writer.save(parts(), folder / "iter_2.pth"),
        "write sharded, save_async": write_async,
        "write one file": write_whole,
        "read sharded": read_parts,
        "read one file": read_whole,
    }
    for name, work in works.items():
        found = world.all_gather(peak(work))
        if world.is_first:
            peaks = "  ".join(f"{mb:6.0f} ({mb / own:4.2f})" for mb, _ in found)
            print(f"{name:26} {max(s for _, s in found):5.1f} s   peak MB (parts): {peaks}", flush=True)
    if world.is_first:
        print(f"one part: {own:.0f} MB")
    world.close()


def main() -> int:
    """Start the processes; each runs this file again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        measure(args.folder, args.layers)
        return 0
    os.environ["NPROC_PER_NODE"] = str(args.processes)
    processes = asked_for()
    assert processes is not None
    folder = tempfile.mkdtemp()
    try:
        return launch([sys.executable, __file__, "--layers", str(args.layers), "--folder", folder], processes)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
