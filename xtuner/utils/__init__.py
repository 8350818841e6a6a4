"""Names that users' configs import from here: the templates and a few constants. No torch."""

from xtuner.utils.constants import (
    DEFAULT_IMAGE_TOKEN,
    DEFAULT_PAD_TOKEN_INDEX,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from xtuner.utils.templates import PROMPT_TEMPLATE, SYSTEM_TEMPLATE, render_prompt

__all__ = [
    "DEFAULT_IMAGE_TOKEN",
    "DEFAULT_PAD_TOKEN_INDEX",
    "IGNORE_INDEX",
    "IMAGE_TOKEN_INDEX",
    "PROMPT_TEMPLATE",
    "SYSTEM_TEMPLATE",
    "render_prompt",
]
