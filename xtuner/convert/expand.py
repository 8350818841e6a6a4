"""A model with more layers that answers as before: copies of its layers that add nothing yet.

    layers of the base   0 1 2 3 | 4 5 6 7          blocks = 2
    expanded             0 1 2 3 3' 4 5 6 7 7'      3' and 7' are copies whose last matrices are zero

A layer adds its attention's and its MLP's output to what goes through it, so one whose last matrices are zero
changes nothing. Training those alone keeps what the base knows. After Wu et al. 2024, arXiv 2401.02415.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from xtuner.convert.compare import streamed_logits
from xtuner.convert.folders import copy_other_files, model_folder
from xtuner.convert.output import new_folder
from xtuner.convert.progress import byte_bar
from xtuner.convert.weights import Weights, parse_size, write_weights
from xtuner.errors import ConfigError, ModelError
from xtuner.families import text_part
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model.loading import register_families
from xtuner.model_folder import ADDED_LAYERS, read_json

_LAYER = re.compile(
    r"(?P<before>(?:(?:model|language_model|text_model|decoder)\.)*layers\.)(?P<number>\d+)(?P<after>\..+)"
)
# The last matrices of attention and MLP, and their biases.
_LAST = re.compile(r"\.(o_proj|wo|down_proj|w2)(\.(weight|bias))?$")
# By number of layer, in ways of their own.
_BY_NUMBER = ("mlp_only_layers", "first_k_dense_replace", "moe_layer_start_index", "cross_attention_layers")


def expand(
    src_dir: str | Path, dst_dir: str | Path, blocks: int, max_shard_size: str | int = "2GB"
) -> list[int]:
    """Write `src_dir`'s model with `blocks` more layers to `dst_dir`; the numbers of these."""
    parse_size(max_shard_size)
    source = model_folder(src_dir, "the model")
    weights = Weights(source)
    config = read_json(source / "config.json")
    text = text_part(config) or config
    if not any(_LAYER.fullmatch(name) and _LAST.search(name) for name in weights.infos):
        what = "{source}: its layers do not end in o_proj and down_proj (or wo and w2), so none is copied"
        raise ModelError(translate(what, source=source))
    order = plan(text.get("num_hidden_layers"), blocks, source)
    _check(text, source)
    names = _names(weights, order)
    infos = {name: weights.infos[old] for name, (old, _) in names.items()}
    added = [number for number, (_, is_new) in enumerate(order) if is_new]
    with new_folder(dst_dir, sources=(source,), num_bytes=sum(i.num_bytes for i in infos.values())) as folder:
        with byte_bar(translate("Expanding"), sum(i.num_bytes for i in infos.values())) as advance:

            def load(name: str) -> torch.Tensor:
                advance(infos[name].num_bytes)
                old, is_zero = names[name]
                return torch.zeros_like(weights[old]) if is_zero else weights[old]

            write_weights(
                folder, infos, load, max_shard_size=max_shard_size, safe_serialization=weights.is_safe
            )
        copy_other_files(source, folder, leave=("README.md",))
        _write_config(folder, config, text, order, added)
        _check_same(source, folder)
    logger.info(translate("Layers %s of %d are new"), ", ".join(map(str, added)), len(order))
    return added


def plan(count: Any, blocks: int, source: Path) -> list[tuple[int, bool]]:
    """For each layer of the result the one it is made of, and whether it is a copy."""
    if not isinstance(count, int) or blocks < 1 or count % blocks:
        what = "--blocks is {blocks}; it must divide the {count} layers of {source}"
        raise ConfigError(translate(what, blocks=blocks, count=count, source=source))
    every = count // blocks
    order: list[tuple[int, bool]] = []
    for number in range(count):
        order.append((number, False))
        if (number + 1) % every == 0:
            order.append((number, True))
    return order


def _check(text: dict[str, Any], source: Path) -> None:
    """Raise ModelError for a config that says more of layers by their number."""
    if found := [name for name in _BY_NUMBER if text.get(name)]:
        what = "{source}: its config says {name} by the numbers of layers, so no layers can be added"
        raise ModelError(translate(what, source=source, name=found[0]))


def _check_same(source: Path, folder: Path) -> None:
    """Raise ModelError if the models answer differently, where that can be seen a layer at a time."""
    register_families()
    device = torch.device("cpu")
    before, after = streamed_logits(source, None, device), streamed_logits(folder, None, device)
    if before is None or after is None:
        logger.warning(translate("Not compared with the base: its layers cannot be read one by one"))
    elif not torch.equal(before, after):
        what = "{source}: layers of this family change something though their last matrices are zero"
        raise ModelError(translate(what, source=source))


def _names(weights: Weights, order: list[tuple[int, bool]]) -> dict[str, tuple[str, bool]]:
    """For each tensor of the result the one it is made of, and whether it is zero."""
    names: dict[str, tuple[str, bool]] = {}
    for name in weights.infos:
        match = _LAYER.fullmatch(name)
        if match is None:
            names[name] = (name, False)
            continue
        for number, (old, is_new) in enumerate(order):
            if old == int(match["number"]):
                new = f"{match['before']}{number}{match['after']}"
                names[new] = (name, is_new and _LAST.search(name) is not None)
    return names


def _write_config(
    folder: Path,
    config: dict[str, Any],
    text: dict[str, Any],
    order: list[tuple[int, bool]],
    added: list[int],
) -> None:
    """config.json with the number of layers, lists of one value a layer, and which layers are new."""
    count = text["num_hidden_layers"]
    for name, value in text.items():
        if (
            isinstance(value, list)
            and len(value) == count
            and name.endswith(("_types", "_layers", "_pattern"))
        ):
            text[name] = [value[old] for old, _ in order]
    text["num_hidden_layers"] = len(order)
    text[ADDED_LAYERS] = added
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
