"""Loads the tokenizer of a model folder, and logs the Python files that a trusted folder runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.errors import ModelError
from xtuner.extras import pip_install
from xtuner.families import FAMILIES, UNKNOWN
from xtuner.language import translate
from xtuner.log import say_once
from xtuner.model_folder import check_model_folder, read_json, remote_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name; a folder's code runs only if it is trusted."""
    from transformers import AutoTokenizer

    check_model_folder(path, tokenizer=True)
    if trust_remote_code:
        log_tokenizer_code(path)
    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            translate(
                "The tokenizer of {path} cannot be loaded: {kind}: {reason}{cure}",
                path=path,
                reason=reason,
                kind=type(error).__name__,
                cure=_tokenizer_cure(Path(path), trust_remote_code),
            )
        ) from error


def _tokenizer_cure(folder: Path, trusted: bool) -> str:
    """A possible cure, as the end of a sentence."""
    if (folder / "tekken.json").is_file() and not (folder / "tokenizer.json").is_file():
        command = pip_install("mistral-common")
        return translate("; its tekken.json needs the package mistral-common: {command}", command=command)
    return "" if trusted else translate("; it may need --trust-remote-code, which runs its own Python files")


def log_tokenizer_code(path: str | Path) -> None:
    """Log the Python files that a trusted tokenizer runs; our own families have none."""
    file = Path(path) / "config.json"
    # In a model whose language part is ours, other parts may run code of the folder.
    is_ours = file.is_file() and FAMILIES.get(str(read_json(file).get("model_type")), UNKNOWN).ours
    # transformers reads the model's config for its tokenizer too.
    files = [*remote_code(path, "tokenizer_config.json"), *remote_code(path)]
    log_remote_code([] if is_ours else list(dict.fromkeys(files)))


def log_remote_code(files: list[str]) -> None:
    """Log the Python files of a folder that run."""
    if files:
        say_once("trust_remote_code=True: running {files}", files=", ".join(files))
