"""Tokenise conversations to ids and loss masks, many rows in one call of the tokenizer.

    {"input": "Q", "output": "A", "sep": "\\n"}, max_length 8
    pieces    bos  Q          A      eos  sep
    ids        1   45 12 99   7 31   2    13
    mask       .   .  .  .    x x    x    .

Input, output and sep are tokenised separately, so no token spans two of them; repeated texts of a chunk are
tokenised once. A conversation in the form of messages is rendered by the tokenizer's chat template and
tokenised as a whole. Samples are cut at `max_length` tokens, except documents (no question, no
end-of-sequence token): they continue in the next sample. That begins with the last token of the one before,
unsupervised, as the first token of a sample is never a target:

    document  a b c d e f g        max_length 4        samples  a b c d | d e f g
                                                       mask     . x x x | . x x x

With one sample per turn each answer is the end of a separate sample and supervised only there, for templates
that write the thinking of the last answer only:

    Q1 A1 Q2 A2                                        samples  Q1 A1 | Q1 A1 Q2 A2
                                                       mask     .  x  | .  .  .  x
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtuner.dataset.encoding.chat_template import ChatTemplate, Rendered
from xtuner.dataset.encoding.image_text import expand_images
from xtuner.dataset.encoding.spans import Pieces, encode_spans
from xtuner.dataset.map_fns.fields import flag, is_trained, turn_text
from xtuner.errors import DataError, ModelError
from xtuner.families import GLM_MARKS, OPEN_WITH_NOTHING
from xtuner.language import translate
from xtuner.utils import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

Turn = Mapping[str, Any]
Ids = np.ndarray
Layout = list[tuple["int | Ids", bool]]
"""Pieces of a conversation: the number of a text or ids, and whether they are supervised."""

Tokens = tuple[list[Ids], list[Pieces]]

IMAGE_IDS = np.array([IMAGE_TOKEN_INDEX], np.int32)


@dataclass(frozen=True)
class Encoded:
    """Samples one after the other: sample i is `ids[offsets[i]:offsets[i + 1]]` and came from row `rows[i]`.

    `full_lengths` and `full_trained` are, per row and before any cut, the tokens of its longest sample and
    its supervised tokens.
    """

    ids: Ids  # int32
    trained: np.ndarray  # bool
    offsets: np.ndarray  # int64, one more than there are samples
    rows: np.ndarray  # int64
    full_lengths: np.ndarray  # int64
    full_trained: np.ndarray  # int64

    def sample(self, index: int) -> tuple[Ids, np.ndarray]:
        """Token ids and loss mask of one sample."""
        span = slice(self.offsets[index], self.offsets[index + 1])
        return self.ids[span], self.trained[span]

    def trained_counts(self) -> np.ndarray:
        """The number of supervised tokens of each sample."""
        total = np.concatenate([[0], np.cumsum(self.trained, dtype=np.int64)])
        return total[self.offsets[1:]] - total[self.offsets[:-1]]


class InvalidRowError(DataError):
    """A row of the chunk cannot be encoded; `row` is its number in the chunk."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Planned:
    """Conversations to tokenise: `plans` has the pieces of each sample, None for one of `chats`."""

    conversations: Sequence[Sequence[Turn]]
    tokenizer: Any
    texts: list[str]
    plans: list[Layout | None]
    rows: list[int]  # the conversation of each plan
    chats: list[Rendered]
    split: re.Pattern[str] | None  # the placeholder of an image in a chat
    left_out: list[tuple[int, str]]  # number of a conversation, kind of words not written

    def tokenise(self) -> Tokens:
        """The ids of all texts and the pieces of all chats; a tokenizer in Rust releases the GIL here."""
        try:
            ids = encode_texts(self.tokenizer, self.texts)
        except (TypeError, UnicodeEncodeError):
            _find_half_characters(self.conversations)
            raise
        if not self.chats:
            return ids, []
        return ids, encode_spans(self.tokenizer, self.chats, encode_texts, self.split, IMAGE_IDS)

    def samples(
        self, tokens: Tokens, max_length: int | None = None, *, continue_documents: bool = False
    ) -> Encoded:
        """The conversations as samples of at most `max_length` tokens, in order, each at least one sample.

        With `continue_documents` documents continue in further samples instead of being cut.
        """
        texts, chats = tokens[0], iter(tokens[1])
        plan: Layout = []
        row_ends = [0]
        for pieces in self.plans:
            plan += next(chats) if pieces is None else pieces
            row_ends.append(len(plan))
        arrays = [texts[piece] if isinstance(piece, int) else piece for piece, _ in plan]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        ids = np.concatenate([*arrays, np.zeros(0, np.int32)])
        piece_mask = np.fromiter((trained for _, trained in plan), bool, len(plan))
        trained = np.repeat(piece_mask, lengths)
        piece_offsets = np.concatenate([[0], np.cumsum(lengths)])
        offsets = piece_offsets[np.array(row_ends)]
        continues = (continue_documents and is_document(turns) for turns in self.conversations)
        continued = np.fromiter(continues, bool, len(self.conversations))
        return _cut(ids, trained, offsets, np.array(self.rows, np.int64), continued, max_length)


