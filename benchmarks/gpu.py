"""What is tried and measured on a GPU, in parts of less than nine minutes: `make gpu`.

    make gpu                          all parts, one after another
    make gpu PART=numbers             one of them, or several: PART="runs memory"
    make gpu GPU_PYTHON=python3       with that Python's packages and build/wheels (`make gpu-wheels`)
    XTUNER_STAND_IN=1 make gpu        a CPU stands in for the GPU, with tiny models

    kernels        each kernel and each way of attention against float64
    numbers        losses and gradients of whole models against stock code in float64
    runs           training, resuming, converting, chat, serving
    memory         the memory that was estimated and what runs took; 7B in 8 GB
    prepare        a model as large as Llama 3.1 8B, rows, and Unsloth
    transformers   tokens/s and peak memory of XTuner, and of transformers' Trainer with peft
    unsloth        the same beside Unsloth

Each part writes its section of RESULTS-gpu.md, after every test and every training, so that nothing is lost
if it is interrupted. Numbers of a CPU that stands in go to .work/stand-in/RESULTS-gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent
sys.path.insert(0, str(HERE))
from assets import STANDS_IN
from peers import install_wheels
from results import machine, read_sections, write_section

LIMIT_S = 540
RESULTS = HERE / ".work" / "stand-in" / "RESULTS-gpu.md" if STANDS_IN else HERE / "RESULTS-gpu.md"
PACKAGES = ["torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "pytest"]
HEAD = "# Results on a GPU\n\nWritten by `make gpu`, part by part; README.md says what they measure.\n"
if STANDS_IN:
    HEAD = "# A CPU in place of a GPU\n\nThe parts of `make gpu` ran; no number here is of a GPU.\n"


class Part(NamedTuple):
    """Programs that are run one after another, for Python, and the title of their section."""

    title: str
    programs: list[list[str]]


def tests(title: str, *files: str) -> Part:
    """Tests whose outcomes become the section."""
    return Part(title, [["-m", "pytest", "-p", "outcomes", *section(title), *files]])


def speed(title: str, peer: str) -> Part:
    """XTuner and another program in turns."""
    command = [str(HERE / "train_speed.py"), "--gpu", "--rounds", "1" if STANDS_IN else "2", "--write"]
    return Part(title, [[*command, "--only", "xtuner", peer, *section(title)]])


def section(title: str) -> list[str]:
    """Arguments of a program that writes its own section."""
    return ["--section", title, "--results", str(RESULTS)]


PARTS = {
    "kernels": tests("Kernels against float64", "tests/model/kernels", "tests/gpu/test_attention.py"),
    "numbers": tests("Losses and gradients against float64", "tests/gpu/test_numbers.py"),
    "runs": tests("Runs", "tests/gpu/test_runs.py"),
    "memory": tests("Memory: estimated and measured", "tests/gpu/test_memory.py"),
    "prepare": Part(
        "Model, rows and Unsloth", [[str(HERE / "assets.py")], [str(HERE / "peers.py"), "install", "unsloth"]]
    ),
    "transformers": speed("Training beside transformers", "trainer"),
    "unsloth": speed("Training beside Unsloth", "unsloth"),
}


def run(part: Part, environment: dict[str, str]) -> str:
    """Run a part; how it ended, which its section says too."""
    write_section(part.title, machine(), RESULTS, HEAD)
    begun = time.monotonic()
    codes = []
    for program in part.programs:
        left = LIMIT_S - (time.monotonic() - begun)
        codes.append(run_program([sys.executable, *program], environment, left))
    seconds = f"{time.monotonic() - begun:.0f} s"
    if None in codes:
        ending = f"was stopped after {seconds}"
    else:
        ending = f"failed after {seconds}" if any(codes) else f"took {seconds}"
    _, sections = read_sections(RESULTS)
    write_section(part.title, f"{sections[part.title].strip()}\n\nThis part {ending}.", RESULTS)
    return ending


def run_program(command: list[str], environment: dict[str, str], limit: float) -> int | None:
    """The exit status of a program; None if it was stopped at the limit, with all that it had started."""
    child = psutil.Popen(command, env=environment, cwd=ROOT)
    try:
        return child.wait(max(limit, 0))
    except psutil.TimeoutExpired:
        return None
    finally:
        if child.is_running():
            for process in [*child.children(recursive=True), child]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            child.wait()


def add_packages() -> str:
    """PYTHONPATH of the programs: the wheels of `make gpu-wheels`, the project, what was there."""
    wheels = install_wheels(ROOT / "build" / "wheels" / "xtuner", ROOT / "build" / "site")
    folders = [*([wheels] if wheels else []), ROOT, HERE]
    sys.path[:0] = map(str, folders)
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="all if none is named")
    args = parser.parse_args()
    if unknown := sorted(set(args.parts) - set(PARTS)):
        parser.error(f"PART={unknown[0]} is none of {', '.join(PARTS)}")
    environment = {**os.environ, "PYTHONPATH": add_packages(), "HF_HUB_OFFLINE": "1"}
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            parser.error(f"{sys.executable} has no {package}: see CONTRIBUTING.md")
    import torch

    if not torch.cuda.is_available() and not STANDS_IN:
        parser.error("no NVIDIA GPU here; XTUNER_STAND_IN=1 tries the parts on a CPU")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    endings = {}
    for name in args.parts or PARTS:
        print(f"== {name}: {PARTS[name].title}", flush=True)
        endings[name] = run(PARTS[name], environment)
        print(f"== {name} {endings[name]}", flush=True)
    print(f"Results: {RESULTS}")
    if any(not ending.startswith("took") for ending in endings.values()):
        sys.exit("; ".join(f"{name} {ending}" for name, ending in endings.items()))


if __name__ == "__main__":
    main()
