"""From rows to items of tokens: the stages in order, one function each.

    rows          {"instruction": "Add.", "input": "1 2", "output": "3"}
    map_row       {"conversation": [{"input": "Add.\\n1 2", "output": "3"}]}          by dataset_map_fn
                  {"conversation": [{"input": "<|User|>:Add.\\n1 2\\n<|Bot|>:", ...}]}  by template_map_fn
    encode        ids [1 9 36 ... 2 209], trained [. . . ... x .]                     a chunk of rows at once
    write         the token store on disk, found again by what it was made of
    pack          which samples share an item

The stages up to the store run once for the same rows, functions, tokenizer and settings; a later run, or
another process of the same run, maps what the first one wrote.
"""

from __future__ import annotations

import contextlib
import logging
import pkgutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xtuner import dist
from xtuner.dataset import fingerprint, packing
from xtuner.dataset.encode import Encoded, InvalidRowError, encode_conversations, is_document
from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING, auto_map_fn
from xtuner.dataset.map_fns.fields import items, missing_field
from xtuner.dataset.packed_dataset import PackedDataset
from xtuner.dataset.selection import Selection, take_some, take_split
from xtuner.dataset.store import StoreWriter, TokenStore, open_or_write
from xtuner.dataset.tokenized import write_tokenized
from xtuner.errors import ConfigError, DataError, did_you_mean
from xtuner.log import logger, say_once

Row = Mapping[str, Any]
Conversation = list[Row]
MapFn = Callable[[Any], Any]

CHUNK_ROWS = 4096
CHUNK_CHARACTERS = 4_000_000
NAMED_ROWS = 3
"""How many of the dropped rows a message names, for each reason."""

EMPTY = "no conversation in them"
PROMPT_FILLS = "a prompt that alone fills max_length"
NOTHING_TRAINED = "nothing to train on"


@dataclass(frozen=True)
class Settings:
    """How rows become tokens."""

    tokenizer: Any
    max_length: int | None
    dataset_map_fn: MapFn | None = None
    template_map_fn: MapFn | None = None
    rename_maps: Mapping[str, str] = field(default_factory=dict)
    input_ids_with_output: bool = True
    with_image_token: bool = False


def process_hf_dataset(
    dataset: Any,
    do_dataset_tokenization: bool = True,
    tokenizer: Any = None,
    max_length: int | None = None,
    dataset_map_fn: MapFn | str | None = None,
    template_map_fn: MapFn | str | None = None,
    max_dataset_length: int | None = None,
    split: str | None = "train",
    remove_unused_columns: bool = False,
    rename_maps: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    shuffle_before_pack: bool = True,
    pack_to_max_length: bool = True,
    use_varlen_attn: bool = False,
    input_ids_with_output: bool = True,
    with_image_token: bool = False,
    map_num_proc: int = 32,
    seed: int = 0,
) -> PackedDataset:
    """Items to train on, made of the rows of `dataset`: a list of rows, a data set, or those by split.

    `split=None` takes all splits. `seed` decides which rows `max_dataset_length` picks and which samples
    share an item. Without packing, and unless `remove_unused_columns`, an item also carries its row's other
    fields. `map_num_proc` and `use_varlen_attn` are there for the configs that give them: the tokenizer's
    own threads do the work, and the samples of an item never see each other in any case.
    """
    _check_settings(do_dataset_tokenization, tokenizer, max_length, pack_to_max_length)
    rows = take_some(take_split(dataset, split), max_dataset_length, seed)
    if do_dataset_tokenization:
        settings = Settings(
            tokenizer,
            max_length,
            find_map_fn(dataset_map_fn, "dataset_map_fn", DATASET_FORMAT_MAPPING),
            find_map_fn(template_map_fn, "template_map_fn", {}),
            dict(rename_maps),
            input_ids_with_output,
            with_image_token,
        )
        store = open_or_write(store_key(rows, settings), lambda writer: write_rows(rows, settings, writer))
    else:
        key = fingerprint.fingerprint_value(["tokenized", _rows_key(rows), fingerprint.fingerprint_encoder()])
        store = open_or_write(key, lambda writer: write_tokenized(rows, writer))
    plan = plan_items(store, max_length if pack_to_max_length else None, shuffle_before_pack, seed)
    if not do_dataset_tokenization and not pack_to_max_length:
        plan = packing.plan_by_group(store.rows)
    if pack_to_max_length and not use_varlen_attn:
        say_once(
            "samples packed into one item do not attend to each other, use_varlen_attn or not", logging.INFO
        )
    keeps_columns = not (pack_to_max_length or remove_unused_columns)
    stats = item_stats(store, plan, max_length)
    logger.info(summary(stats, max_length))
    return PackedDataset(store, plan, stats, rows.place, rows.row if keeps_columns else None)


