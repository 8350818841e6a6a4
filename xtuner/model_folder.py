"""Check that a model folder is complete, and read its small files; no weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xtuner import hub
from xtuner.errors import ModelError, NotFoundError
from xtuner.language import translate
from xtuner.paths import near_it

# In a config.json the numbers of the layers that xtuner convert expand has added.
ADDED_LAYERS = "xtuner_added_layers"
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "tokenizer_config.json",
    "tekken.json",
    "*.tiktoken",
    "*.model",
)
_MAKERS = (
    "holds weights in their maker's own form: fetch them in the form of transformers, with a config.json"
)
# File of a folder that is not a model of transformers -> what it is, and what to do.
_OTHER_KINDS = {
    "adapter_config.json": "is an adapter: name the folder of its base model, {base}and the adapter in "
    "model.peft_model (xtuner chat: --adapter)",
    "model_index.json": "is a pipeline of diffusers, which makes images: name the folder of a language model",
    "params.json": _MAKERS,
    "consolidated*": _MAKERS,
    "*.gguf": "holds GGUF files, which are for llama.cpp: name the folder that they were made from",
    "*.pth": "holds checkpoints of a run: make a model or an adapter of one with xtuner convert pth_to_hf",
}


def check_model_folder(path: str | Path, *, tokenizer: bool = False, ask_hub: bool = True) -> None:
    """Raise NotFoundError or ModelError if `path` is a local path that lacks files of a model.

    A name that may be one on the hub is looked for there unless `ask_hub` is false.
    """
    check_model_path(path, ask_hub=ask_hub)
    folder = Path(path)
    if not folder.is_dir():
        return
    if not tokenizer:
        _check_model_files(folder)
    elif not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        raise ModelError(
            translate(
                "The folder {path} has no tokenizer: no {names}",
                path=path,
                names=", ".join(TOKENIZER_FILES[:3]),
            )
        )
    else:
        check_no_pointers(folder, TOKENIZER_FILES)


def check_model_path(path: str | Path, *, ask_hub: bool = True) -> None:
    """Raise NotFoundError or ModelError if `path` is neither a folder nor a name on the hub."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return
    if folder.suffix == ".pth" and folder.exists():
        what = (
            "The model {path} is a checkpoint of a run: make a model or an adapter of it with xtuner convert "
            "pth_to_hf"
        )
        raise ModelError(translate(what, path=path))
    if folder.exists():
        raise ModelError(translate("The model {path} is a file; name its folder", path=path))
    near = near_it(path, folders=True)
    if looks_local(path):
        raise NotFoundError(translate("There is no model folder {path}{near}", path=path, near=near))
    if ask_hub and not hub.is_reachable() and not _is_cached(str(path)):
        raise NotFoundError(
            translate(
                "There is no model {path} on this machine, and the hub cannot be reached: give the "
                "path of its folder, or fetch it where there is a network{near}",
                path=path,
                near=near,
            )
        )


def state_of(folder: str | Path) -> list[Any]:
    """Names, sizes and times of the files of a model or adapter folder; of a hub's model its name."""
    files = sorted(file for file in Path(folder).glob("*") if file.is_file())
    return [str(folder), [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]]


