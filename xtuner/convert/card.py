"""The page of a converted folder (README.md), ready for a hub, and the config of its run without local paths.

---
library_name: peft                    base, license and data sets by their names on the hub;
base_model: Qwen/Qwen3-8B             of local folders and files only the last part of the path
license: apache-2.0
tags: [lora, xtuner]
---
# LoRA adapter for Qwen3-8B           ... settings of the run, and how to use it
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from xtuner.chat.trained_with import CONFIG_NAME
from xtuner.llava_folder import is_official_folder
from xtuner.loadable import CAUSAL, LABELS_FILE, OF_SEQUENCES, OF_TOKENS, OF_VECTORS, auto_class, head_of
from xtuner.model.adapter_methods import LORA, type_of
from xtuner.model_folder import read_json

_SETTINGS = (
    "data_path",
    "data_files",
    "prompt_template",
    "max_length",
    "pack_to_max_length",
    "batch_size",
    "accumulative_counts",
    "max_epochs",
    "lr",
    "SYSTEM",
)
"""Names of the variables of a config that the page shows, in this order."""

_TAGS = {
    OF_SEQUENCES: "text-classification",
    OF_TOKENS: "token-classification",
    OF_VECTORS: "sentence-similarity",
}
_USE_OF_VECTORS = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("THIS_FOLDER")
vectors = model.encode(["TEXT", "ANOTHER TEXT"])
```
"""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LICENSE = re.compile(r"^license:[ \t]*(\S.*)$", re.MULTILINE)
_LOCAL = re.compile(r"~|/[^/\s]|[A-Za-z]:[\\/]|\\\\")


def write_card(folder: Path, base: str | None, kind: str, method: str = LORA) -> None:
    """Write README.md for a `kind` of "adapter", "model", "merged model" or "quantised model".

    `base`: the base model's name. `method`: peft's name of the adapter that was merged.
    """
    settings = _settings(folder / CONFIG_NAME)
    name = hub_name(base) or (_last(base) if base else "a language model")
    if kind == "adapter" and (folder / "adapter_config.json").is_file():
        method = type_of(read_json(folder / "adapter_config.json"))
    shown = "LoRA" if method == LORA else method
    title = {
        "adapter": f"{shown} adapter for {name}",
        "model": f"{name}, fine-tuned",
        "quantised model": f"{name}, quantised",
        "merged model": f"{name} with a {shown} adapter merged into it",
    }[kind]
    front = _front_matter(folder, base, kind, method, settings)
    parts = [f"---\n{front}---\n", f"# {title}\n"]
    if kind != "quantised model" or (folder / CONFIG_NAME).is_file():
        parts.append(f"Trained with XTuner; `{CONFIG_NAME}` holds every setting of the run.\n")
    if settings:
        rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in settings.items())
        parts.append(f"| setting | value |\n|---|---|\n{rows}")
    name_of_base = hub_name(base) or "BASE"
    head = head_of(folder)
    if head == OF_VECTORS:
        parts.append(_USE_OF_VECTORS)
    elif head is not None:
        parts.append(_use_of_scores(kind, name_of_base, head, _label_names(folder)))
    else:
        parts.append(_use(kind, name_of_base, _loader(folder if kind != "adapter" else base)))
    (folder / "README.md").write_text("\n".join(parts), "utf-8")


def hub_name(name: str | None) -> str | None:
    """`name` if it is a repository on a hub and no local folder, else None."""
    return name if name and _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _front_matter(folder: Path, base: str | None, kind: str, method: str, settings: dict[str, Any]) -> str:
    adapter = kind == "adapter"
    fields: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if hub_name(base):
        fields["base_model"] = base
        relations = {"adapter": "adapter", "quantised model": "quantized"}
        fields["base_model_relation"] = relations.get(kind, "finetune")
    if license_of_base := license_of(base):
        fields["license"] = license_of_base
    data = [value for key in ("data_path", "data_files") if hub_name(value := _text(settings.get(key)))]
    if data:
        fields["datasets"] = data
    fields["pipeline_tag"] = _TAGS.get(head_of(folder) or "", "text-generation")
    more = {"model": [], "quantised model": ["compressed-tensors"]}.get(kind, [method.lower()])
    fields["tags"] = [*more, "xtuner"]
    return "".join(
        f"{key}: {value}\n" if isinstance(value, str) else f"{key}:\n" + "".join(f"- {v}\n" for v in value)
        for key, value in fields.items()
    )