def _check_settings(tokenizes: bool, tokenizer: Any, max_length: int | None, packs: bool) -> None:
    if tokenizes and tokenizer is None:
        raise ConfigError("process_hf_dataset needs a tokenizer, unless do_dataset_tokenization = False")
    if packs and max_length is None:
        raise ConfigError("pack_to_max_length needs max_length: set it, or pack_to_max_length = False")
    if max_length is not None and max_length < 1:
        raise ConfigError(f"max_length is {max_length}: it must be at least 1")


def find_map_fn(given: MapFn | str | None, argument: str, by_name: Mapping[str, MapFn]) -> MapFn | None:
    """The function meant: itself, a name of `by_name`, or a dotted path as written-back configs hold."""
    if isinstance(given, str):
        if given in by_name:
            return by_name[given]
        try:
            given = pkgutil.resolve_name(given)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{argument} = {given!r} cannot be found: {error}.{did_you_mean(str(given), by_name)}"
            ) from error
    if given is not None and not callable(given):
        raise ConfigError(f"{argument} must be a function of one row, and is {given!r:.100}")
    return given


# --- the key ---------------------------------------------------------------------------------------------


def store_key(rows: Selection, settings: Settings) -> str:
    """The hash under which the tokens of these rows are kept."""
    try:
        functions = fingerprint.fingerprint_value([settings.dataset_map_fn, settings.template_map_fn])
    except fingerprint.UnidentifiableError as error:
        say_once(f"the tokens are not kept for a next run: a map function uses {error}, which may change")
        functions = uuid.uuid4().hex
    return fingerprint.fingerprint_value(
        [
            _rows_key(rows),
            fingerprint.fingerprint_tokenizer(settings.tokenizer),
            functions,
            settings.max_length,
            settings.rename_maps,
            [settings.input_ids_with_output, settings.with_image_token],
            fingerprint.fingerprint_encoder(),
        ]
    )


def _rows_key(rows: Selection) -> list[Any]:
    taken = None if rows.taken is None else rows.taken.tobytes()
    return [taken, *map(fingerprint.fingerprint_rows, rows.sources)]


# --- rows to conversations -------------------------------------------------------------------------------


def map_row(row: Row, settings: Settings) -> Conversation:
    """The conversation of one row, with the template around its turns; may be empty."""
    if settings.dataset_map_fn is not None:
        row = _apply(settings.dataset_map_fn, row, "dataset_map_fn")
    if settings.rename_maps:
        row = {settings.rename_maps.get(name, name): value for name, value in row.items()}
    if "conversation" not in row:
        raise DataError(f"{missing_field('conversation', row)}{_suggest_formats(row, settings)}")
    if not row["conversation"]:
        return []
    if settings.template_map_fn is not None:
        row = _apply(settings.template_map_fn, row, "template_map_fn")
    conversation = items(row, "conversation")
    if settings.template_map_fn is None and any(turn.get("system") for turn in conversation):
        say_once("rows have a system text, but without a template_map_fn it does not reach the model")
    if any(turn.get("tools") and "input" in turn for turn in conversation):
        say_once(
            "rows offer tools to the model, which only the tokenizer's own chat template shows: set "
            "prompt_template = PROMPT_TEMPLATE.auto for that"
        )
    return conversation


