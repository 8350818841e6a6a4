"""Does a merged model answer as base + adapter do? Both are run on one fixed prompt, one after the other.

    base + adapter   layer 1: read, run, dropped   layer 2: ...   logits ─┐
    merged           layer 1: read, run, dropped   layer 2: ...   logits ─┴─ largest difference

Each layer's weights are read from the folder when it runs, in fp32, so the difference shows the merge
alone and memory holds one layer. What has no streamed form is loaded as a whole, where memory allows.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from xtuner import devices
from xtuner.convert.lora import EMBEDDINGS, HEADS, Adapter, read_adapter
from xtuner.convert.names import Group, Names, config_of
from xtuner.convert.quality import prompt_ids
from xtuner.convert.weights import Weights
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.base import layers_of
from xtuner.model.loading import auto_class_of, load_config, register_families
from xtuner.model.lora import add_adapter, attach_adapter, has_single_experts
from xtuner.model.recompute import free_memory
from xtuner.model.state import is_other_way_round
from xtuner.model.vision.encoder import load_visual_encoder

_ENDS = tuple(f"{name}.weight" for name in (*EMBEDDINGS, *HEADS))
SPACE = 1.2  # a loaded model needs this times the bytes of its weights, as measured with transformers
_WRAPPERS = (".base_layer.", ".original_module.", ".modules_to_save.default.")
_SUSPICIOUS = 0.05  # of the largest logit; rounding to 16 bit stays well under it


def compare_logits(
    base: Path, adapter: Path, merged: Path, device: torch.device, is_clip: bool = False
) -> float | None:
    """The largest difference of the logits, logged; None, and a line why, where memory is too small."""
    register_families()
    beside = None if is_clip else streamed_logits(base, read_adapter(adapter), device)
    alone = None if beside is None else streamed_logits(merged, None, device)
    if beside is None or alone is None:
        needed, free = 4 * SPACE * _num_values(merged), free_memory(device)
        if needed > free:
            logger.warning(
                translate(
                    "logits not compared: that needs %.1f GB, %.1f GB are free. The merge itself is complete."
                ),
                needed / 1e9,
                free / 1e9,
            )
            return None
        beside = _loaded_logits(base, adapter, device, is_clip)
        alone = _loaded_logits(merged, None, device, is_clip)
    difference = (beside - alone).abs().max().item()
    largest = beside.abs().max().item()
    logger.info(
        translate("merged against base + adapter: largest difference of logits %.3g (largest logit %.3g)"),
        difference,
        largest,
    )
    if not difference <= _SUSPICIOUS * largest:
        logger.warning(
            translate("that is more than rounding explains: compare the answers of both before you use it")
        )
    return difference


class _ByModule(Mapping[str, torch.Tensor]):
    """Tensors under the names that a model's modules ask for, read from its folder and its adapter's."""

    def __init__(self, folder: Path, model: Any, adapter: Adapter | None) -> None:
        self.weights = Weights(folder)
        self.names = Names(model, self.weights.infos)
        self.adapter = None if adapter is None else adapter.weights
        embedding = model.get_input_embeddings()
        self.embedding = next((f"{n}.weight" for n, m in model.named_modules() if m is embedding), "")
        head = model.get_output_embeddings()
        self.head = next((f"{n}.weight" for n, m in model.named_modules() if m is head), "")

    def _own(self, name: str) -> str | None:
        """The name in the adapter's file; None where it holds no such tensor."""
        own = name.replace(".default", "").replace(".modules_to_save", "")
        own = own.removesuffix(".weight") if own.endswith(".lora_magnitude_vector.weight") else own
        held = self.adapter is not None and own in self.adapter and ".original_module." not in name
        return own if held else None

    def _group(self, name: str) -> tuple[str, Group | None]:
        """The parameter of the bare model, and what holds it; a tied head is the embedding."""
        plain = name.removeprefix("base_model.model.")
        while any(part in plain for part in _WRAPPERS):
            for part in _WRAPPERS:
                plain = plain.replace(part, ".")
        if plain == self.head and plain not in self.names.of_parameter:
            plain = self.embedding
        return plain, self.names.of_parameter.get(plain)

    def __getitem__(self, name: str) -> torch.Tensor:
        own = self._own(name)
        if own is not None and self.adapter is not None:
            return self.adapter[own]
        plain, group = self._group(name)
        if group is None:
            raise KeyError(name)
        return self.names.to_model(group, {file: self.weights[file] for file in group.names()})[plain]

    def __contains__(self, name: object) -> bool:
        return self._own(str(name)) is not None or self._group(str(name))[1] is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


