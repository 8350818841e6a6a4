"""Write values as the text of a config file.

    {"type": Code("AdamW"), "lr": Code("lr")}        dict(type=AdamW, lr=lr)
    [1, "two"]                                       [1, 'two']
    Code("PROMPT_TEMPLATE.default")                  PROMPT_TEMPLATE.default

A dict is written as a call of `dict`, `Code` unchanged and everything else as a literal, broken
to 79 columns. The import lines follow from the names that the code mentions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

WIDTH = 79


class Code(str):
    """A piece of Python source, written unchanged instead of as a string literal."""

    __slots__ = ()


# Where the names that a config may mention are imported from: real modules, which an editor finds too.
MODULES = {
    "peft": ["LoraConfig"],
    "torch.optim": ["AdamW"],
    "torch.utils.data": ["BatchSampler"],
    "bitsandbytes.optim": ["PagedAdamW8bit", "PagedAdamW32bit"],
    "transformers": [
        "AutoModelForCausalLM",
        "AutoTokenizer",
        "BitsAndBytesConfig",
        "CLIPImageProcessor",
        "CLIPVisionModel",
        "LlamaTokenizer",
        "MistralForCausalLM",
        "Trainer",
        "TrainingArguments",
    ],
    "xtuner.convert": ["HFCheckpointHook"],
    "xtuner.dataset": [
        "ConcatDataset",
        "InternVL_V1_5_Dataset",
        "LLaVADataset",
        "MOSSSFTDataset",
        "VisionLanguageDataset",
        "load_dataset",
        "process_hf_dataset",
        "process_ms_dataset",
    ],
    "xtuner.dataset.collate_fns": ["default_collate_fn", "mmlu_collate_fn"],
    "xtuner.dataset.collate_fns.preference_collate_fn": ["preference_collate_fn"],
    "xtuner.dataset.intern_repo": [
        "build_packed_dataset",
        "load_intern_repo_tokenized_dataset",
        "load_intern_repo_untokenized_dataset",
    ],
    "xtuner.dataset.map_fns": [
        "alpaca_map_fn",
        "alpaca_zh_map_fn",
        "arxiv_map_fn",
        "code_alpaca_map_fn",
        "colors_map_fn",
        "completion_map_fn",
        "crime_kg_assitant_map_fn",
        "default_map_fn",
        "law_reference_map_fn",
        "llava_map_fn",
        "medical_map_fn",
        "msagent_react_map_fn",
        "oasst1_map_fn",
        "openai_map_fn",
        "openorca_map_fn",
        "pretrain_map_fn",
        "sharegpt_map_fn",
        "sql_map_fn",
        "stack_exchange_map_fn",
        "template_map_fn_factory",
        "tiny_codes_map_fn",
        "wizardlm_map_fn",
    ],
    "xtuner.dataset.modelscope": ["MsDataset"],
    "xtuner.dataset.preference_dataset": [
        "build_preference_dataset",
        "load_jsonl_dataset",
        "orpo_dpo_mix_40k_map_fn",
    ],
    "xtuner.dataset.prompt_dataset": ["build_prompt_dataset"],
    "xtuner.dataset.refcoco_json": ["InvRefCOCOJsonDataset", "RefCOCOJsonDataset"],
    "xtuner.dataset.samplers": ["DefaultSampler", "InternRepoSampler", "LengthGroupedSampler"],
    "xtuner.engine.batches.rollouts": ["Rollouts"],
    "xtuner.engine.hooks": [
        "CheckpointHook",
        "DatasetInfoHook",
        "DistSamplerSeedHook",
        "EvaluateChatHook",
        "IterTimerHook",
        "LoggerHook",
        "ParamSchedulerHook",
        "ThroughputHook",
        "VarlenAttnArgsToMessageHubHook",
    ],
    "xtuner.engine.optim": ["AmpOptimWrapper"],
    "xtuner.engine.runner": ["TrainLoop"],
    "xtuner.engine.schedule": ["CosineAnnealingLR", "LinearLR"],
    "xtuner.evaluation": ["ForgettingHook", "MMLUMetric"],
    "xtuner.model": ["GRPO", "InternVL_V1_5", "LLaVAModel", "SupervisedFinetune", "VisionLanguageFinetune"],
    "xtuner.model.dpo": ["DPO"],
    "xtuner.model.orpo": ["ORPO"],
    "xtuner.model.reward": ["RewardModel"],
    "xtuner.parallel.sequence": ["SequenceParallelSampler"],
    "xtuner.utils": ["PROMPT_TEMPLATE", "SYSTEM_TEMPLATE"],
}
MODULE_OF = {name: module for module, names in MODULES.items() for name in names}


class Page:
    """The text of one config, written from top to bottom.

    >>> page = Page()
    >>> page.assign("lr", 2e-4, note="for LoRA")
    >>> page.text()
    'lr = 2e-4  # for LoRA\\n'
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._names: set[str] = set()

    def banner(self, number: int, title: str) -> None:
        """Open one of the five parts."""
        self.gap()
        rule = "#" * 71
        self._lines += [rule, f"#{f'PART {number}  {title}':^69}#", rule]

    def comment(self, text: str) -> None:
        self._lines.append(f"# {text}")

    def gap(self) -> None:
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def assign(self, name: str, value: object, note: str = "") -> None:
        """`name = value  # note`; the note stands above where the line would become too long."""
        text = f"{name} = {_source(value, len(name) + 3, 0, 0)}"
        if note and ("\n" in text or _width(text) + 4 + _width(note) > WIDTH):
            self.comment(note)
            note = ""
        self.line(text + (f"  # {note}" if note else ""), _names_in(value))

    def assign_noted(self, name: str, value: Mapping[str, object], notes: dict[str, str]) -> None:
        """`name = dict(...)` with one entry on a line, each under its note."""
        self.line(f"{name} = dict(", set())
        for i, (key, item) in enumerate(value.items()):
            if key in notes:
                self._lines.append(f"    # {notes[key]}")
            closing = ")" if i == len(value) - 1 else ","
            self.line(f"    {key}={_source(item, 5 + len(key), 4, 1)}{closing}", _names_in(item))

    def line(self, text: str, names: set[str] | None = None) -> None:
        """A statement as it stands."""
        self._names |= _names_in(Code(text)) if names is None else names
        self._lines += text.split("\n")

    def text(self) -> str:
        """Everything written so far under the import lines that it needs."""
        lines = [*_import_lines(self._names), *self._lines, ""]
        # a path or an address that is longer than the page stays in one piece
        return "\n".join(line + "  # noqa: E501" * (_width(line) > WIDTH) for line in lines)


