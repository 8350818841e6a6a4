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
from xtuner.loadable import CAUSAL, auto_class, is_classifier
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

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LICENSE = re.compile(r"^license:[ \t]*(\S.*)$", re.MULTILINE)
_LOCAL = re.compile(r"~|/[^/\s]|[A-Za-z]:[\\/]|\\\\")


def write_card(folder: Path, base: str | None, kind: str) -> None:
    """Write README.md for a `kind` of "adapter", "model" or "merged model"; `base`: the base model's name."""
    settings = _settings(folder / CONFIG_NAME)
    name = hub_name(base) or (_last(base) if base else "a language model")
    title = {"adapter": f"LoRA adapter for {name}", "model": f"{name}, fine-tuned"}.get(kind)
    front = _front_matter(folder, base, kind, settings)
    parts = [f"---\n{front}---\n", f"# {title or f'{name} with a LoRA adapter merged into it'}\n"]
    parts.append(f"Trained with XTuner; `{CONFIG_NAME}` holds every setting of the run.\n")
    if settings:
        rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in settings.items())
        parts.append(f"| setting | value |\n|---|---|\n{rows}")
    name_of_base = hub_name(base) or "BASE"
    if _scores(folder):
        parts.append(_use_of_scores(kind, name_of_base))
    else:
        parts.append(_use(kind, name_of_base, _loader(folder if kind != "adapter" else base)))
    (folder / "README.md").write_text("\n".join(parts), "utf-8")


def hub_name(name: str | None) -> str | None:
    """`name` if it is a repository on a hub and no local folder, else None."""
    return name if name and _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _front_matter(folder: Path, base: str | None, kind: str, settings: dict[str, Any]) -> str:
    adapter = kind == "adapter"
    fields: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if hub_name(base):
        fields["base_model"] = base
        fields["base_model_relation"] = "adapter" if adapter else "finetune"
    if license_of_base := _license(base):
        fields["license"] = license_of_base
    data = [value for key in ("data_path", "data_files") if hub_name(value := _text(settings.get(key)))]
    if data:
        fields["datasets"] = data
    fields["pipeline_tag"] = "text-classification" if _scores(folder) else "text-generation"
    fields["tags"] = [*(["lora"] if kind != "model" else []), "xtuner"]
    return "".join(
        f"{key}: {value}\n" if isinstance(value, str) else f"{key}:\n" + "".join(f"- {v}\n" for v in value)
        for key, value in fields.items()
    )


def _license(base: str | None) -> str:
    """The license in the README.md of a local base model; `""` if there is none."""
    page = Path(base or "") / "README.md"
    if not base or not page.is_file():
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


def _loader(source: str | Path | None) -> str:
    """The auto class that loads a model; AutoModelForCausalLM if `source` is not on this machine."""
    file = Path(source or "") / "config.json"
    return auto_class(read_json(file), file.parent, trust_remote_code=True) if file.is_file() else CAUSAL


def _scores(folder: Path) -> bool:
    """Whether the folder holds a model, or an adapter of one, whose head gives numbers."""
    config, adapter = folder / "config.json", folder / "adapter_config.json"
    if adapter.is_file():
        return read_json(adapter).get("task_type") == "SEQ_CLS"
    return config.is_file() and is_classifier(read_json(config))


def _use_of_scores(kind: str, base: str) -> str:
    name, library = "AutoModelForSequenceClassification", "transformers"
    if kind == "adapter":
        name, library = "AutoPeftModelForSequenceClassification", "peft"
    source = "THIS_FOLDER" if kind != "adapter" else base
    return (
        f"```python\nfrom {library} import {name}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {name}.from_pretrained("THIS_FOLDER", num_labels=1)\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{source}")\n'
        'score = model(**tokenizer("TEXT", return_tensors="pt")).logits[0, 0]\n```\n'
    )


def _use(kind: str, base: str, loader: str) -> str:
    if kind != "adapter":
        return (
            f"```python\nfrom transformers import AutoTokenizer, {loader}\n\n"
            f'model = {loader}.from_pretrained("THIS_FOLDER")\n'
            'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")\n```\n\n'
            "```shell\nxtuner chat THIS_FOLDER\nxtuner serve THIS_FOLDER\n```\n"
        )
    return (
        f"```python\nfrom peft import PeftModel\nfrom transformers import {loader}\n\n"
        f'model = PeftModel.from_pretrained({loader}.from_pretrained("{base}"), "THIS_FOLDER")\n```\n\n'
        f"```shell\nxtuner chat {base} --adapter THIS_FOLDER\n"
        f"xtuner convert merge {base} THIS_FOLDER OUT\n```\n"
    )


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