def encode_conversations(
    conversations: Sequence[Sequence[Turn]],
    tokenizer: Any,
    max_length: int | None = None,
    *,
    input_ids_with_output: bool = True,
    with_image_token: bool = False,
    continue_documents: bool = False,
    one_sample_per_turn: bool = False,
) -> Encoded:
    """The samples of `conversations`, see `plan_conversations` and `Planned`."""
    planned = plan_conversations(
        conversations,
        tokenizer,
        input_ids_with_output=input_ids_with_output,
        with_image_token=with_image_token,
        one_sample_per_turn=one_sample_per_turn,
    )
    return planned.samples(planned.tokenise(), max_length, continue_documents=continue_documents)


def plan_conversations(
    conversations: Sequence[Sequence[Turn]],
    tokenizer: Any,
    *,
    input_ids_with_output: bool = True,
    with_image_token: bool = False,
    one_sample_per_turn: bool = False,
    keep_thinking: bool = False,
) -> Planned:
    """The conversations split into pieces to tokenise; InvalidRowError for a row that cannot be.

    Without `input_ids_with_output` all before the last answer is tokenised.
    """
    keep_thinking = keep_thinking or one_sample_per_turn
    bos, eos = begin_ids(tokenizer), end_ids(tokenizer)
    template: ChatTemplate | None = None
    texts: dict[str, int] = {}
    plans: list[Layout | None] = []
    rows: list[int] = []
    chats: list[Rendered] = []
    left_out: set[tuple[int, str]] = set()
    for row, conversation in enumerate(conversations):
        samples = one_per_answer(conversation) if one_sample_per_turn else [conversation]
        for turns in samples:
            try:
                if (dialogue := dialogue_of(turns)) is not None:
                    template = template or ChatTemplate(tokenizer)
                    chats.append(_rendered(template, dialogue, input_ids_with_output, keep_thinking))
                    left_out |= {(row, kind) for kind in chats[-1].left_out}
                    plans.append(None)
                else:
                    plans.append(_plan_row(turns, texts, bos, eos, input_ids_with_output, with_image_token))
            except DataError as error:
                raise InvalidRowError(row, str(error)) from None
            rows.append(row)
    split = re.compile(re.escape(DEFAULT_IMAGE_TOKEN)) if with_image_token else None
    return Planned(conversations, tokenizer, list(texts), plans, rows, chats, split, sorted(left_out))


def one_per_answer(conversation: Sequence[Turn]) -> list[Sequence[Turn]]:
    """The conversation up to each supervised answer, with only that one supervised; at least one."""
    dialogue = dialogue_of(conversation)
    parts = conversation if dialogue is None else dialogue["messages"]
    name = "output_with_loss" if dialogue is None else "loss"
    samples: list[Sequence[Turn]] = []
    for number, part in enumerate(parts):
        if is_trained(part) and (dialogue is None or part.get("role") == "assistant"):
            until: Sequence[Turn] = [*({**before, name: False} for before in parts[:number]), part]
            samples.append(until if dialogue is None else [{**dialogue, "messages": until}])
    return samples or [conversation]