def _apply(function: MapFn, row: Row, argument: str) -> Row:
    name = getattr(getattr(function, "func", function), "__name__", str(function))
    try:
        result = function(row)
    except DataError as error:
        done = argument == "dataset_map_fn" and "conversation" in row
        hint = " The rows are in conversation form already: set dataset_map_fn = None" if done else ""
        raise DataError(f"{name}: {error}{hint}") from None
    except ConfigError:
        raise
    except KeyError as error:
        missing = error.args[0] if error.args else ""
        if isinstance(missing, str) and missing not in row:
            raise DataError(f"{name}: {missing_field(missing, row)}") from error
        raise DataError(f"{name} failed: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise DataError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(result, Mapping):
        raise DataError(f"{argument} {name} must return a dict, and returned {type(result).__name__}")
    # Fields that a function does not return are kept, as mapping a table has always done.
    return {**row, **result}


def _suggest_formats(row: Row, settings: Settings) -> str:
    if settings.dataset_map_fn is not None:
        return " A dataset_map_fn must return {'conversation': [...]}"
    fitting = [
        name
        for name, function in DATASET_FORMAT_MAPPING.items()
        if function is not auto_map_fn and _fits(function, row)
    ]
    if not fitting:
        return " Give a dataset_map_fn that makes {'conversation': [...]} of a row"
    return f" Its fields fit dataset_map_fn = {' or '.join(f'{name}_map_fn' for name in fitting)}"


def _fits(function: MapFn, row: Row) -> bool:
    try:
        return bool(function(row)["conversation"])
    except DataError:
        return False


# --- conversations to the store --------------------------------------------------------------------------


@dataclass
class _Tally:
    """What became of the rows."""

    stats: dict[str, Any] = field(
        default_factory=lambda: dict.fromkeys(
            ("rows", "samples", "cut", "cut_tokens", "continued", "tokens", "trained"), 0
        )
    )
    dropped: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, row: int, place: Callable[[int], str]) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        named = self.named.setdefault(reason, [])
        if len(named) < NAMED_ROWS:
            named.append(place(row))

    def about(self) -> dict[str, Any]:
        return {"stats": {**self.stats, "dropped": self.dropped, "dropped_rows": self.named}}


def write_rows(rows: Selection, settings: Settings, writer: StoreWriter) -> dict[str, Any]:
    """Map, encode and write all rows; returns the counts that the store is to keep.

    Raises DataError where there are no rows, where none of them has anything to train on, and for a row that
    cannot be read, with its place.
    """
    tally = _Tally()
    with _progress("tokenising", rows) as advance:
        for numbers, conversations in _chunks(_conversations(rows, settings, tally)):
            _write_chunk(rows, numbers, conversations, settings, writer, tally)
            advance(tally.stats["rows"])
    if not tally.stats["rows"]:
        raise DataError(f"the data is empty: there are no rows in {_name(rows)}")
    if not tally.stats["samples"]:
        raise DataError(
            f"none of the {tally.stats['rows']:,} rows has anything to train on:"
            f"{_dropped(tally.about()['stats'])}{_cure(tally, settings)}"
        )
    return tally.about()


def _conversations(rows: Selection, settings: Settings, tally: _Tally) -> Iterator[tuple[int, Conversation]]:
    """Row number and conversation of each row that has one."""
    for number, row in rows:
        tally.stats["rows"] += 1
        try:
            conversation = map_row(row, settings)
        except DataError as error:
            raise DataError(f"{rows.place(number)}: {error}") from error
        if conversation:
            yield number, conversation
        else:
            tally.drop(EMPTY, number, rows.place)


def _chunks(
    conversations: Iterator[tuple[int, Conversation]],
) -> Iterator[tuple[list[int], list[Conversation]]]:
    """Row numbers and conversations, as many at a time as one call of the tokenizer should take."""
    numbers: list[int] = []
    chunk: list[Conversation] = []
    characters = 0
    for number, conversation in conversations:
        numbers.append(number)
        chunk.append(conversation)
        characters += sum(
            len(text)
            for turn in conversation
            for part in (turn, *turn.get("messages", ()))
            for text in part.values()
            if isinstance(text, str)
        )
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield numbers, chunk
            numbers, chunk, characters = [], [], 0
    if chunk:
        yield numbers, chunk


