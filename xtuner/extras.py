"""The commands that install missing optional packages.

    extra   web                    ->  /home/me/xtuner/.venv/bin/python -m pip install 'streamlit>=1.50' ...
    module  schedulefree           ->  /home/me/xtuner/.venv/bin/python -m pip install 'schedulefree>=1.4'

The xtuner of PyPI is another package without these extras, so packages are named one by one.
"""

from __future__ import annotations

import itertools
import re
import shlex
import sys

_SERVE = ("fastapi>=0.120", "pydantic>=2.10", "uvicorn>=0.30", "prometheus-client>=0.20")
# As in pyproject.toml, where extras also include one another.
EXTRAS: dict[str, tuple[str, ...]] = {
    "track": ("tensorboard>=2.17", "wandb>=0.19"),
    "swanlab": ("swanlab>=0.10",),
    "mlflow": ("mlflow>=3",),
    "trackio": ("trackio>=0.40",),
    "excel": ("openpyxl>=3.1",),
    "deepspeed": ("deepspeed>=0.19",),
    "agents": ("mcp>=2",),
    "serve": _SERVE,
    "structured": ("llguidance>=1.3",),
    "web": (*_SERVE, "streamlit>=1.50"),
    "api": ("openai>=2",),
    "harness": ("lm-eval>=0.4.13",),
    "gguf": ("gguf>=0.17",),
    "llama": ("xllamacpp>=2026.7",),
    "compressed": ("compressed-tensors>=0.15",),
    "video": ("av>=14",),
    "optimizers": ("schedulefree>=1.4",),
    "zstd": ("zstandard>=0.22",),
    "s3": ("s3fs>=2025.2",),
    "gs": ("gcsfs>=2025.2",),
    "oss": ("ossfs>=2025.5",),
    "modelscope": ("modelscope[datasets]>=1.40",),
}


def pip_install(*packages: str) -> str:
    """The command that installs `packages` for this Python."""
    return shlex.join([sys.executable or "python", "-m", "pip", "install", *packages])


def install_extra(extra: str) -> str:
    """The command that installs the packages of an extra."""
    return pip_install(*EXTRAS[extra])


def install_module(module: str) -> str | None:
    """The command that installs the package which has `module`; None if no extra names it."""
    for package in itertools.chain(*EXTRAS.values()):
        if re.split(r"[\[>]", package)[0].replace("-", "_") == module:
            return pip_install(package)
    return None
