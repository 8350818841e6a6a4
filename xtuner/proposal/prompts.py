"""What a data file holds for a run that learns from rewards, and its settings.

prompts      all before the last answer of each row, tokenised as chat does
references   the last answers, whose lengths say how long sampled ones may be
batch_size   prompts of an update, of which each process samples `count` answers
"""

from __future__ import annotations

import functools
import math

import numpy as np

from xtuner.dataset.encoding.asked import asked_of, prompt_map_fn
from xtuner.dataset.encoding.pipeline import Encoding, Tally, encode_rows
from xtuner.dataset.map_fns.auto import auto_map_fn
from xtuner.dataset.map_fns.template import template_map_fn_factory
from xtuner.dataset.reading.selection import Selection
from xtuner.errors import DataError
from xtuner.estimate.machine import Machine
from xtuner.language import translate
from xtuner.proposal.choices import MAX_TOKENS_IN_BATCH, SHORTEST, Choice, Draft, Proposal, choose_recompute
from xtuner.proposal.data import DataFacts, Measured, read_some
from xtuner.proposal.model import ModelFacts

COUNT = 8
SHORTEST_ANSWER, USUAL_ANSWER, LONGEST_ANSWER = 64, 256, 2048
PROMPTS = 8
HELD_OUT, LEAST_ROWS = 0.05, 40
_UPDATES = 100


def look_at_prompts(path: str, tokenizer: object, template: str) -> DataFacts:
    """The facts of the file: the lengths of its prompts, and those of its answers as `prompts`."""
    rows, numbers, read = read_some(path)
    map_fn = functools.partial(prompt_map_fn, map_fn=auto_map_fn)
    settings = Encoding(
        tokenizer, None, map_fn, template_map_fn_factory(template), input_ids_with_output=False
    )
    measured = Measured()
    encode_rows(Selection(rows.sources, np.array(numbers)), settings, measured, Tally())
    references = []
    for row in read:
        try:
            references.append(asked_of(row).reference)
        except DataError:  # reported with its position when training reads it
            continue
    if not references:
        raise DataError(translate("{path} has no row that asks something", path=path))
    texts = [text for text in references if text]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []  # type: ignore[operator]
    return DataFacts(
        path=path,
        num_rows=len(rows),
        format_name="",  # of any form
        why_format="",
        map_fn="auto",
        is_text=False,
        lengths=sorted(measured.lengths),
        questions=[],
        prompts=sorted(lengths),
        is_prompts=True,
    )


def choose_rollouts(
    model: ModelFacts, data: DataFacts, machine: Machine, method: str | None, rewards: list[str]
) -> Proposal:
    """The settings of a run that learns from `rewards`."""
    draft = Draft(model, data, machine)
    covered = data.lengths[min(len(data.lengths) - 1, int(0.99 * len(data.lengths)))]
    length = min(max(SHORTEST, 2 ** math.ceil(math.log2(max(1, covered)))), model.context // 2)
    what = "99% of the prompts have at most {covered} tokens, the longest {longest}; longer ones are left out"
    why = translate(what, covered=covered, longest=data.lengths[-1])
    chosen = [
        Choice("prompt_template", model.template, model.why_template),
        Choice(
            "dataset_map_fn", data.map_fn, translate("rows of any form: the last answer is the reference")
        ),
        Choice("max_length", length, why),
        _choose_answer(data, model.context - length),
        Choice("rewards", rewards, translate("as --reward says")),
        Choice("count", COUNT, translate("answers to each prompt, compared with each other")),
    ]
    for choice in chosen:
        draft.take(choice)
    updates = max(1, data.num_rows // PROMPTS)
    why = translate("prompts of an update, {updates} in an epoch", updates=updates)
    chosen.append(draft.take(Choice("batch_size", PROMPTS, why)))
    tokens = length + draft.value("max_new_tokens")
    per_batch = max(1, MAX_TOKENS_IN_BATCH // tokens)
    divided = math.ceil(PROMPTS * COUNT / per_batch)
    what = "{count} answers of up to {tokens} tokens at once; this changes memory, not the result"
    why = translate(what, count=per_batch, tokens=tokens)
    chosen.append(draft.take(Choice("accumulative_counts", divided, why)))
    chosen.append(draft.take(draft.choose_method(method)))
    chosen.append(draft.take(choose_recompute(draft)))
    if data.num_rows >= LEAST_ROWS:
        why = translate("validation by greedy answers, to keep the best")
        chosen.append(Choice("held_out", HELD_OUT, why))
    epochs = max(1, math.ceil(_UPDATES / updates))
    every = max(1, min(50, epochs * updates // 3)) * divided
    why = translate(
        "{updates} updates of {answers} answers", updates=epochs * updates, answers=PROMPTS * COUNT
    )
    chosen.append(Choice("max_epochs", epochs, why))
    why = translate("every {updates} updates, in iterations", updates=every // divided)
    chosen.append(Choice("save_steps", every, why))
    return Proposal(chosen, draft.memory())


def _choose_answer(data: DataFacts, room: int) -> Choice:
    name = "max_new_tokens"
    if not data.prompts:
        return Choice(name, min(room, USUAL_ANSWER), translate("rows have no answers to measure"))
    covered = data.prompts[min(len(data.prompts) - 1, int(0.99 * len(data.prompts)))]
    wanted = 2 ** math.ceil(math.log2(max(SHORTEST_ANSWER, min(LONGEST_ANSWER, 2 * covered))))
    why = translate("twice what 99% of the answers have, {covered} tokens", covered=covered)
    return Choice(name, min(room, wanted), why)
