"""A batch in a record: what says that another one is the same, and where it is not.

input_ids    a a a b b        labels    . . a . b
rows         ["d.json line 3", "d.json line 8"]
samples      [[3, "9c21...", "77ab..."], [2, "0f3e...", "d01c..."]]      length, hash of ids, of labels
tokens       the first ids and labels themselves, compressed, to show where they differ
tensors      {"pixel_values.0": {"hash": "51d0...", "values": [0.12, ...]}}
"""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from xtuner.engine.replay.hashes import hash_of, hash_tensor, some_values
from xtuner.language import speaking, translate
from xtuner.model.packed import boundaries_of

# Of tensors of numbers, so many values are kept to tell how far others are from them.
VALUES_KEPT = 16
# They follow from the ids, the labels and the boundaries.
_DERIVED = {
    "attention_mask",
    "boundaries",
    "cumulative_len",
    "input_ids",
    "is_image",
    "labels",
    "loss_positions",
    "loss_targets",
    "max_seqlen",
    "position_ids",
}


def describe_batch(batch: Any, max_tokens: int) -> dict[str, Any]:
    """The entry of a batch without its rows and its loss; it keeps at most `max_tokens` tokens."""
    data = batch["data"] if isinstance(batch, Mapping) and isinstance(batch.get("data"), Mapping) else batch
    derived: set[str] = set()
    found: dict[str, Any] = {}
    if _has_samples(data):
        derived = _DERIVED
        ids, labels, boundaries = _flat(data)
        spans = list(itertools.pairwise(boundaries))
        found["samples"] = [
            [b - a, hash_of([ids[a:b].tobytes()]), hash_of([labels[a:b].tobytes()])] for a, b in spans
        ]
        found["tokens"] = {"input_ids": _squeeze(ids[:max_tokens]), "labels": _squeeze(labels[:max_tokens])}
    rest = {name: value for name, value in data.items() if name not in derived} if derived else data
    found["tensors"] = {name: _described(value) for name, value in _leaves(rest, "")}
    return found


def name_rows(dataset: Any, items: Sequence[Any], num_samples: int) -> list[str]:
    """The rows of a batch in the words of other messages, in English: of each sample, if that is known."""
    with speaking("en"):
        if not hasattr(dataset, "source_places"):
            return [translate("item {number}", number=item) for item in items]
        names = [place for item in items for place in dataset.source_places(item)]
    return names if len(names) == num_samples else list(dict.fromkeys(names))


def kept_tokens(batch: Mapping[str, Any], sample: int) -> dict[str, list[int]]:
    """What the entry `batch` kept of the ids and labels of a sample."""
    start = sum(length for length, *_ in batch["samples"][:sample])
    end = start + batch["samples"][sample][0]
    return {name: _expand(text)[start:end] for name, text in batch["tokens"].items()}


def num_kept(batch: Mapping[str, Any]) -> int:
    """The number of tokens that the entry `batch` kept."""
    return len(_expand(batch["tokens"]["input_ids"])) if "tokens" in batch else 0


def _has_samples(data: Any) -> bool:
    ids = data.get("input_ids") if isinstance(data, Mapping) else None
    return isinstance(ids, torch.Tensor) and ids.dim() == 2


def _flat(data: Any) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Ids and labels without padding, and the boundaries of samples."""
    mask, ids, labels = data.get("attention_mask"), data["input_ids"], data.get("labels")
    if labels is None or labels.shape != ids.shape:  # labels of samples are a tensor of their own
        labels = torch.zeros_like(ids)
    flat = [x.flatten() if mask is None else x[mask.bool()] for x in (ids, labels)]
    return flat[0].cpu().numpy().astype("<i4"), flat[1].cpu().numpy().astype("<i4"), boundaries_of(data)


def _squeeze(numbers: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(numbers.tobytes(), 1)).decode("ascii")


def _expand(text: str) -> list[int]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i4").tolist()


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What is in nested containers, with its path."""
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(value)
    elif value is not None:
        yield name, value
    for key, item in inner:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _described(value: Any) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, torch.Tensor):
        return {"hash": hash_of([repr(value)])}
    found: dict[str, Any] = {"hash": hash_tensor(value)}
    if value.is_floating_point():
        found["values"] = [float(f"{x:.7g}") for x in some_values(value, VALUES_KEPT).tolist()]
    return found