def has_tokenizer(folder: Path) -> bool:
    """Whether `folder` has the files of a tokenizer."""
    vocabularies = [pattern for pattern in TOKENIZER_FILES if pattern != "tokenizer_config.json"]
    return any(any(folder.glob(pattern)) for pattern in vocabularies)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of `folder` that make its tokenizer."""
    more = ("merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
    return sorted({file for pattern in (*TOKENIZER_FILES, *more) for file in folder.glob(pattern)})


def _check_model_files(folder: Path) -> None:
    has_config = (folder / "config.json").is_file()
    if not (has_config and any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES)):
        for pattern, kind in _OTHER_KINDS.items():
            if any(folder.glob(pattern)):
                raise ModelError(
                    translate(
                        "The folder {folder} {kind}",
                        folder=folder,
                        kind=translate(kind, base=_base_of_adapter(folder)),
                    )
                )
    if not has_config:
        raise ModelError(translate("The folder {folder} is no model: it has no config.json", folder=folder))
    if not any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES):
        raise ModelError(
            translate(
                "The model folder {folder} has no weights: no *.safetensors and no pytorch_model*.bin",
                folder=folder,
            )
        )
    if missing := _missing_shards(folder):
        raise ModelError(
            translate(
                "The model folder {folder} is not complete: its index names {count} files that are "
                "not there, as {file}; fetch them",
                folder=folder,
                count=len(missing),
                file=missing[0],
            )
        )
    check_no_pointers(folder, (*WEIGHT_FILES, *TOKENIZER_FILES))


def check_no_pointers(folder: Path, patterns: Iterable[str]) -> None:
    """Raise ModelError if files of `folder` are pointers of git-lfs."""
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if found := [file.name for file in files if is_lfs_pointer(file)]:
        raise ModelError(
            translate(
                "The folder {folder} holds pointers of git-lfs in the place of files, as {file}: "
                "run git lfs install and git lfs pull in it",
                folder=folder,
                file=found[0],
            )
        )


def is_lfs_pointer(file: Path) -> bool:
    """Whether `file` is a pointer of git-lfs to the real file."""
    if not file.is_file() or file.stat().st_size > 1024:
        return False
    return file.read_bytes().startswith(b"version https://git-lfs.github.com/spec/")


def _missing_shards(folder: Path) -> list[str]:
    """The files that the folder's index names but that do not exist."""
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if (folder / whole).is_file():
            return []
        index = folder / f"{whole}.index.json"
        if index.is_file():
            named = read_json(index).get("weight_map")
            files = sorted(set(named.values())) if isinstance(named, dict) else []
            return [name for name in files if not (folder / name).is_file()]
    return []


def _base_of_adapter(folder: Path) -> str:
    if not (folder / "adapter_config.json").is_file():
        return ""
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    return f"{base}, " if base else ""


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return any(
            isinstance(try_to_load_from_cache(name, f), str) for f in ("config.json", TOKENIZER_FILES[0])
        )
    except HFValidationError:
        return False


def remote_code(path: str | Path, file: str = "config.json") -> list[str]:
    """The Python files that transformers would run for `file` of a model folder, by its `auto_map`."""
    folder = Path(path)
    if not (folder / file).is_file():
        return []
    named = read_json(folder / file).get("auto_map") or {}
    values = list(named.values()) if isinstance(named, dict) else named
    flat = [v for value in values for v in (value if isinstance(value, list) else [value]) if v]
    found = []
    for text in map(str, flat):
        repository, _, name = text.rpartition("--")
        found.append(f"{repository or folder}/{name.partition('.')[0]}.py")
    return list(dict.fromkeys(found))


def looks_local(path: str | Path) -> bool:
    """Whether `path` cannot be a name on a hub (`name` or `owner/name`)."""
    text = str(path)
    return isinstance(path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text


def with_base(path: str | Path) -> tuple[str | Path, str | Path | None]:
    """The base that an adapter in `path` names, and the adapter; of any other model `path` and None."""
    folder = Path(path)
    if (folder / "config.json").is_file() or not (folder / "adapter_config.json").is_file():
        return path, None
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    return (base, path) if base else (path, None)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelError if it is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if is_lfs_pointer(path):
            check_no_pointers(path.parent, [path.name])
        raise ModelError(translate("{path} is not valid JSON: {error}", path=path, error=error)) from error
    if not isinstance(found, dict):
        raise ModelError(
            translate("{path} holds no JSON object, but a {kind}", path=path, kind=type(found).__name__)
        )
    return found


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """The fields of tokenizer_config.json, and the `tokens` that it and tokenizer.json add; {} for none."""
    found: dict[str, Any] = {}
    tokens: set[str] = set()
    if (folder / "tokenizer_config.json").is_file():
        found = dict(read_json(folder / "tokenizer_config.json"))
        tokens |= {str(token.get("content")) for token in (found.get("added_tokens_decoder") or {}).values()}
    if (folder / "tokenizer.json").is_file():
        tokens |= _added_tokens(folder / "tokenizer.json")
    template = folder / "chat_template.jinja"
    if template.is_file():
        found["chat_template"] = template.read_text(encoding="utf-8")
    if tokens:
        found["tokens"] = tokens
    return found


def _added_tokens(file: Path) -> set[str]:
    """The `added_tokens` of a tokenizer.json, read without the large vocabulary after them."""
    with file.open(encoding="utf-8") as text:
        head = text.read(1_000_000)
    start = head.find('"added_tokens"')
    if start < 0:
        return set()
    try:
        entries, _ = json.JSONDecoder().raw_decode(head, head.index("[", start))
    except ValueError:
        return set()
    return {str(entry.get("content")) for entry in entries}
