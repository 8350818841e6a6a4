"""What a run says about its machine and weights, and the small files of its model that it keeps."""

from __future__ import annotations

import copy
import difflib
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from xtuner import __version__
from xtuner.model.host_embedding import tables_on_host

CHANGES_SHOWN = 40


def describe_environment(device: torch.device) -> str:
    """What a report of a fault should say about the machine."""
    import transformers

    gpu = device.type == "cuda"
    what = torch.cuda.get_device_name(device) if gpu else f"CPU with {torch.get_num_threads()} threads"
    return (
        f"xtuner {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {what}"
    )


def describe_weights(model: torch.nn.Module) -> str:
    """How many numbers are trained, of how many."""
    # Four-bit weights are packed two to a byte and say how many they are.
    trained, frozen = 0, sum(table.numel() for table in tables_on_host(model))
    for weight in model.parameters():
        if weight.requires_grad:
            trained += weight.numel()
        else:
            frozen += weight.numel() * (2 if type(weight).__name__ == "Params4bit" else 1)
    return f"Trained weights: {trained:,} of {trained + frozen:,} ({trained / (trained + frozen):.2%})"


def describe_changes(before: str, now: str) -> str:
    """The lines in which the text of a config differs, `""` where it does not."""
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), lineterm="", n=0)
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    more = [f"... and {len(changed) - CHANGES_SHOWN} more lines"] if len(changed) > CHANGES_SHOWN else []
    return "\n".join(changed[:CHANGES_SHOWN] + more)


def model_files(llm: Any, tokenizer: Any) -> dict[str, Any]:
    """The small files that make weights a model folder, so that conversion needs no other: text, or bytes."""
    with tempfile.TemporaryDirectory() as folder:
        llm.config.save_pretrained(folder)
        if llm.generation_config is not None:
            llm.generation_config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return {p.name: _file_content(p) for p in sorted(Path(folder).iterdir())}


def adapter_files(model: Any) -> dict[str, Any]:
    """The small file beside an adapter's weights, which says where in the model they are."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return {}
    cfg = copy.copy(configs["default"])
    cfg.inference_mode = True
    with tempfile.TemporaryDirectory() as folder:
        cfg.save_pretrained(folder)
        return {p.name: _file_content(p) for p in sorted(Path(folder).iterdir())}


def _file_content(path: Path) -> str | torch.Tensor:
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)
