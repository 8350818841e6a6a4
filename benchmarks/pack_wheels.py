"""Wheels that a GPU machine without a network lacks: `make gpu-wheels`, on a machine with one.

    build/wheels/xtuner/*.whl     10 MB; `make gpu` there makes build/site of them
    build/wheels/unsloth/*.whl    50 MB; `peers.py install unsloth` there makes .peers/unsloth/site of them

For Linux on x86-64, and for a Python that has torch, transformers, peft, accelerate, triton, pandas, pyarrow,
aiohttp, matplotlib, pytest and httpx. Versions are those of constraints.txt and requirements/unsloth.txt. Of
bitsandbytes only the libraries for one CUDA and for a CPU are packed, a tenth of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "wheels"
MANYLINUX = ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "1")
PLATFORMS = [f"manylinux{version}_x86_64" for version in MANYLINUX]
PACKAGES = {
    "xtuner": """bitsandbytes datasets dill multiprocess prompt_toolkit wcwidth
        fastapi starlette opentelemetry_api uvicorn pydantic pydantic_core annotated_types
        typing_inspection""",
    "unsloth": """unsloth unsloth_zoo trl datasets tyro cut_cross_entropy hf_transfer docstring_parser
        typeguard torchao diffusers importlib_metadata lazy_importer msgspec nest_asyncio structlog""",
}
VERSIONS = {
    "xtuner": ROOT / "constraints.txt",
    "unsloth": ROOT / "benchmarks" / "requirements" / "unsloth.txt",
}


def download(names: list[str], versions: Path, place: Path, python: str) -> None:
    """The wheels of these packages, without what they need themselves."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python, "--constraint", str(versions)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, "--dest", str(place), *names], check=True)


def keep_libraries(wheel: Path, cuda: str) -> None:
    """Leave out of bitsandbytes the libraries of other devices."""
    with zipfile.ZipFile(wheel) as old:
        kept = {name: old.read(name) for name in old.namelist() if is_kept(name, cuda)}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in kept.items():
            if name.endswith("/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if is_kept(line.split(",")[0], cuda)).encode()
            new.writestr(name, content)


def is_kept(name: str, cuda: str) -> bool:
    """Whether a file of bitsandbytes is for a CPU or that CUDA, if it is for a device."""
    return "/libbitsandbytes_" not in name or f"_cuda{cuda}." in name or "_cpu" in name


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--cuda", default="130", help="of its torch: 130 for 13.0")
    args = parser.parse_args()
    for group, names in PACKAGES.items():
        place = PLACE / group
        with tempfile.TemporaryDirectory(dir=ROOT) as scratch:
            download(names.split(), VERSIONS[group], Path(scratch), args.python)
            for wheel in Path(scratch).glob("bitsandbytes-*.whl"):
                keep_libraries(wheel, args.cuda)
            place.mkdir(parents=True, exist_ok=True)
            for old in place.glob("*.whl"):
                old.unlink()
            for wheel in Path(scratch).glob("*.whl"):
                wheel.replace(place / wheel.name)
        size = sum(wheel.stat().st_size for wheel in place.glob("*.whl"))
        print(f"{place}: {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