@torch.no_grad()
def streamed_logits(folder: Path, adapter: Adapter | None, device: torch.device) -> torch.Tensor | None:
    """The logits of a model whose layers are read as they run; None where that cannot be."""
    from accelerate import cpu_offload, init_empty_weights

    if adapter is not None and (_is_changed_on_loading(adapter) or _more_rows(adapter, folder)):
        return None
    config = load_config(folder)
    family = auto_class_of(config, folder)
    with init_empty_weights(include_buffers=False):
        model: Any = family.from_config(config, dtype=torch.float32)
        tensors = _ByModule(folder, model, adapter)
        if adapter is not None:
            model = add_adapter(model, config_of(adapter))
    layers = layers_of(model)
    held = SPACE * 4 * max(sum(p.numel() for p in layer.parameters()) for layer in layers)
    if held > free_memory(device) or not all(name in tensors for name, _ in model.named_parameters()):
        return None
    # A layer whole: some look into the weights of modules that they do not call, and so do adapters.
    whole = [*{type(layer).__name__ for layer in layers}, "Embedding"]
    cpu_offload(model, execution_device=device, state_dict=tensors, preload_module_classes=whole)
    for name, buffer in model.named_buffers():
        if name in tensors:  # learnt beside the weights: corrections of routers
            buffer.copy_(tensors[name])
    vocabulary = model.get_input_embeddings().weight.shape[0]
    try:
        return logits_of(model.eval(), vocabulary, device)
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        return None  # the family looks at what is not there yet: llama4, gemma4, idefics3


def _more_rows(adapter: Adapter, base: Path) -> int | None:
    """How many rows the adapter's own embedding has, where those are more than its base's."""
    own, base_has = (
        max((i.shape[0] for n, i in weights.infos.items() if n.endswith(_ENDS)), default=0)
        for weights in (adapter.weights, Weights(base))
    )
    return own if own > base_has else None


def _is_changed_on_loading(adapter: Adapter) -> bool:
    """Whether its tensors are not those of layers, but of an older peft or transformers."""
    version, parameters = adapter.config.get("peft_version"), adapter.config.get("target_parameters")
    exchanged = any(is_other_way_round(version, transposed) for transposed in (True, False))
    return bool(parameters and exchanged) or has_single_experts(adapter.weights)


@torch.no_grad()
def _loaded_logits(folder: Path, adapter: Path | None, device: torch.device, is_clip: bool) -> torch.Tensor:
    if is_clip:
        model = load_visual_encoder({"pretrained_model_name_or_path": str(folder)}, torch.float32)
    else:
        config = load_config(folder)
        family: Any = auto_class_of(config, folder)
        model = family.from_pretrained(folder, config=config, dtype=torch.float32, local_files_only=True)
    if adapter is not None:
        own = read_adapter(adapter)
        if rows := _more_rows(own, folder):
            # The adapter holds all rows: what the new ones begin with plays no part.
            model.resize_token_embeddings(rows, mean_resizing=False)
        # Without what may be beside it.
        model = attach_adapter(model, adapter, weights=dict(own.weights))
    model = model.to(device).eval()
    if is_clip:
        size = model.config.image_size
        pixels = torch.linspace(-1, 1, 3 * size * size, device=device).view(1, 3, size, size)
        out = model(pixel_values=pixels).last_hidden_state.cpu()
    else:
        out = logits_of(model, model.get_input_embeddings().weight.shape[0], device)
    del model
    gc.collect()
    if devices.is_accelerator(device):
        devices.empty_cache(device)
    return out


def logits_of(model: Any, vocabulary: int, device: torch.device) -> torch.Tensor:
    """The logits of one fixed prompt."""
    return model(input_ids=prompt_ids(vocabulary).to(device), use_cache=False).logits.float().cpu()


def _num_values(folder: Path) -> int:
    return sum(i.num_bytes // i.dtype.itemsize for i in Weights(folder).infos.values())
