"""Crime-Kg-Assitant (spelt as its authors do): `{"input", "output"}` on Chinese law."""

from xtuner.dataset.map_fns.fields import Row, one_turn, text
from xtuner.utils import SYSTEM_TEMPLATE


def crime_kg_assitant_map_fn(example: Row) -> dict:
    """One turn with a lawyer's system text."""
    return one_turn(text(example, "input"), text(example, "output"), SYSTEM_TEMPLATE.lawyer)
