"""Models that a command line names: folders, names on a hub, addresses."""

from __future__ import annotations

import argparse

from xtuner.model_address import local_model
from xtuner.model_folder import check_model_path


def fetch_models(args: argparse.Namespace, *names: str) -> None:
    """Put folders of this machine in the place of addresses in these arguments."""
    for name in names:
        value = getattr(args, name, None)
        if isinstance(value, str):
            setattr(args, name, local_model(value))


def find_model(args: argparse.Namespace, name: str) -> None:
    """The same for one argument; raises if the model is not there, before torch is imported."""
    fetch_models(args, name)
    check_model_path(getattr(args, name))
