"""Tokenise and pack rows: the stages in order, one function each.

    rows          {"instruction": "Add.", "input": "1 2", "output": "3"}
    map_row       {"conversation": [{"input": "Add.\\n1 2", "output": "3"}]}          by dataset_map_fn
                  {"conversation": [{"input": "<|User|>:Add.\\n1 2\\n<|Bot|>:", ...}]}  by template_map_fn
    encode        ids [1 9 36 ... 2 209], mask [. . . ... x .]                        a chunk of rows at once
    write         the token store on disk, found by a hash of its inputs
    pack          samples to items

The stages up to the store run once for the same rows, functions, tokenizer and settings; later runs and
other processes of the same run map the files that the first one wrote.
"""

from __future__ import annotations

import dataclasses
import logging
import pkgutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xtuner.dataset.encoding import fingerprint
from xtuner.dataset.encoding.pipeline import PROMPT_FILLS, Encoding, MapFn, Tally, Writer, encode_rows
from xtuner.dataset.encoding.progress import show_rates
from xtuner.dataset.encoding.tokenized import write_tokenized
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import PackedDataset
from xtuner.dataset.items.store import FAULTS, TokenStore, open_or_write
from xtuner.dataset.items.streamed import BUFFER_ROWS, StreamedDataset
from xtuner.dataset.items.summary import check_strict, describe_dropped, item_stats, log_summary
from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING
from xtuner.dataset.reading.selection import Part, Selection, take_some, take_split
from xtuner.errors import ConfigError, DataError, did_you_mean
from xtuner.language import translate
from xtuner.log import say_once


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
    strict: bool = False,
    streaming: bool = False,
    buffer_size: int = BUFFER_ROWS,
    held_out: float = 0.0,
    take_held_out: bool = False,
    one_sample_per_turn: bool = False,
    video_frames: int | None = None,
) -> PackedDataset | StreamedDataset:
    """The tokenised items of the rows of `dataset`: a list of rows, a data set, or a dict of them by split.

    `split=None` takes all splits. `seed` decides which rows `max_dataset_length` picks and which samples are
    packed together. Without packing, and unless `remove_unused_columns`, an item also has its row's other
    fields. A few faulty rows are left out, counted and listed in a file; with `strict`, or if there are many,
    they are an error. `map_num_proc` and `use_varlen_attn` have no effect and exist for configs that set
    them: the tokenizer runs its own threads, and the samples of a pack never attend to each other.

    `held_out` is the fraction of the rows, chosen by their content, that is left for validation; with
    `take_held_out` only these rows are used. `val_dataloader = dict(held_out=...)` sets both.

    `one_sample_per_turn` makes a sample for each answer, which ends with it and supervises it alone: chat
    templates of thinking models show the thinking of the last answer only. Earlier turns are repeated.

    `video_frames`: the images that stand for a video, with `with_image_token`.

    `streaming` tokenises nothing ahead and stores nothing on disk: `buffer_size` rows at a time are read,
    packed and shuffled (by `shuffle_before_pack`) during training, in each process and worker.
    """
    _check_settings(do_dataset_tokenization, tokenizer, max_length, pack_to_max_length)
    keeps_columns = not (pack_to_max_length or remove_unused_columns)
    settings = Encoding(
        tokenizer,
        max_length,
        find_map_fn(dataset_map_fn, "dataset_map_fn", DATASET_FORMAT_MAPPING),
        find_map_fn(template_map_fn, "template_map_fn", {}),
        dict(rename_maps),
        input_ids_with_output,
        with_image_token,
        strict,
        one_sample_per_turn,
        video_frames=video_frames,
    )
    if streaming:
        _check_streaming(do_dataset_tokenization, max_dataset_length, buffer_size, held_out)
        sources = take_split(dataset, split).sources
        return StreamedDataset(
            sources, settings, buffer_size, pack_to_max_length, shuffle_before_pack, keeps_columns, seed
        )
    rows = take_some(take_split(dataset, split), max_dataset_length, seed)
    if held_out:
        rows = dataclasses.replace(rows, part=Part(held_out, take_held_out))
    store = _open_store(rows, settings if do_dataset_tokenization else None)
    if do_dataset_tokenization or pack_to_max_length:
        plan = plan_items(store, max_length if pack_to_max_length else None, shuffle_before_pack, seed)
    else:
        plan = packing.plan_by_group(store.rows)
    if pack_to_max_length and not use_varlen_attn:
        say_once("packed samples do not attend to each other, with use_varlen_attn or without", logging.INFO)
    stats = item_stats(store.about["stats"], len(plan), max_length)
    if strict:
        check_strict(stats)
    log_summary(stats, max_length, max_length, store.folder / FAULTS)
    return PackedDataset(store, plan, stats, rows.place, rows.row if keeps_columns else None)


def _check_settings(tokenizes: bool, tokenizer: Any, max_length: int | None, packs: bool) -> None:
    if tokenizes and tokenizer is None:
        raise ConfigError(
            translate("process_hf_dataset needs a tokenizer, unless do_dataset_tokenization = False")
        )
    if packs and max_length is None:
        raise ConfigError(
            translate("pack_to_max_length needs max_length: set it, or pack_to_max_length = False")
        )
    if max_length is not None and max_length < 1:
        raise ConfigError(
            translate("max_length is {max_length}: it must be at least 1", max_length=max_length)
        )


