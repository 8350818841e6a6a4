"""Other programs for training, each in a separate virtual environment.

    python benchmarks/peers.py install                       TRL and LLaMA-Factory, 3.5 GB, some minutes
    python benchmarks/peers.py install unsloth --place D     one of them, in the folder D
    python benchmarks/peers.py list                          which are there

requirements/<name>.txt -> <place>/<name>/bin/python
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DEFAULT_PLACE = HERE / ".peers"
# The index of PyTorch's own CPU builds, for Linux machines without an NVIDIA GPU.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PEERS = sorted(path.stem for path in (HERE / "requirements").glob("*.txt"))
NEED_GPU = {"unsloth"}


def python_of(name: str, place: Path) -> Path | None:
    """The Python of a peer's environment, or None if it is not installed."""
    python = place.resolve() / name / "bin" / "python"
    return python if (place / name / "installed").is_file() else None


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    except OSError:
        return False


def install(name: str, place: Path) -> None:
    """Make the environment of one peer; exactly the versions of its requirements."""
    folder = place / name
    requirements = HERE / "requirements" / f"{name}.txt"
    lines = requirements.read_text("utf-8").splitlines()
    torch = next(line for line in lines if line.startswith("torch=="))
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if sys.platform == "linux" and not has_gpu():
        known = subprocess.run([*pip, f"{torch}+cpu"], capture_output=True).returncode == 0
        if not known:
            subprocess.run([*pip, "--index-url", TORCH_CPU_INDEX, f"{torch}+cpu"], check=True)
    else:
        subprocess.run([*pip, torch], check=True)
    # The files list every package; the programs' own requirements include more than training needs.
    subprocess.run([*pip, "--no-deps", "-r", requirements], check=True)
    if name == "llamafactory" and not has_gpu():
        drop_cuda_libraries(folder)
    (folder / "installed").touch()


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
            except subprocess.CalledProcessError as error:  # the benchmark runs without it
                print(f"{name} cannot be installed: {error}", file=sys.stderr)
        print(f"{name}: {python_of(name, args.place) or 'not installed'}")


if __name__ == "__main__":
    main()
