"""The clock of the trainings counts what each program reads."""

import pytest
import torch
from timeline import Timeline

IDS = torch.tensor([[5, 6, 7, 0]])
LABELS = torch.tensor([[-100, 6, 7, -100]])


@pytest.mark.parametrize(
    ("pad", "mask", "tokens"), [(None, None, 4), (0, None, 3), (None, torch.tensor([[1, 1, 0, 0]]), 2)]
)
def test_padding_is_not_counted(pad, mask, tokens):
    """Neither by a mask nor by its id; a batch that has none counts whole."""
    timeline = Timeline(pad=pad)
    timeline.see(IDS, LABELS, mask)
    timeline.end(1.5)
    (mark,) = timeline.marks
    assert (mark["tokens"], mark["trained"], mark["loss"]) == (tokens, 2, 1.5)