def dialogue_of(turns: Sequence[Turn]) -> Turn | None:
    """The one turn of a conversation that the tokenizer's chat template renders; None for others.

    It has `messages` and no `input` or `output`. Turns with both are of rows whose messages contain more than
    the texts; a named template uses the texts alone.
    """
    if len(turns) != 1 or not turns[0].get("messages"):
        return None
    has_texts = any(turns[0].get(key) is not None for key in ("input", "output"))
    return None if has_texts else turns[0]


def _rendered(template: ChatTemplate, turn: Turn, with_output: bool, keep_thinking: bool) -> Rendered:
    """A conversation in the form of messages, rendered by the chat template."""
    messages, tools = turn["messages"], turn.get("tools")
    if with_output:
        rendered = template.render(messages, tools, keep_thinking=keep_thinking)
    else:
        rendered = _question(template, messages, tools)
    check_characters(rendered.text, "messages")
    if "image_texts" in turn:
        text, spans = expand_images(rendered.text, rendered.spans, turn["image_token"], turn["image_texts"])
        return Rendered(text, spans, rendered.left_out)
    return rendered


def _question(template: ChatTemplate, messages: Sequence[Turn], tools: Any) -> Rendered:
    """All before the last answer, with the generation prompt."""
    is_answered = bool(messages) and messages[-1].get("role") == "assistant"
    question = messages[:-1] if is_answered else messages
    return Rendered(template.write(question, tools, prompt=True), [])


def is_document(turns: Sequence[Turn]) -> bool:
    """Whether a conversation is plain text: without question and end-of-sequence token."""
    return bool(turns) and all(not flag(turn, "need_eos_token") and not turn.get("input") for turn in turns)


def begin_ids(tokenizer: Any) -> Ids:
    """The ids that open a conversation: none for Qwen's tokenizers, GLM's two marks, else bos if any."""
    kind = type(tokenizer).__name__.lower()
    if any(word in kind for word in OPEN_WITH_NOTHING):
        return np.zeros(0, np.int32)
    if hasattr(tokenizer, "get_prefix_tokens"):
        return np.array(tokenizer.get_prefix_tokens(), np.int32)
    bos = tokenizer.bos_token_id
    if bos is None and hasattr(tokenizer, "get_added_vocab"):
        added = tokenizer.get_added_vocab()
        marks = [added[mark] for mark in GLM_MARKS if mark in added]
        return np.array(marks if len(marks) == len(GLM_MARKS) else [], np.int32)
    return np.array([] if bos is None else [bos], np.int32)


def end_ids(tokenizer: Any) -> Ids:
    """The ids that end an answer; empty if the tokenizer has no end-of-sequence token."""
    eos = tokenizer.eos_token_id
    return np.array([] if eos is None else [eos], np.int32)


def encode_texts(tokenizer: Any, texts: list[str]) -> list[Ids]:
    """The ids of each text, without special tokens around it, from one call of the tokenizer."""
    if not texts:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and _is_plain(tokenizer, backend):
        return [np.array(e.ids, np.int32) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
    encoded = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False)["input_ids"]
    return [np.array(ids, np.int32) for ids in encoded]


def _find_half_characters(conversations: Sequence[Sequence[Turn]]) -> None:
    """Raise InvalidRowError for the first row with half of a surrogate pair, which JSON can contain."""
    for row, turns in enumerate(conversations):
        for turn in turns:
            for key in ("input", "output", "sep"):
                try:
                    check_characters(turn_text(turn, key), key)
                except DataError as error:
                    raise InvalidRowError(row, str(error)) from None


def check_characters(words: str, name: str) -> None:
    """DataError if `words` hold half of a surrogate pair, which JSON can contain."""
    try:
        words.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            translate(
                "{name} has half of a character at position {start}; write the whole character",
                name=name,
                start=error.start,
            )
        ) from None


