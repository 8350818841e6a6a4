"""RESULTS.md, and RESULTS-gpu.md of `make gpu`: a section for each benchmark, with the machine it ran on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
TITLE = "# Results\n\nWritten by the programs of this folder; README.md says what they measure.\n"


def machine() -> str:
    """Processor, GPU and driver, cores, load and versions in one line."""
    parts = [processor(), f"{os.cpu_count()} CPUs", *gpus(), f"{platform.system()} {platform.machine()}"]
    parts.append(f"Python {platform.python_version()}")
    packages = [
        "torch",
        "transformers",
        "peft",
        "tokenizers",
        *(["triton", "bitsandbytes"] if gpus() else []),
    ]
    for package in packages:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if hasattr(os, "getloadavg"):
        parts.append(f"load {os.getloadavg()[0]:.1f}")
    return ", ".join(parts)


def processor() -> str:
    """The name of the processor."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def gpus() -> list[str]:
    """The NVIDIA GPUs, each with its memory and driver."""
    fields = "--query-gpu=name,memory.total,driver_version"
    try:
        command = ["nvidia-smi", fields, "--format=csv,noheader"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return ["{}, {}, driver {}".format(*line.split(", ")) for line in lines]
    except (OSError, subprocess.CalledProcessError):
        return []


def write_section(title: str, text: str, path: Path = RESULTS, head: str = TITLE) -> None:
    """Put `text` under its heading in the file, replacing the old text; a new file starts with `head`."""
    head, sections = read_sections(path, head)
    sections[title] = text
    body = "\n".join(f"## {name}\n\n{section.strip()}\n" for name, section in sections.items())
    # An interruption leaves the old file or the new one.
    new = path.with_name(f"{path.name}.new")
    new.write_text(f"{head.rstrip()}\n\n{body}", "utf-8")
    new.replace(path)


def read_sections(path: Path, head: str = "") -> tuple[str, dict[str, str]]:
    """The text before the first heading, and the text under each; `head` and none of no file."""
    whole = path.read_text("utf-8") if path.is_file() else head
    head, *parts = re.split(r"(?m)^## ", whole)
    return head, dict(part.split("\n", 1) for part in parts)
