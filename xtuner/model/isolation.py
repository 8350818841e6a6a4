"""Whether samples of a batch may be packed into one sequence; unknown families are tested.

    known to pack        one sequence, always                families.py, by the tests named there
    known not to         each sample by itself               a state carried along the sequence
    not known            a test with two packed samples:      a a a a | b b b b b b b b b b b b
                         the second must give the same as    b b b b b b b b b b b b       by stock attention

The second sample of a test is longer than every window and chunk that is shorter than a sequence of the data.
A model that fails gets its own attention back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from xtuner.families import family_of
from xtuner.language import translate
from xtuner.log import logger, say_once
from xtuner.model import attention, own_attention
from xtuner.model.base import base_model, keeps_logits
from xtuner.model.packed import packed_inputs
from xtuner.parallel.world import all_reduce_max

# Tokens of a test's second sample beyond a limit; these are compared.
BEYOND = 8
# Larger limits are not tested: a family's own attention may hold the scores of all pairs of tokens.
FURTHEST = 8192
_LIMITS = re.compile(r"window|chunk|local_attention|topk|floor|compress|block_size|max_distance|extent")


def isolates(model: Any) -> bool:
    """Whether packed samples of this model are known to be isolated."""
    ours = model.config._attn_implementation == attention.NAME or own_attention.stands_in(model)
    return family_of(model.config).packs is True and ours


class Isolation:
    """The results of the isolation tests of one model."""

    def __init__(self) -> None:
        self._limits: list[int] | None = None
        self._tried = 0
        self._mixes = False

    def holds(self, model: Any, length: int) -> bool:
        """Whether samples may be packed into a sequence of `length` tokens; a collective."""
        if isolates(model):
            return True
        if self._mixes or family_of(model.config).packs is False:
            return False
        if self._limits is None:
            self._limits = limits(model.config.get_text_config())
        self._try(model, length, [limit for limit in self._limits if limit <= FURTHEST])
        if untried := [limit for limit in self._limits if FURTHEST < limit < length and not self._mixes]:
            say_once(
                "Packed samples of models of the family '{family}' were tested for isolation up to "
                "{FURTHEST} tokens; beyond, {limit} in their config may mix them",
                FURTHEST=FURTHEST,
                family=model.config.get_text_config().model_type,
                limit=untried[0],
            )
        return not self._mixes

    def _try(self, model: Any, length: int, bounds: list[int]) -> None:
        if self._tried > max(bounds, default=0):
            return
        reach = all_reduce_max(max((bound for bound in bounds if bound < length), default=0)) + BEYOND
        if reach > self._tried:
            self._tried = reach
            self._mixes = bool(all_reduce_max(_differs(model, reach)))
            if self._mixes:
                use_stock_attention(model)


def limits(config: Any) -> list[int]:
    """Lengths at which the attention of this config may change: windows, chunks, numbers of keys."""
    return sorted({value for name, value in _fields(config.to_dict()) if _LIMITS.search(name)})


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _fields(inner, str(key))
    elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
        yield name, value


@torch.no_grad()
def _differs(model: Any, length: int) -> bool:
    """Whether the second of two packed samples differs from the same sample alone, by stock attention."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(4 + length, device=model.device)[None] % vocabulary
    few: dict[str, Any] = {"logits_to_keep": BEYOND} if keeps_logits(model) else {}
    run, base = model, base_model(model)
    if base.get_output_embeddings() is None:
        # A head of another kind gives no numbers for all tokens.
        run = getattr(base, base.base_model_prefix, base)
    boundaries = [0, 4, 4 + length]
    was_training, implementation = model.training, model.config._attn_implementation
    model.eval()
    try:
        with attention.packed_batch(boundaries):
            packed = _outputs(run(**packed_inputs(ids, boundaries), **few))[0, -BEYOND:]
        if implementation == attention.NAME:
            use_stock_attention(model)
        alone = _outputs(run(input_ids=ids[:, 4:], use_cache=False, **few))[0, -BEYOND:]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a family's code may raise anything for a pack
        logger.info(
            translate("Testing the isolation of packed samples failed: %s: %s"), type(error).__name__, error
        )
        return True
    finally:
        if model.config._attn_implementation != implementation:
            base_model(model).set_attn_implementation(implementation)
        model.train(was_training)
    # The median, because rounding alone may change the expert of single tokens.
    difference = ((packed - alone).float().norm(dim=-1) / alone.float().norm(dim=-1)).median()
    return not difference < (1e-3 if packed.dtype in (torch.float32, torch.float64) else 5e-2)


def _outputs(output: Any) -> torch.Tensor:
    return output.logits if "logits" in output else output.last_hidden_state


def use_stock_attention(model: Any) -> None:
    """Give the model the attention that transformers chooses for it."""
    base = base_model(model)
    if base.config._attn_implementation == attention.NAME:
        base.set_attn_implementation("sdpa" if getattr(base, "_supports_sdpa", False) else "eager")