def _check_streaming(
    tokenizes: bool, max_dataset_length: int | None, buffer_size: int, held_out: float
) -> None:
    if held_out:
        raise ConfigError(
            translate(
                "rows cannot be held out with streaming = True, which does not count them: give "
                "val_dataloader a dataset of its own instead of held_out"
            )
        )
    if not tokenizes:
        raise ConfigError(
            translate("rows that are tokenised already are not streamed: leave out streaming = True")
        )
    if max_dataset_length is not None:
        raise ConfigError(
            translate(
                "max_dataset_length picks from all rows, which streaming = True does not count: leave out one"
            )
        )
    if buffer_size < 1:
        raise ConfigError(
            translate("buffer_size is {buffer_size}: it must be at least 1 row", buffer_size=buffer_size)
        )


def find_map_fn(given: MapFn | str | None, argument: str, by_name: Mapping[str, MapFn]) -> MapFn | None:
    """The function `given` by itself, a name of `by_name`, or a dotted path, as saved configs have."""
    if isinstance(given, str):
        if given in by_name:
            return by_name[given]
        try:
            given = pkgutil.resolve_name(given)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                translate(
                    "{argument} = {given!r} cannot be found: {error}.{hint}",
                    argument=argument,
                    given=given,
                    error=error,
                    hint=did_you_mean(str(given), by_name),
                )
            ) from error
    if given is not None and not callable(given):
        raise ConfigError(
            translate(
                "{argument} must be a function of one row; it is {given!r:.100}",
                argument=argument,
                given=given,
            )
        )
    return given


# --- the key ---------------------------------------------------------------------------------------------


def store_key(rows: Selection, settings: Encoding) -> str:
    """The key of the token store of these rows: a hash."""
    try:
        functions = fingerprint.fingerprint_value([settings.dataset_map_fn, settings.template_map_fn])
    except fingerprint.UnidentifiableError as error:
        say_once("the tokens are not cached: a map function uses {error}, which may change", error=error)
        functions = uuid.uuid4().hex
    return fingerprint.fingerprint_value(
        [
            _rows_key(rows),
            fingerprint.fingerprint_tokenizer(settings.tokenizer),
            functions,
            settings.max_length,
            settings.rename_maps,
            [settings.input_ids_with_output, settings.with_image_token, settings.one_sample_per_turn],
            settings.video_frames,
            fingerprint.fingerprint_encoder(),
        ]
    )


def _rows_key(rows: Selection) -> list[Any]:
    taken = None if rows.taken is None else rows.taken.tobytes()
    part = [] if rows.part is None else [[rows.part.fraction, rows.part.is_held_out]]
    return [taken, *part, *map(fingerprint.fingerprint_rows, rows.sources)]


# --- the store -------------------------------------------------------------------------------------------


def _open_store(rows: Selection, settings: Encoding | None) -> TokenStore:
    """The tokens of `rows`, which are tokenised already if there are no `settings`."""
    if settings is not None:
        return open_or_write(store_key(rows, settings), lambda writer: write_rows(rows, settings, writer))
    key = fingerprint.fingerprint_value(["tokenized", _rows_key(rows), fingerprint.fingerprint_encoder()])
    return open_or_write(key, lambda writer: write_tokenized(rows, writer))


def write_rows(
    rows: Selection,
    settings: Encoding,
    writer: Writer,
    tally: Tally | None = None,
    encode: Callable[..., None] = encode_rows,
) -> dict[str, Any]:
    """Map, encode (by a function as `encode_rows`) and write all rows; returns the counts for the store.

    Raises DataError if there are no rows, if none of them has supervised tokens, or if rows cannot be read,
    with the position of the first.
    """
    tally = tally or Tally()
    with show_rates(translate("tokenising"), rows.quick_len()) as advance:
        encode(rows, settings, writer, tally, advance)
    rows.check_content()
    if not tally.stats["rows"]:
        raise DataError(translate("the data is empty: there are no rows in {names}", names=_name(rows)))
    if not tally.stats["samples"]:
        raise DataError(
            translate(
                "none of the {rows:,} rows has anything to train on:{dropped}{cure}",
                rows=tally.stats["rows"],
                dropped=describe_dropped(tally.about()["stats"]),
                cure=_cure(tally, settings),
            )
        )
    return tally.about()


def _name(rows: Selection) -> str:
    return ", ".join(str(getattr(source, "name", None) or repr(source))[:200] for source in rows.sources)


def _cure(tally: Tally, settings: Encoding) -> str:
    if PROMPT_FILLS in tally.dropped:
        return translate(". max_length is {max_length}: raise it", max_length=settings.max_length)
    return ""


# --- items -----------------------------------------------------------------------------------------------


def plan_items(store: TokenStore, max_length: int | None, shuffle: bool, seed: int) -> packing.PackPlan:
    """The samples of each item; one sample per item if `max_length` is None."""
    if max_length is None:
        return packing.plan_single(len(store))
    lengths = store.lengths
    if lengths.max() > max_length:
        raise DataError(
            translate(
                "a tokenised sample has {longest} tokens, more than max_length = {max_length}",
                max_length=max_length,
                longest=lengths.max(),
            )
        )
    if shuffle:
        return packing.plan_packs(lengths, max_length, seed)
    return packing.plan_in_order(lengths, max_length)
