"""Models that a command line names by an address."""

from __future__ import annotations

import argparse

from xtuner.model_address import local_model


def fetch_models(args: argparse.Namespace, *names: str) -> None:
    """Put folders of this machine in the place of addresses in these arguments."""
    for name in names:
        value = getattr(args, name, None)
        if isinstance(value, str):
            setattr(args, name, local_model(value))
