"""Colors: `{"description": "name: what it looks like", "color": "#rrggbb"}`."""

from xtuner.dataset.map_fns.fields import Row, one_turn, text
from xtuner.utils import SYSTEM_TEMPLATE


def colors_map_fn(example: Row) -> dict:
    """One turn from the words after the colour's name to the colour."""
    description = text(example, "description")
    name, colon, words = description.partition(":")
    return one_turn((words if colon else name).strip(), text(example, "color"), SYSTEM_TEMPLATE.colorist)
