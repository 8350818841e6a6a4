"""Models that a command line names: folders, names on a hub, addresses."""

from __future__ import annotations

import argparse

from xtuner.model_address import local_adapter, local_model
from xtuner.model_folder import check_model_path
from xtuner.paths import name_and_place


def fetch_models(args: argparse.Namespace, *names: str) -> None:
    """Put folders of this machine in the place of addresses in these arguments."""
    for name in names:
        value = getattr(args, name, None)
        if isinstance(value, str):
            setattr(args, name, local_model(value))


def fetch_adapters(args: argparse.Namespace, name: str = "adapter") -> None:
    """The same for an adapter, or for a list of them that may have names in requests: NAME=ADDRESS."""
    value = getattr(args, name, None)
    if isinstance(value, str):
        setattr(args, name, local_adapter(value))
    elif value:
        setattr(args, name, [_local(text) for text in value])


def _local(text: str) -> str:
    name, place = name_and_place(text)
    folder = local_adapter(place)
    # A copy may lie in a folder with another name.
    return text if folder == place else f"{name or place.rstrip('/').rpartition('/')[2]}={folder}"


def find_model(args: argparse.Namespace, name: str) -> None:
    """The same for one argument; raises if the model is not there, before torch is imported."""
    fetch_models(args, name)
    check_model_path(getattr(args, name))
