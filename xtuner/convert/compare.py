"""Does a merged model answer as base + adapter do? Both are run on one fixed prompt, one after the other."""

from __future__ import annotations

import contextlib
import gc
import warnings
from pathlib import Path

import torch

from xtuner.convert.weights import Weights
from xtuner.log import logger

_LENGTH = 32
_SPACE = 1.2  # a loaded model needs this times the bytes of its weights, as measured with transformers
_SUSPICIOUS = 0.05  # of the largest logit; rounding to 16 bit stays well under it


def compare_logits(
    base: Path, adapter: Path, merged: Path, device: torch.device, is_clip: bool = False
) -> float | None:
    """The largest difference of the logits, logged; None, and a line why, where memory is too small."""
    weights = Weights(merged)
    num_values = sum(i.num_bytes // i.dtype.itemsize for i in weights.infos.values())
    num_bytes = sum(i.num_bytes for i in weights.infos.values())
    free = _free_memory(device)
    # In fp32 the difference shows the merge alone, not the noise of 16 bit arithmetic.
    exact = 4 * num_values * _SPACE < free
    if not exact and num_bytes * _SPACE > free:
        logger.warning(
            "logits not compared: the model needs %.1f GB, %.1f GB are free. The merge itself is complete.",
            num_bytes * _SPACE / 1e9,
            free / 1e9,
        )
        return None
    dtype = torch.float32 if exact else "auto"
    beside = _logits(base, adapter, dtype, device, is_clip)
    alone = _logits(merged, None, dtype, device, is_clip)
    difference = (beside - alone).abs().max().item()
    largest = beside.abs().max().item()
    logger.info(
        "merged against base + adapter: largest difference of logits %.3g (largest logit %.3g)",
        difference,
        largest,
    )
    if not difference <= _SUSPICIOUS * largest:
        logger.warning("that is more than rounding explains: compare the answers of both before you use it")
    return difference


@torch.no_grad()
def _logits(
    folder: Path, adapter: Path | None, dtype: torch.dtype | str, device: torch.device, is_clip: bool
) -> torch.Tensor:
    from transformers import AutoModelForCausalLM, CLIPVisionModel

    with contextlib.suppress(ImportError):
        from xtuner.model.loading import register_families

        register_families()
    family = CLIPVisionModel if is_clip else AutoModelForCausalLM
    model = family.from_pretrained(folder, dtype=dtype, local_files_only=True)
    if adapter is not None:
        from peft import PeftModel

        with warnings.catch_warnings():
            # peft asks for a property that transformers has renamed.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            model = PeftModel.from_pretrained(model, str(adapter))
    model = model.to(device).eval()
    if is_clip:
        size = model.config.image_size
        pixels = torch.linspace(-1, 1, 3 * size * size, dtype=model.dtype, device=device)
        out = model(pixel_values=pixels.view(1, 3, size, size)).last_hidden_state
    else:
        vocab = model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(_LENGTH, device=device) * 7919 % vocab
        out = model(input_ids=ids.unsqueeze(0), use_cache=False).logits
    out = out.float().cpu()
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return out


def _free_memory(device: torch.device) -> float:
    """Bytes that a model may take on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return float("inf")
