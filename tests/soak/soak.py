"""python tests/soak/soak.py --iters 2000: a long run leaks neither memory nor file handles nor disk.

A small Llama with LoRA trains through the real command, saving every 20 iterations and sampling every 50.
Every second its resident memory, open files and the checkpoints in its work dir are looked at from outside.
Prints one line of JSON; exits 1 where memory grows by more than 2 %, files by more than two, or too many
checkpoints stand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from model import write_model

CONFIG = Path(__file__).parents[1] / "data" / "bad_input" / "config.py"
KEEP = 2


def config_text() -> str:
    """The config of the tests on bad input, with sampling."""
    return CONFIG.read_text() + (
        "\nfrom xtuner.engine.hooks import EvaluateChatHook\n"
        "custom_hooks = [dict(type=EvaluateChatHook, tokenizer=tokenizer, every_n_iters=50,\n"
        "    max_new_tokens=8, evaluation_inputs=['who are you'], prompt_template=prompt_template)]\n"
        "val_dataloader = dict(held_out=0.2)\n"
    )


def look(process: int, work_dir: Path) -> tuple[float, int, int, int]:
    """Resident MiB, open files, checkpoints, unfinished files."""
    status = Path(f"/proc/{process}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024
    files = len(os.listdir(f"/proc/{process}/fd"))
    unfinished = len(list(work_dir.glob(".*.part")))
    return resident, files, len(list(work_dir.glob("iter_*.pth"))), unfinished


def newest_iter(work_dir: Path) -> int:
    """The iteration of the newest checkpoint, 0 without one."""
    return max((int(path.stem[5:]) for path in work_dir.glob("iter_*.pth")), default=0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--iters", type=int, default=2000)
    parser.add_argument("--background", action="store_true", help="write checkpoints in the background")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    write_model(folder / "model")
    rows = [{"instruction": f"who are you {i}", "input": "", "output": f"model {i}"} for i in range(40)]
    (folder / "d.json").write_text(json.dumps(rows))
    (folder / "c.py").write_text(config_text())
    words = [sys.executable, "-m", "xtuner", "train", "c.py", "--work-dir", "w", "--cfg-options"]
    words += [f"max_iters={args.iters}", "interval=20", "default_hooks.logger.interval=100"]
    words += [f"default_hooks.checkpoint.save_async={args.background}"]
    words += ["default_hooks.checkpoint.save_best=loss", "train_cfg.val_interval=200"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XTUNER_CACHE": str(folder / "cache")}
    start = time.monotonic()
    run = subprocess.Popen(words, cwd=folder, env=env, stderr=(folder / "log").open("w"))
    seen = []
    while run.poll() is None:
        time.sleep(1)
        try:
            seen.append((newest_iter(folder / "w"), *look(run.pid, folder / "w")))
        except (OSError, AttributeError):
            break
    code = run.wait()
    warm = [s for s in seen if s[0] >= args.iters // 5]
    # The end of a run makes no more of anything, so the last looks count too.
    tenth = max(1, len(warm) // 10)
    first, last = warm[:tenth], warm[-2 * tenth :]
    resident = [sum(s[1] for s in part) / len(part) for part in (first, last)]
    result = {
        "exit": code,
        "iters": args.iters,
        "seconds": round(time.monotonic() - start),
        "looks": len(warm),
        "resident_mib": [round(r, 1) for r in resident],
        "growth_percent": round((resident[1] / resident[0] - 1) * 100, 2),
        "peak_growth_percent": round((max(s[1] for s in warm) / resident[0] - 1) * 100, 2),
        "open_files": [max(s[2] for s in part) for part in (first, last)],
        "most_checkpoints": max(s[3] for s in seen),
        "left": sorted(path.name for path in (folder / "w").glob("*.pth")),
    }
    print(json.dumps(result))
    if code:
        print((folder / "log").read_text()[-2000:], file=sys.stderr)
    shutil.rmtree(folder)
    # One more stands for the moment in which the new one is there and the oldest not yet gone.
    files = result["open_files"][1] - result["open_files"][0] > 2
    return int(code != 0 or result["growth_percent"] > 2 or files or result["most_checkpoints"] > KEEP + 1)


if __name__ == "__main__":
    sys.exit(main())
