"""The errors a user can cause, as a tree; each is also the standard type it resembles.

    XTunerError
    ├── ConfigError      (ValueError)         a config, an option or a name in it
    ├── DataError        (ValueError)         a row, a file of rows, a template
    ├── ModelError       (ValueError)         a model folder, an adapter, a tokenizer
    ├── NotFoundError    (FileNotFoundError)  a path or a built-in name
    ├── CheckpointError  (RuntimeError)       a checkpoint that cannot be read or written
    └── TrainingError    (RuntimeError)       a run that cannot continue

The command line prints one line for these and the traceback only with `--debug`. Internal errors
are plain `assert`s.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from xtuner.language import translate


class XTunerError(Exception):
    """Base of all errors whose message alone tells the user what to do; `args` may hold several messages."""

    def __str__(self) -> str:
        # FileNotFoundError formats its own arguments; each is a message here.
        return "\n".join(map(str, self.args))


class ConfigError(XTunerError, ValueError):
    """A config file, a command-line option or a value in them is wrong."""


class DataError(XTunerError, ValueError):
    """A data file or a row in it is wrong."""


class ModelError(XTunerError, ValueError):
    """A model folder, adapter or tokenizer does not fit."""


class NotFoundError(XTunerError, FileNotFoundError):
    """A path or a built-in name does not exist."""


class CheckpointError(XTunerError, RuntimeError):
    """A checkpoint cannot be read or written."""


class TrainingError(XTunerError, RuntimeError):
    """Training cannot continue."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'a' or 'b'?"` with the nearest of `choices`, or `""` if none is similar."""
    near = difflib.get_close_matches(word, list(choices), n=3, cutoff=0.75)
    return (
        translate(" Did you mean {names}?", names=translate(" or ").join(repr(n) for n in near))
        if near
        else ""
    )