def license_of(folder: str | Path | None) -> str:
    """The license in the README.md of a folder; `""` if there is none."""
    page = Path(folder or "") / "README.md"
    if not folder or not page.is_file():
        return ""
    front = page.read_text("utf-8", errors="replace").removeprefix("---\n").partition("\n---")[0]
    match = _LICENSE.search(front)
    return match[1].strip() if match else ""


def _settings(path: Path) -> dict[str, Any]:
    """The values of `_SETTINGS` in a config's text; the config is parsed, not executed."""
    if not path.is_file():
        return {}
    values = {}
    for statement in ast.parse(path.read_text("utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in _SETTINGS:
                values[name] = _value(statement.value)
    return {name: values[name] for name in _SETTINGS if values.get(name) not in (None, "")}


def _value(node: ast.AST) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node).removeprefix("PROMPT_TEMPLATE.").removeprefix("SYSTEM_TEMPLATE.")
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")


def _loader(source: str | Path | None) -> str | None:
    """The auto class that loads a model, None if transformers has none for it.

    AutoModelForCausalLM if `source` is not on this machine.
    """
    file = Path(source or "") / "config.json"
    if is_official_folder(file.parent):
        return None
    return auto_class(read_json(file), file.parent, trust_remote_code=True) if file.is_file() else CAUSAL


def _label_names(folder: Path) -> list[str]:
    """The names of the labels of a model or an adapter; none if it gives one number."""
    if (folder / LABELS_FILE).is_file():
        return json.loads((folder / LABELS_FILE).read_text("utf-8"))
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    names = list(config.get("id2label", {}).values())
    return names if len(names) > 1 else []


def _use_of_scores(kind: str, base: str, head: str, labels: list[str]) -> str:
    name, library = f"AutoModelFor{head}", "transformers"
    if kind == "adapter":
        name, library = f"AutoPeftModelFor{head}", "peft"
    source = "THIS_FOLDER" if kind != "adapter" else base
    score = 'score = model(**tokenizer("TEXT", return_tensors="pt")).logits[0, 0]'
    if labels:
        score = f'labels = {labels}\nlogits = model(**tokenizer("TEXT", return_tensors="pt")).logits[0]'
    if head == OF_TOKENS:
        score += "  # of each token: those at the ends of steps count"
    return (
        f"```python\nfrom {library} import {name}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {name}.from_pretrained("THIS_FOLDER", num_labels={len(labels) or 1})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{source}")\n'
        f"{score}\n```\n"
    )


def _use(kind: str, base: str, loader: str | None) -> str:
    """How to use the folder, by transformers too unless `loader` is None."""
    is_adapter = kind == "adapter"
    own = (
        f"from peft import PeftModel\nfrom transformers import {loader}\n\n"
        f'model = PeftModel.from_pretrained({loader}.from_pretrained("{base}"), "THIS_FOLDER")\n'
        if is_adapter
        else f"from transformers import AutoTokenizer, {loader}\n\n"
        f'model = {loader}.from_pretrained("THIS_FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")\n'
    )
    shell = (
        f"xtuner chat {base} --adapter THIS_FOLDER\nxtuner convert merge {base} THIS_FOLDER OUT\n"
        if is_adapter
        else "xtuner chat THIS_FOLDER\nxtuner serve THIS_FOLDER\n"
    )
    return (f"```python\n{own}```\n\n" if loader else "") + f"```shell\n{shell}```\n"


def without_local_paths(text: str) -> str:
    """The text of a config, with local paths replaced by their last parts."""
    lines = [line.encode() for line in text.split("\n")]
    paths = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _LOCAL.match(node.value)
        and node.lineno == node.end_lineno
    ]
    for node in sorted(paths, key=lambda node: node.col_offset, reverse=True):
        line, value = node.lineno - 1, repr(_last(str(node.value))).encode()
        lines[line] = lines[line][: node.col_offset] + value + lines[line][node.end_col_offset :]
    return b"\n".join(lines).decode()


def _last(path: str) -> str:
    return PureWindowsPath(path).name or PurePosixPath(path).name or path
