"""Answers of different lengths in one forward pass per token; rows join and leave between two tokens.

    row 1   . . a b c | d          `.` is padding: keys that the attention mask hides
    row 2   p q r s t | u
    row 3   . . . . x | y          after row 2 has left, two columns are removed too

A row joins after its prompt was read separately; all that have joined are copied together before the next
token. Caches other than plain keys and values (sliding windows, states) cannot be padded, and rotary
positions that depend on the longest row would change for all rows: each of those rows is a separate batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from xtuner.errors import ModelError
from xtuner.families import family_of
from xtuner.generation.cached_forward import CachedForward
from xtuner.generation.growing_cache import filled, is_plain
from xtuner.generation.limits import stretches_positions
from xtuner.generation.pictures import Inputs, Pictures
from xtuner.language import translate
from xtuner.model.base import base_model


class Reader:
    """Calls the forward of one model with the arguments that its family accepts.

    `continues`: several tokens may be read after others.
    """

    def __init__(self, model: Any, device: torch.device, pictures: Pictures | None = None) -> None:
        self.model = model
        self.device = device
        self._pictures = pictures
        self._forward = CachedForward(model)
        self.continues = family_of(base_model(model).config).continues
        self._joins_rows = not stretches_positions(model)

    @property
    def num_virtual(self) -> int:
        """How many virtual tokens every cache has before the tokens of its row."""
        return self._forward.num_virtual

    def joins(self, cache: Any) -> bool:
        """Whether rows with such a cache can be read together."""
        return self._joins_rows and is_plain(cache)

    def positions(self, prompt: Sequence[int]) -> torch.Tensor | None:
        """The positions [3, tokens] of a prompt, or None if they are counted as usual."""
        return None if self._pictures is None else self._pictures.positions(prompt)

    def whole(self, prompt: Sequence[int], end: int) -> int:
        """The end of a chunk of the prompt: `end`, or later if that would divide what is read as a whole."""
        return end if self._pictures is None else self._pictures.whole(prompt, end)

    def read(
        self,
        row: Sequence[int],
        start: int,
        cache: Any,
        positions: torch.Tensor | None = None,
        *,
        all_logits: bool = False,
    ) -> tuple[torch.Tensor, Any]:
        """The logits [1, vocabulary] after `row` (or after each new token), and the cache.

        Its first `start` tokens are in the cache. `positions` [3, tokens]: None if they are counted as usual.
        """
        if self._pictures is None:
            inputs = Inputs({"input_ids": torch.tensor([row[start:]], device=self.device)})
        else:
            inputs = self._pictures.inputs(self.model, row, start, self.device)
        more = {}
        if positions is not None:
            if self.num_virtual:
                what = "An adapter of virtual tokens does not go with the positions of images"
                raise ModelError(translate(what))
            more["position_ids"] = positions[:, None, start : len(row)].to(self.device)
        return self._forward(inputs.forward, cache, all_logits=all_logits, to_decoder=inputs.decoder, **more)

    def next_tokens(
        self,
        tokens: Sequence[int],
        cache: Any,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Any]:
        """The logits [rows, vocabulary] after one more token of each row, which is no image's."""
        more: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
        if positions is not None and self._forward.takes_positions:
            more["position_ids"] = positions
        ids = torch.tensor(tokens, dtype=torch.long, device=self.device)[:, None]
        return self._forward({"input_ids": ids}, cache, **more)


class Batch:
    """Rows of one adapter that are read together. `add`, `read` and `remove` keep their order."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._cache: Any = None
        self._joining: list[Any] = []  # caches of rows that have joined since the last token
        self._joins = False
        self.lengths: list[int] = []  # tokens of each row that have been read
        self._shifts: list[int] = []  # of the positions of its next tokens against their numbers

    def takes(self, cache: Any) -> bool:
        """Whether a row with this cache can join the batch."""
        return not self.lengths or (self._joins and self._reader.joins(cache))

    def add(self, cache: Any, length: int, shift: int = 0) -> None:
        """Add a row of `length` tokens at the end, whose next token has the position `length + shift`."""
        if not self.lengths:
            self._joins = self._reader.joins(cache)
        self._joining.append(cache)
        self.lengths.append(length)
        self._shifts.append(shift)

    def _join(self) -> None:
        """Let the cache have the rows that have joined."""
        caches = [*([] if self._cache is None else [self._cache]), *self._joining]
        self._joining = []
        if not caches:
            return
        self._cache, *others = caches
        if others:
            # Each layer is freed when it was copied.
            new = [_taken(cache) for cache in others]
            for mine in filled(self._cache):
                layers = [mine, *(each.pop(0) for each in new)]
                width = max(layer.keys.shape[-2] for layer in layers)
                mine.keys = torch.cat([_padded(layer.keys, width) for layer in layers])
                mine.values = torch.cat([_padded(layer.values, width) for layer in layers])

    def read(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """The logits [rows, vocabulary] after each row; all but its last token were read before."""
        self._join()
        if self._cache is None:  # a family without a cache reads the whole row again
            (row,) = rows
            logits, self._cache = self._reader.read(row, 0, None)
            return logits
        width, mask, positions = max(self.lengths), None, None
        before = self._reader.num_virtual
        if min(self.lengths) < width or any(self._shifts):
            lengths = torch.tensor(self.lengths, device=self._reader.device)
            positions = (before + lengths + torch.tensor(self._shifts, device=self._reader.device))[:, None]
        if min(self.lengths) < width:
            columns = torch.arange(before + width + 1, device=self._reader.device)
            mask = (columns >= (width - lengths)[:, None]).long()
        tokens = [row[-1] for row in rows]
        logits, self._cache = self._reader.next_tokens(tokens, self._cache, mask, positions)
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def row_cache(self, index: int) -> Any:
        """The keys and values of one row, or None if there are none; a copy if the batch has other rows."""
        self._join()
        if len(self.lengths) == 1:
            return self._cache
        from transformers import DynamicCache

        start = max(self.lengths) - self.lengths[index]
        pairs = [
            (
                layer.keys[index : index + 1, :, start:].clone(),
                layer.values[index : index + 1, :, start:].clone(),
            )
            for layer in filled(self._cache)
        ]
        # A copy cannot express that some layers read the keys of another layer.
        return DynamicCache(pairs) if len(pairs) == len(self._cache.layers) else None

    def remove(self, indices: set[int]) -> None:
        """Remove rows, and the columns that are padding in all other rows."""
        self._join()
        keep = [i for i in range(len(self.lengths)) if i not in indices]
        width = max(self.lengths)
        self.lengths = [self.lengths[i] for i in keep]
        self._shifts = [self._shifts[i] for i in keep]
        if not keep:
            self._cache = None
        else:
            start = width - max(self.lengths)
            rows = torch.tensor(keep, device=self._reader.device)
            for layer in filled(self._cache):
                layer.keys = layer.keys[rows.to(layer.keys.device), :, start:]
                layer.values = layer.values[rows.to(layer.values.device), :, start:]


def _taken(cache: Any) -> list[Any]:
    """The layers of `cache` that hold keys, which is empty then."""
    layers, cache.layers = filled(cache), []
    return layers


def _padded(states: torch.Tensor, width: int) -> torch.Tensor:
    """`states` [rows, heads, tokens, size] with zeros before them up to `width` tokens."""
    missing = width - states.shape[-2]
    return torch.nn.functional.pad(states, (0, 0, missing, 0)) if missing else states