def _names_in(value: object) -> set[str]:
    """The importable names, and `torch`, that a value mentions."""
    if isinstance(value, Code):
        words = set(re.findall(r"(?<![\w.'])[A-Za-z_]\w*", value))
        return {word for word in words if word in MODULE_OF or word == "torch"}
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return set().union(*(_names_in(item) for item in value))
    return set()


def _import_lines(names: set[str]) -> list[str]:
    modules: dict[str, list[str]] = {}
    for name in sorted(names - {"torch"}):
        modules.setdefault(MODULE_OF[name], []).append(name)
    lines = ["import torch"] if "torch" in names else []
    for ours in (False, True):
        if lines and lines[-1] and any(m.startswith("xtuner") == ours for m in modules):
            lines += [""] if ours else []
        for module in sorted(m for m in modules if m.startswith("xtuner") == ours):
            lines += _import_line(module, modules[module])
    return [*lines, ""] if lines else []


def _import_line(module: str, names: list[str]) -> list[str]:
    head = f"from {module} import "
    if len(head) + len(", ".join(names)) <= WIDTH:
        return [head + ", ".join(names)]
    if len(head) + 2 + max(map(len, names)) > WIDTH:
        return [f"{head}\\", f"    {', '.join(names)}"]
    lines, current = [], head + "("
    for i, name in enumerate(names):
        piece = name + (")" if i == len(names) - 1 else ",")
        if len(current) + len(piece) > WIDTH:
            lines.append(current.rstrip())
            current = " " * (len(head) + 1)
        current += piece + " "
    return [*lines, current.rstrip()]


def _source(value: object, column: int, indent: int, tail: int) -> str:
    """Source of `value` that starts at `column` of a line indented by `indent`.

    `tail` characters (closing brackets, a comma) will follow its last line.
    """
    flat = _flat(value)
    if "\n" not in flat and column + _width(flat) + tail <= WIDTH:
        return flat
    if isinstance(value, dict):
        return _hang("dict(", [(f"{k}=", v) for k, v in value.items()], ")", indent, tail)
    if isinstance(value, list) and value:
        items = [("", item) for item in value]
        if all(isinstance(item, str) for item in value):
            return _hang("[", items, "]", indent, tail)
        inner = " " * (indent + 4)
        rows = [f"{inner}{_source(item, indent + 4, indent + 4, 1)}" for _, item in items]
        return "[\n" + ",\n".join(rows) + "\n" + " " * indent + "]"
    if isinstance(value, str) and not isinstance(value, Code):
        return _long_string(value, indent)
    return flat


def _hang(opening: str, items: list[tuple[str, object]], closing: str, indent: int, tail: int) -> str:
    """Entries under their bracket: all on one line if they fit, else one per line."""
    inner = " " * (indent + 4)
    flat = ", ".join(f"{head}{_flat(value)}" for head, value in items)
    simple = not any(isinstance(value, (dict, list)) and value for _, value in items)
    if simple and "\n" not in flat and indent + 4 + _width(flat) + len(closing) + tail <= WIDTH:
        return f"{opening}\n{inner}{flat}{closing}"
    rows = []
    for i, (head, value) in enumerate(items):
        after = len(closing) + tail if i == len(items) - 1 else 1
        rows.append(f"{inner}{head}{_source(value, indent + 4 + len(head), indent + 4, after)}")
    return f"{opening}\n" + ",\n".join(rows) + closing


def _width(text: str) -> int:
    """Columns that `text` takes on a screen, where a Chinese character is two wide."""
    if text.isascii():
        return len(text)
    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def _flat(value: object) -> str:
    """Source of `value` on one line."""
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={_flat(item)}' for key, item in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float):
        return _number(value)
    return repr(value)


def _number(value: float) -> str:
    """`2e-4` as people type it, where `repr` says `0.0002` or `2e-05`."""
    text = repr(value)
    if "e" not in text and not 0 < abs(value) < 1e-2:
        return text
    mantissa, _, exponent = f"{value:e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    short = f"{mantissa}e{int(exponent)}"
    return short if float(short) == value and len(short) <= len(text) else text


def _long_string(text: str, indent: int) -> str:
    """Adjacent literals in brackets, broken after line ends, spaces and Chinese punctuation."""
    room = WIDTH - indent - 4 - 3
    pieces = [""]
    for word in re.findall(r"[^ \n，。；、：？！]*[ ，。；、：？！]*\n?", text)[:-1]:
        if pieces[-1].endswith("\n") or (pieces[-1] and _width(repr(pieces[-1] + word)) > room):
            pieces.append("")
        pieces[-1] += word
    inner = " " * (indent + 4)
    rows = [f"{inner}{piece!r}" for piece in pieces]
    if len(rows) == 1:
        return repr(text)
    return "(\n" + "\n".join(rows) + ")"
