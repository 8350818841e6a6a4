"""What mkdocs calls: the pages are put together before it reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assemble import ROOT, assemble

_OUT = ROOT / "build" / "docs"


def on_config(config: Any) -> Any:
    """The config with the folder of the assembled pages, which are made once for both languages."""
    if Path(config["docs_dir"]) != _OUT:
        assemble(_OUT)
        config["docs_dir"] = str(_OUT)
    return config
