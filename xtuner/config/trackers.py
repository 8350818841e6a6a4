"""The trackers that a config or `--tracker` names, known without importing one.

visualizer = dict(trackers=['swanlab', 'tensorboard'])     ->  ["swanlab", "tensorboard"]
xtuner train CONFIG --tracker swanlab,tensorboard          ->  the same
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from xtuner.config.schema import Fault
from xtuner.errors import ConfigError, did_you_mean
from xtuner.extras import EXTRAS, pip_install
from xtuner.language import translate


class Known(NamedTuple):
    """A tracker: the path of its class, the module that it needs, and the package with that module."""

    path: str
    module: str
    package: str


def _package(extra: str, name: str) -> str:
    return next(package for package in EXTRAS[extra] if package.startswith(name))


TRACKERS: dict[str, Known] = {
    name: Known(f"xtuner.engine.trackers.{module}.{kind}", name, _package(extra, name))
    for name, module, kind, extra in (
        ("tensorboard", "tensorboard", "TensorboardTracker", "track"),
        ("wandb", "wandb", "WandbTracker", "track"),
        ("swanlab", "swanlab", "SwanlabTracker", "swanlab"),
        ("mlflow", "mlflow", "MlflowTracker", "mlflow"),
        ("trackio", "trackio", "TrackioTracker", "trackio"),
    )
}


def tracker_names(given: str | Iterable[str] | None) -> list[str]:
    """The names in a text, comma-separated, or in a list of such texts; each once."""
    texts = [given] if isinstance(given, str) else list(given or [])
    names = [name.strip().lower() for text in texts for name in text.split(",")]
    return list(dict.fromkeys(filter(None, names)))


def tracker_settings(given: str | Iterable[str] | None, run_name: str | None) -> dict[str, Any]:
    """The settings of a config that say the same."""
    names = tracker_names(given)
    named: dict[str, Any] = {"visualizer.trackers": names} if names else {}
    return named | ({"visualizer.run_name": run_name} if run_name else {})


def find_unknown_trackers(config: Mapping[str, Any]) -> list[Fault]:
    """A fault for each name under `visualizer.trackers` that is none."""
    visualizer = config.get("visualizer")
    given = visualizer.get("trackers") if isinstance(visualizer, Mapping) else None
    place = "visualizer.trackers"
    if given is None:
        return []
    if not isinstance(given, (str, list, tuple)) or not all(isinstance(name, str) for name in given):
        what = "{place} is {given!r}; it must be a list of names of: {known}"
        return [Fault(place, translate(what, place=place, given=given, known=", ".join(TRACKERS)))]
    return [
        Fault(
            place,
            translate(
                "{place}: there is no tracker {name!r}.{hint} Known: {known}",
                place=place,
                name=name,
                hint=did_you_mean(name, TRACKERS),
                known=", ".join(TRACKERS),
            ),
        )
        for name in tracker_names(given)
        if name not in TRACKERS
    ]


def check_installed(names: Iterable[str]) -> None:
    """Raise ConfigError for the trackers of these names whose packages are missing."""
    missing = [TRACKERS[name] for name in names if importlib.util.find_spec(TRACKERS[name].module) is None]
    if missing:
        raise ConfigError(
            *(
                translate(
                    "{user} needs the package {package}: {command}",
                    user=known.path.rpartition(".")[2],
                    package=known.module,
                    command=pip_install(known.package),
                )
                for known in missing
            )
        )
