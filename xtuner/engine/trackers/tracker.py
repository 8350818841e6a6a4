"""What all trackers do alike; one that fails does not stop the training.

add_scalars({"loss": 2.5, "lr": 1e-4}, 10)     write({"train/loss": 2.5, "train/lr": 1e-4}, 10)
add_text("sample/Who are you?", "...", 9)      kept until the next call,
add_text("sample/1 + 1?", "...", 9)            write_samples([Sample(9, "Who are you?", "..."), ...])
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xtuner.credentials import without_credentials
from xtuner.engine.trackers.facts import TrackedRun, grouped, recorded
from xtuner.errors import ConfigError
from xtuner.extras import pip_install
from xtuner.language import translate
from xtuner.log import logger

DEFAULT_PROJECT = "xtuner"
_SAMPLE = "sample/"


class Sample(NamedTuple):
    """An answer during training: a row of the table."""

    iter: int
    prompt: str
    output: str


class Tracker(ABC):
    """One service. `open` tells it of the run, which `describe` may have described in full."""

    name = ""
    # Whether training's scalars have train/ before their names.
    is_grouped = True

    def __init__(self) -> None:
        self.id = ""
        self._run: TrackedRun | None = None
        self._recorded: dict[str, int] = {}
        self._samples: list[Sample] = []

    @abstractmethod
    def begin(self, run: TrackedRun, run_id: str | None) -> str:
        """Start a run in the service, or go on with `run_id`; returns where it is seen. Sets `id`."""

    @abstractmethod
    def write(self, scalars: dict[str, float], step: int) -> None:
        """Write numbers of one step."""

    @abstractmethod
    def write_samples(self, samples: list[Sample]) -> None:
        """Add rows to the table of samples."""

    @abstractmethod
    def end(self, error: BaseException | None) -> None:
        """Finish the run, which `error` has ended if there is one."""

    # --- as every backend of a visualizer

    def describe(self, run: TrackedRun) -> None:
        """Take the facts of the run that is opened next."""
        self._run = run

    def open(self, log_dir: Path, timestamp: str, config_text: str) -> None:
        run = self._run or TrackedRun(log_dir.parent, log_dir, timestamp, log_dir.parent.name, config_text)
        earlier = run.ids.get(self.name)
        if earlier is not None:
            self._recorded = recorded(run.work_dir, self.name, earlier)
        try:
            place = self.begin(run, earlier)
        except Exception as error:
            with contextlib.suppress(Exception):
                self.end(error)
            raise
        logger.info(translate("Tracked by %s: %s"), self.name, without_credentials(place))

    def add_scalars(self, scalars: dict[str, float], step: int) -> None:
        new = {name: value for name, value in scalars.items() if step > self._recorded.get(name, -1)}
        try:
            self.flush()
        finally:
            if new.keys() - {"iter", "epoch"}:
                self.write(grouped(new) if self.is_grouped else new, step)

    def add_text(self, name: str, text: str, step: int) -> None:
        if self._samples and self._samples[-1].iter != step:
            self.flush()
        # What an earlier start has shown is not shown again.
        if step >= max(self._recorded.values(), default=0):
            self._samples.append(Sample(step, name.removeprefix(_SAMPLE), text))

    def flush(self) -> None:
        """Write the samples that wait."""
        samples, self._samples = self._samples, []
        if samples:
            self.write_samples(samples)

    def close(self) -> None:
        ended_by = sys.exc_info()[1]
        try:
            self.flush()
        finally:
            self.end(ended_by)


class Guarded:
    """A backend whose errors are counted instead of raised; the first is logged, and their number at the end.

    A missing package or a wrong argument raises ConfigError, before the training begins.
    """

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.name = getattr(backend, "name", "") or type(backend).__name__
        self.num_calls = self.num_failed = 0
        self.is_open = False

    def open(self, *arguments: Any) -> None:
        self.is_open = self._call(self.backend.open, *arguments, raised=ConfigError)
        if not self.is_open:
            logger.warning(translate("%s is left out of this run"), self.name)

    def add_scalars(self, scalars: dict[str, float], step: int) -> None:
        if self.is_open:
            self._call(self.backend.add_scalars, scalars, step)

    def add_text(self, name: str, text: str, step: int) -> None:
        if self.is_open:
            self._call(self.backend.add_text, name, text, step)

    def close(self) -> None:
        if not self.is_open:
            return
        self._call(self.backend.close)
        self.is_open = False
        if self.num_failed > 1:
            logger.warning(translate("%s: %d of %d calls failed"), self.name, self.num_failed, self.num_calls)

    def _call(
        self, function: Callable[..., Any], *arguments: Any, raised: type[Exception] | tuple = ()
    ) -> bool:
        """Whether the call succeeded."""
        self.num_calls += 1
        try:
            function(*arguments)
        except raised:
            raise
        except Exception as error:
            self.num_failed += 1
            if self.num_failed == 1:
                reason = without_credentials((str(error).strip().splitlines() or [""])[0])
                logger.warning(
                    translate("%s failed, and the training goes on: %s: %.300s"),
                    self.name,
                    type(error).__name__,
                    reason,
                )
                logger.debug("", exc_info=error)
            return False
        return True


def new_id() -> str:
    """An id for a new run."""
    return uuid.uuid4().hex[:16]


def need(module: str, user: str, package: str) -> Any:
    """The imported module; ConfigError with the command that installs its package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            translate(
                "{user} needs the package {package}: {command}",
                user=user,
                package=package,
                command=pip_install(package),
            )
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context in which a package's own prints are debug lines of the log."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        yield
    for line in filter(None, said.getvalue().splitlines()):
        logger.log(logging.DEBUG, "%s", without_credentials(line))
