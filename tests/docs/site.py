"""The modules of docs/site, which mkdocs loads from their folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))

import assemble
import python_page
import reference
import wording

__all__ = ["ROOT", "assemble", "python_page", "reference", "wording"]
