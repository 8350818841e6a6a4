"""Other programs for training and evaluation, each in a separate virtual environment.

    python benchmarks/peers.py install                       TRL and LLaMA-Factory, 3.5 GB, some minutes
    python benchmarks/peers.py install unsloth --place D     one of them, in the folder D
    python benchmarks/peers.py list                          which are there

requirements/<name>.txt         -> <place>/<name>/bin/python
build/wheels/<name>/*.whl       -> <place>/<name>/site, for this Python: without a network (pack_wheels.py)
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DEFAULT_PLACE = HERE / ".peers"
WHEELS = HERE.parent / "build" / "wheels"
# The index of PyTorch's own CPU builds, for Linux machines without an NVIDIA GPU.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PEERS = sorted(path.stem for path in (HERE / "requirements").glob("*.txt"))
NEED_GPU = {"unsloth"}


def python_of(name: str, place: Path) -> Path | None:
    """The Python that runs a peer, with `site_of` first in its path; None if the peer is not installed."""
    folder = place.resolve() / name
    if not (folder / "installed").is_file():
        return None
    return Path(sys.executable) if site_of(name, place) else folder / "bin" / "python"


def site_of(name: str, place: Path) -> Path | None:
    """The folder of a peer's wheels, where it has no environment of its own."""
    site = place.resolve() / name / "site"
    return site if site.is_dir() else None


def why_missing(name: str, place: Path) -> str:
    """Why it is not installed, in a few words."""
    failed = place / name / "failed"
    return f"not installed: {failed.read_text('utf-8')}" if failed.is_file() else "not installed"


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    except OSError:
        return False


def install(name: str, place: Path) -> None:
    """Make the environment of one peer; exactly the versions of its requirements, or its wheels."""
    folder = place / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if install_wheels(WHEELS / name, folder / "site") is None:
        install_from_index(name, folder)
    (folder / "installed").touch()


def install_wheels(wheels: Path, site: Path) -> Path | None:
    """The folder `site` with what the wheels hold, for this Python; None if there are none."""
    files = sorted(wheels.glob("*.whl"))
    done = site / "wheels"
    names = "\n".join([sys.version, *(file.name for file in files)])
    if files and not (done.is_file() and done.read_text("utf-8") == names):
        shutil.rmtree(site, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        run_pip([*pip, "--target", site, *files])
        done.write_text(names, "utf-8")
    return site if files else None


def install_from_index(name: str, folder: Path) -> None:
    """A virtual environment with the requirements of a peer."""
    requirements = HERE / "requirements" / f"{name}.txt"
    lines = requirements.read_text("utf-8").splitlines()
    torch = next(line for line in lines if line.startswith("torch=="))
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if sys.platform == "linux" and not has_gpu():
        try:
            run_pip([*pip, f"{torch}+cpu"])
        except InstallError:
            run_pip([*pip, "--index-url", TORCH_CPU_INDEX, f"{torch}+cpu"])
    else:
        run_pip([*pip, torch])
    # The files list every package; the programs' own requirements include more than training needs.
    run_pip([*pip, "--no-deps", "-r", requirements])
    if name == "llamafactory" and not has_gpu():
        drop_cuda_libraries(folder)


class InstallError(Exception):
    """pip's own last line."""


def run_pip(command: list[Any]) -> None:
    """Run pip; InstallError if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
        raise InstallError(
            lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"
        )


def drop_cuda_libraries(folder: Path) -> None:
    """Remove torchaudio's compiled parts, which need CUDA's libraries."""
    for library in folder.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
        library.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["install", "list"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--place", type=Path, default=DEFAULT_PLACE, help="folder of the environments")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(PEERS)):
        parser.error(f"{unknown[0]} is none of {', '.join(PEERS)}")
    if args.action == "install" and sys.version_info < (3, 11):
        parser.error("these programs need Python 3.11 or newer")
    for name in args.names or [name for name in PEERS if has_gpu() or name not in NEED_GPU]:
        if args.action == "install" and python_of(name, args.place) is None:
            print(f"Installing {name}", flush=True)
            try:
                install(name, args.place)
            except (InstallError, subprocess.CalledProcessError) as error:  # the benchmark runs without it
                (args.place / name / "failed").write_text(str(error), "utf-8")
        print(f"{name}: {python_of(name, args.place) or why_missing(name, args.place)}")


if __name__ == "__main__":
    main()