def _write_chunk(
    rows: Selection,
    numbers: list[int],
    conversations: list[Conversation],
    settings: Settings,
    writer: StoreWriter,
    tally: _Tally,
) -> None:
    try:
        encoded = encode_conversations(
            conversations,
            settings.tokenizer,
            settings.max_length,
            input_ids_with_output=settings.input_ids_with_output,
            with_image_token=settings.with_image_token,
            continue_documents=True,
        )
    except InvalidRowError as error:
        raise DataError(f"{rows.place(numbers[error.row])}: {error}") from None
    counts = encoded.trained_counts()
    # Without outputs nothing is trained by intent: such items are for asking a model.
    keep = counts > 0 if settings.input_ids_with_output else np.ones(len(counts), bool)
    for row in np.setdiff1d(encoded.rows, encoded.rows[keep]).tolist():
        reason = PROMPT_FILLS if encoded.full_trained[row] else NOTHING_TRAINED
        tally.drop(reason, numbers[row], rows.place)
    writer.append(encoded, np.array(numbers, np.int64), keep)
    _count(encoded, conversations, counts, keep, settings.max_length, tally)


def _count(
    encoded: Encoded,
    conversations: list[Conversation],
    counts: np.ndarray,
    keep: np.ndarray,
    max_length: int | None,
    tally: _Tally,
) -> None:
    stats = tally.stats
    stats["samples"] += int(keep.sum())
    stats["tokens"] += int(np.diff(encoded.offsets)[keep].sum())
    stats["trained"] += int(counts[keep].sum())
    kept_rows = np.unique(encoded.rows[keep])
    for row in kept_rows[encoded.full_lengths[kept_rows] > (max_length or np.inf)].tolist():
        if is_document(conversations[row]):
            stats["continued"] += 1
        else:
            stats["cut"] += 1
            stats["cut_tokens"] += int(encoded.full_lengths[row]) - (max_length or 0)


@contextlib.contextmanager
def _progress(title: str, rows: Selection) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of rows done; draws a bar on a terminal and nothing elsewhere."""
    if dist.rank() != 0 or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=rows.quick_len())
        yield lambda done: progress.update(task, completed=done)


def _name(rows: Selection) -> str:
    return ", ".join(str(getattr(source, "name", None) or repr(source))[:200] for source in rows.sources)


# --- items -----------------------------------------------------------------------------------------------


def plan_items(store: TokenStore, max_length: int | None, shuffle: bool, seed: int) -> packing.PackPlan:
    """Which samples share an item; one sample per item where `max_length` is None."""
    if max_length is None:
        return packing.plan_single(len(store))
    lengths = store.lengths
    if lengths.max() > max_length:
        raise DataError(f"a tokenised sample has {lengths.max()} tokens, more than max_length = {max_length}")
    if shuffle:
        return packing.plan_packs(lengths, max_length, seed)
    return packing.plan_in_order(lengths, max_length)


def item_stats(store: TokenStore, plan: packing.PackPlan, max_length: int | None) -> dict[str, Any]:
    """The counts of the rows with those of the items, the share trained and how full the items are."""
    stats = store.about["stats"]
    fill = stats["tokens"] / (len(plan) * max_length) if max_length else 1.0
    return {**stats, "packs": len(plan), "trained_share": stats["trained"] / stats["tokens"], "fill": fill}


def summary(stats: Mapping[str, Any], max_length: int | None) -> str:
    """One line that tells what became of the rows."""
    num_dropped = sum(stats.get("dropped", {}).values())
    parts = [f"{stats['rows']:,} rows"]
    if num_dropped:
        parts.append(f"{num_dropped:,} dropped:{_dropped(stats)}")
    if stats.get("cut"):
        parts.append(
            f"{stats['cut']:,} cut at {max_length:,} tokens ({stats['cut_tokens']:,} tokens left out)"
        )
    if stats.get("continued"):
        parts.append(f"{stats['continued']:,} go on in further samples")
    parts.append(f"{stats['tokens']:,} tokens, {stats['trained_share']:.1%} trained")
    filled = f", {stats['fill']:.1%} full" if max_length else ""
    parts.append(f"{stats['samples']:,} samples in {stats['packs']:,} items{filled}")
    return "data: " + "; ".join(parts)


def _dropped(stats: Mapping[str, Any]) -> str:
    """` 2 with nothing to train on (data.json line 3, data.json line 9), 1 with ...`."""
    parts = []
    for reason, count in stats["dropped"].items():
        named = stats["dropped_rows"][reason]
        more = ", ..." if count > len(named) else ""
        parts.append(f" {count:,} with {reason} ({', '.join(named)}{more})")
    return ",".join(parts)


def _cure(tally: _Tally, settings: Settings) -> str:
    if PROMPT_FILLS in tally.dropped:
        return f". max_length is {settings.max_length}: raise it"
    return ""
