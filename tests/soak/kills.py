"""python tests/soak/kills.py --kills 200: a run is killed (-9) at random moments, so many times.

    fork a run -> kill it after a random time -> the newest checkpoint, or the one before, reads whole
               -> fork it again with resume   -> ...
               -> it comes to its end         -> the weights are those of a run that nobody has disturbed

Runs are forked from one process that has imported everything, so a kill takes about a second. Every second
run writes its checkpoints in the background. Prints one line of JSON with the counts; exits 1 on any loss.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import torch
from toys import WIDTH

from xtuner.checkpoint_paths import by_age
from xtuner.config import parse_config
from xtuner.engine.build import build_run
from xtuner.engine.checkpoints.files import find_fault, load_checkpoint
from xtuner.engine.run import RunOptions

ITERS = 24
TEXT = f"""
    from toys import Net, Rows, collate
    from mmengine.dataset import DefaultSampler
    from mmengine.hooks import CheckpointHook, LoggerHook
    from mmengine.optim import OptimWrapper
    from torch.optim import AdamW
    from xtuner.engine.runner import TrainLoop

    model = dict(type=Net)
    train_dataloader = dict(
        batch_size=2, dataset=dict(type=Rows), sampler=dict(type=DefaultSampler, shuffle=True),
        collate_fn=dict(type=collate))
    val_dataloader = dict(dataset=dict(type=Rows))
    optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3), accumulative_counts=2)
    train_cfg = dict(type=TrainLoop, max_iters={ITERS}, val_interval=8)
    default_hooks = dict(
        checkpoint=dict(
            type=CheckpointHook, by_epoch=False, interval=3, max_keep_ckpts=2, save_best='loss',
            save_async=False),
        logger=dict(type=LoggerHook, interval=10))
    randomness = dict(seed=5)
"""


def train(folder: Path, in_background: bool) -> None:
    """A run from its start, or from its newest checkpoint where there is one."""
    options = {"default_hooks.checkpoint.save_async": in_background}
    cfg = parse_config(textwrap.dedent(TEXT), "kills.py", options)
    resume = any(folder.glob("iter_*.pth"))
    run = build_run(cfg, RunOptions(work_dir=str(folder), resume=resume))
    run.train()


def weights(folder: Path) -> torch.Tensor:
    """All weights at the end of a run, in a row."""
    state = load_checkpoint(folder / f"iter_{ITERS}.pth", check=True)["state_dict"]
    return torch.cat([tensor.flatten() for tensor in state.values()])


def fork_run(folder: Path, in_background: bool) -> int:
    """The id of a new process that trains."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        train(folder, in_background)
        for thread in __import__("threading").enumerate():
            if thread.name == "checkpoint":
                thread.join()
        code = 0
    finally:
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """The exit status of `child`, None where it still runs after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    return None


def look(folder: Path, counts: dict[str, int]) -> None:
    """Count what a kill has left."""
    found = by_age(folder)
    if any(folder.glob(".*.part")):
        counts["during_a_save"] += 1
    if not found:
        counts["before_the_first_checkpoint"] += 1
        return
    whole = [find_fault(path) is None for path in found]
    counts["newest_damaged"] += not whole[0]
    counts["nothing_loads"] += not any(whole[:2])
    counts["too_many_kept"] += len(found) > 3
    for path in folder.glob("best_*.pth"):
        counts["best_damaged"] += find_fault(path) is not None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    names = (
        "kills during_a_save before_the_first_checkpoint newest_damaged nothing_loads best_damaged "
        "too_many_kept finished other_weights failed"
    )
    counts = dict.fromkeys(names.split(), 0)
    try:
        start = time.monotonic()
        assert wait(fork_run(root / "calm", False), 600) == 0
        length = time.monotonic() - start
        expected = weights(root / "calm")
        number = 0
        while counts["kills"] < args.kills:
            folder = root / f"run_{number}"
            while True:
                child = fork_run(folder, number % 2 == 1)
                status = wait(child, rng.uniform(0, length))
                if status is None:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    counts["kills"] += 1
                    look(folder, counts)
                    if counts["kills"] >= args.kills:
                        # What is left is trained to its end, undisturbed.
                        status = wait(fork_run(folder, number % 2 == 1), 600)
                if status is not None:
                    counts["failed"] += status != 0
                    counts["finished"] += 1
                    counts["other_weights"] += status == 0 and not torch.equal(weights(folder), expected)
                    break
            shutil.rmtree(folder)
            number += 1
    finally:
        shutil.rmtree(root, ignore_errors=True)
    mib = 3 * 4 * 2 * WIDTH * WIDTH / 2**20
    print(
        json.dumps({**counts, "mib_of_a_checkpoint": round(mib), "seconds": round(time.monotonic() - start)})
    )
    bad = ("newest_damaged", "nothing_loads", "best_damaged", "too_many_kept", "other_weights", "failed")
    return int(any(counts[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
