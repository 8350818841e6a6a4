"""Environment report, parameter counts, and the config and tokenizer files stored in a checkpoint."""

from __future__ import annotations

import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from xtuner import __version__, devices
from xtuner.config.changes import changed_lines
from xtuner.language import translate
from xtuner.model.host_embedding import tables_on_host
from xtuner.model.lora import ADAPTER_CONFIG, adapter_config

CHANGES_SHOWN = 40
# Files that models with images or audio need besides their weights.
_OF_IMAGES_AND_SOUND = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def describe_environment(device: torch.device) -> str:
    """The facts about the machine for a bug report."""
    import transformers

    threads = translate("CPU with {count} threads", count=torch.get_num_threads())
    what = devices.name_of(device) if devices.is_accelerator(device) else threads
    return (
        f"xtuner {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {what}"
    )


def describe_weights(model: torch.nn.Module) -> str:
    """The number of trainable parameters, and of all parameters."""
    # Four-bit weights are packed two to a byte and store their number.
    trained, frozen = 0, sum(table.numel() for table in tables_on_host(model))
    for weight in model.parameters():
        if weight.requires_grad:
            trained += weight.numel()
        else:
            frozen += weight.numel() * (2 if type(weight).__name__ == "Params4bit" else 1)
    return translate(
        "Trained weights: {trained:,} of {total:,} ({share:.2%})",
        trained=trained,
        total=trained + frozen,
        share=trained / (trained + frozen),
    )


def describe_changes(before: str, now: str) -> str:
    """The differing lines of the text of a config, or `""`."""
    changed = changed_lines(before.split("\n"), now.split("\n"))
    count = len(changed) - CHANGES_SHOWN
    more = [translate("... and {count} more lines", count=count)] if count > 0 else []
    return "\n".join(changed[:CHANGES_SHOWN] + more)


def model_files(llm: Any, tokenizer: Any) -> dict[str, Any]:
    """The files of a model folder besides weights, to convert a checkpoint without it: text or bytes."""
    with tempfile.TemporaryDirectory() as folder:
        llm.config.save_pretrained(folder)
        generation_config = getattr(llm, "generation_config", None)  # one that only scores has none
        if generation_config is not None:
            generation_config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        for name in _OF_IMAGES_AND_SOUND:
            if found := _file_of_base(llm.config, name):
                shutil.copyfile(found, Path(folder) / name)
        return _contents(Path(folder))


def adapter_files(llm: Any, tokenizer: Any) -> dict[str, Any]:
    """The files beside an adapter's weights: its config, and a tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return {**_contents(Path(folder)), ADAPTER_CONFIG: adapter_config(llm)}


def _contents(folder: Path) -> dict[str, Any]:
    return {p.name: _file_content(p) for p in sorted(folder.iterdir())}


def _file_of_base(config: Any, name: str) -> str | None:
    """The path of the file of that name of the model, or None."""
    from transformers.utils import cached_file

    base = getattr(config, "_name_or_path", "")
    if not base:
        return None
    return cached_file(base, name, local_files_only=True, _raise_exceptions_for_missing_entries=False)


def _file_content(path: Path) -> str | torch.Tensor:
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)
