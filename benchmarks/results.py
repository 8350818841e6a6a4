"""RESULTS.md: a section for each benchmark, each with the machine it ran on."""

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
    """Processor, GPU, cores, load and versions in one line."""
    parts = [processor(), f"{os.cpu_count()} CPUs", *gpus(), f"{platform.system()} {platform.machine()}"]
    parts.append(f"Python {platform.python_version()}")
    for package in ("torch", "transformers", "peft", "tokenizers"):
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
    """The names of the NVIDIA GPUs."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def write_section(title: str, text: str, path: Path = RESULTS) -> None:
    """Put `text` under its heading in the file, replacing the old text."""
    whole = path.read_text("utf-8") if path.is_file() else TITLE
    head, *parts = re.split(r"(?m)^## ", whole)
    sections = dict(part.split("\n", 1) for part in parts)
    sections[title] = f"\n{text.strip()}\n"
    body = "\n".join(f"## {name}\n{section.rstrip()}\n" for name, section in sections.items())
    path.write_text(f"{head.rstrip()}\n\n{body}", "utf-8")
