"""Keys and passwords, which are never shown, logged or sent on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

HIDDEN = "***"
_NAME = re.compile(
    r"(?:^|_)(?:api_?key|password|passwd|secret|secret_key|access_key|(?:auth|access|api|hf)_token|credentials?)$"
    r"|^(?:token|key_id)$",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
# As services write their keys; and user and password in an address.
KEY = re.compile(r"\b(?:hf_|sk-|ghp_|gho_|glpat-|AKIA)[A-Za-z0-9_-]{16,}")
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
# Shorter values of variables are words such as "true".
_MIN_LENGTH = 6


def is_credential(name: str) -> bool:
    """Whether a setting of that name holds a key or a password; `pad_token` and the like do not."""
    return _NAME.search(name) is not None


def without_credentials(text: str, known: Iterable[str] = ()) -> str:
    """The text without those that are known, that look like one, or that are in the environment."""
    own = [value for name, value in os.environ.items() if _VARIABLE.search(name)]
    for secret in sorted({*own, *known}, key=len, reverse=True):
        if len(secret) >= _MIN_LENGTH:
            text = text.replace(secret, HIDDEN)
    return _IN_ADDRESS.sub(HIDDEN, KEY.sub(HIDDEN, text))
