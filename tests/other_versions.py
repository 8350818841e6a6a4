"""The tests of replaced layers with another version of a package, installed into a folder of its own.

python -m tests.other_versions test "transformers>=5.18,<6"    the newest of these
python -m tests.other_versions prove transformers==5.23.0      where the tests pass, that version is added
                                                               to xtuner/model/proven.json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.version import Version

from xtuner.model import foreign

ROOT = Path(__file__).parents[1]
TESTS = ["fused", "test_foreign.py", "test_attention.py", "test_rope.py", "test_compiled.py"]
TESTS += ["test_host_embedding.py", "test_own_attention.py", "test_recompute.py", "test_quantized.py"]
# These bring torch along, which is gigabytes: the installed one is used.
ALONE = {"peft", "bitsandbytes", "accelerate"}


def install(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-compile", "--target", str(folder), requirement]
    name = re.match(r"[\w-]+", requirement)[0]
    if subprocess.run(command + ["--no-deps"] * (name in ALONE)).returncode:
        sys.exit(f"pip cannot install {requirement!r}: see above; is a package index reachable?")


def run(folder: Path, *command: str) -> int:
    """The exit status of a Python that finds `folder` first."""
    paths = [str(folder), str(ROOT)]
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ).returncode


def run_tests(folder: Path) -> int:
    # What a version deprecates is no fault yet.
    return run(folder, "-m", "pytest", "-n", "0", "-W", "default", *(f"tests/model/{name}" for name in TESTS))


def collect(package: str) -> None:
    """Add what is installed of `package` to the file."""
    version, found = importlib.metadata.version(package), foreign.proven()
    for path in foreign.guarded():
        if path.split(".")[0] == package:
            try:
                function = resolve(path)
            except AttributeError:
                sys.exit(f"{path} is not in {package} {version}: name where it is now")
            versions = found.setdefault(path, {}).setdefault(foreign.fingerprint(function), [])
            versions[:] = sorted({*versions, version}, key=Version)
    foreign.FILE.write_text(json.dumps(dict(sorted(found.items())), indent=2) + "\n", encoding="utf-8")


def resolve(path: str) -> Any:
    """The function at `path`: of a module, or of a class in one."""
    *parents, name = path.split(".")
    try:
        owner = importlib.import_module(".".join(parents))
    except ModuleNotFoundError:
        owner = resolve(".".join(parents))
    return getattr(owner, name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["test", "prove", "collect"])
    parser.add_argument("requirement")
    args = parser.parse_args()
    if args.action == "collect":  # in the process that finds the other version
        collect(args.requirement)
        return 0
    with tempfile.TemporaryDirectory(prefix="xtuner-version-") as folder:
        install(args.requirement, Path(folder))
        if args.action == "test":
            return run_tests(Path(folder))
        package = re.match(r"[\w-]+", args.requirement)[0]
        before = foreign.FILE.read_text(encoding="utf-8")
        status = run(Path(folder), "-m", "tests.other_versions", "collect", package) or run_tests(
            Path(folder)
        )
        if status:
            foreign.FILE.write_text(before, encoding="utf-8")
            print(f"{args.requirement} is not added: its tests fail", file=sys.stderr)
        return status


if __name__ == "__main__":
    sys.exit(main())