def _is_plain(tokenizer: Any, backend: Any) -> bool:
    """Whether the Rust tokenizer returns the same as the Python object around it.

    It does if neither padding, truncation nor literal special tokens are set and no method is overridden.
    """
    from transformers import PreTrainedTokenizerFast

    methods = ("__call__", "_encode_plus", "_batch_encode_plus")
    return (
        backend.padding is None
        and backend.truncation is None
        and not backend.encode_special_tokens
        and not getattr(tokenizer, "split_special_tokens", False)
        and isinstance(tokenizer, PreTrainedTokenizerFast)
        and all(
            getattr(type(tokenizer), name, None) is getattr(PreTrainedTokenizerFast, name, None)
            for name in methods
        )
    )


def _plan_row(
    turns: Sequence[Turn],
    texts: dict[str, int],
    bos: Ids,
    eos: Ids,
    with_output: bool,
    with_image: bool,
) -> Layout:
    """The pieces of one conversation; new texts are added to `texts`."""
    plan: Layout = []
    opens = True
    for number, turn in enumerate(turns, start=1):
        if opens and len(bos):
            plan.append((bos, False))
        for piece in _input_pieces(turn_text(turn, "input"), with_image):
            plan.append((texts.setdefault(piece, len(texts)) if isinstance(piece, str) else piece, False))
        if not with_output and number == len(turns):
            return plan
        output = turn_text(turn, "output")
        trained = is_trained(turn)
        if output:
            plan.append((texts.setdefault(output, len(texts)), trained))
        opens = flag(turn, "need_eos_token")
        if opens:
            if not len(eos):
                raise ModelError(
                    translate(
                        "the tokenizer has no end-of-sequence token to end an answer with: give it "
                        "one, such as tokenizer = dict(..., eos_token='<|im_end|>')"
                    )
                )
            plan.append((eos, trained))
        sep = turn_text(turn, "sep")
        if sep:
            plan.append((texts.setdefault(sep, len(texts)), False))
    return plan


def _input_pieces(words: str, with_image: bool) -> list[str | Ids]:
    if not with_image or DEFAULT_IMAGE_TOKEN not in words:
        return [words] if words else []
    pieces: list[str | Ids] = []
    for number, part in enumerate(words.split(DEFAULT_IMAGE_TOKEN)):
        pieces += ([IMAGE_IDS] if number else []) + ([part] if part else [])
    return pieces


def _cut(
    ids: Ids,
    trained: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    continued: np.ndarray,
    max_length: int | None,
) -> Encoded:
    """Samples of at most `max_length` tokens: cut, or continued in further samples for `continued` rows."""
    lengths = np.diff(offsets)
    total = np.concatenate([[0], np.cumsum(trained, dtype=np.int64)])
    full_lengths, full_trained = np.zeros((2, len(continued)), np.int64)
    np.maximum.at(full_lengths, rows, lengths)
    np.add.at(full_trained, rows, total[offsets[1:]] - total[offsets[:-1]])
    if max_length is None or not len(lengths) or lengths.max() <= max_length:
        return Encoded(ids, trained, offsets, rows, full_lengths, full_trained)
    kept = np.where(continued[rows], lengths, np.minimum(lengths, max_length))
    # A window begins with the last token of the one before, so that the token after it is a target too.
    step = max(1, max_length - 1)
    windows = 1 + np.maximum(0, -(-(kept - max_length) // step))
    whole = np.repeat(np.arange(len(lengths)), windows)  # the sample of each window
    window = np.arange(len(whole)) - np.repeat(np.cumsum(windows) - windows, windows)
    sample_lengths = np.minimum(max_length, kept[whole] - window * step)
    sample_offsets = np.concatenate([[0], np.cumsum(sample_lengths)])
    starts = offsets[whole] + window * step
    source = np.arange(sample_offsets[-1]) + np.repeat(starts - sample_offsets[:-1], sample_lengths)
    ids, trained = ids[source], trained[source]
    trained[sample_offsets[:-1][window > 0]] = False
    return Encoded(ids, trained, sample_offsets, rows[whole], full_lengths, full_trained)


def labels_of(ids: Ids, trained: np.ndarray, ignore_index: int) -> np.ndarray:
    """The labels: supervised ids, else `ignore_index`; int64."""
    return np.where(trained, ids, ignore_index).astype(np.int64)
