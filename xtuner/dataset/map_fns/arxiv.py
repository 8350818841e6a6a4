"""arXiv: `{"abstract", "title"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, text
from xtuner.utils import SYSTEM_TEMPLATE


def arxiv_map_fn(example: Row) -> dict:
    """One turn from abstract to title."""
    return one_turn(text(example, "abstract"), text(example, "title"), SYSTEM_TEMPLATE.arxiv_gentile)
