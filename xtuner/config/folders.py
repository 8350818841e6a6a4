"""Find the folders of models and tokenizers in a config, and check their files.

model.llm.pretrained_model_name_or_path = "./qwen3"  ->  Folder("model.llm...", "./qwen3", "llm", False)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xtuner.config.load import name_of
from xtuner.config.ref import as_ref
from xtuner.config.schema import data_parts, trains_all
from xtuner.loadable import WITHOUT_TEXT, check_language_model, check_training
from xtuner.model_folder import check_model_folder


@dataclass(frozen=True)
class Folder:
    """A folder or hub name in a config: its config path and the required content."""

    path: str
    name: str
    holds: str  # "tokenizer", "llm", "reference" or "model"
    trusted: bool  # its code may run


def named_folders(config: Mapping[str, Any]) -> Iterator[Folder]:
    """The models and tokenizers in `config`."""
    for name in ("tokenizer", data_parts(config)[0], "model"):
        for path, value in walk(config.get(name), name):
            folder = value.get("pretrained_model_name_or_path")
            if isinstance(folder, str):
                at = f"{path}.pretrained_model_name_or_path"
                yield Folder(at, folder, _held(path, value), bool(value.get("trust_remote_code")))
            if isinstance(whole := value.get("model_path"), str):  # of InternVL
                yield Folder(f"{path}.model_path", whole, "llm" if path == "model" else "tokenizer", False)


def _held(path: str, value: Mapping[str, Any]) -> str:
    kind = value.get("type")
    ref = as_ref(kind)
    name = "" if kind is None else name_of(ref if ref is not None else kind)
    if path.rpartition(".")[2] == "image_processor":
        return "model"
    if not path.startswith("model") or path.rpartition(".")[2] == "tokenizer" or "Tokenizer" in name:
        return "tokenizer"
    # The content that a user's function needs is not known.
    kinds = {"model.llm": "llm", "model.ref_llm": "reference"}
    return kinds.get(path, "model") if name.startswith("transformers.") else "model"


def check_folder(folder: Folder, config: Mapping[str, Any], *, ask_hub: bool = True) -> None:
    """NotFoundError, ModelError or ConfigError if `folder` lacks what `config` needs."""
    if folder.holds == "reference":
        check_language_model(folder.name, trust_remote_code=folder.trusted, ask_hub=ask_hub)
        return
    if folder.holds != "llm":
        check_model_folder(folder.name, tokenizer=folder.holds == "tokenizer", ask_hub=ask_hub)
        return
    model = config["model"]
    writes_text = called(model) not in WITHOUT_TEXT
    sizes = check_language_model(
        folder.name, trust_remote_code=folder.trusted, ask_hub=ask_hub, writes_text=writes_text
    )
    if sizes is not None:
        asked = bool(model.get("llm", {}).get("quantization_config") or model.get("quantization_llm"))
        check_training(sizes, folder.name, full=trains_all(model), asked=asked)


def walk(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict in `value` with its path, each object once."""
    seen: set[int] = set()
    stack = [(path, value)]
    while stack:
        at, inner = stack.pop()
        if isinstance(inner, Mapping) and id(inner) not in seen:
            seen.add(id(inner))
            yield at, inner
            stack += [(f"{at}.{key}", item) for key, item in inner.items()]
        elif isinstance(inner, (list, tuple)):
            stack += [(f"{at}.{number}", item) for number, item in enumerate(inner)]


def called(value: Mapping[str, Any]) -> str:
    """The last word of the type of a dict, `""` if it has none."""
    kind = value.get("type")
    ref = as_ref(kind)
    return "" if kind is None else name_of(ref if ref is not None else kind).rpartition(".")[2]
