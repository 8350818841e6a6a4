"""Whether the model hub can be reached, so that an unknown name fails at once.

Without it the hub's client requests every file six times, with pauses.
"""

from __future__ import annotations

import functools
import socket
import urllib.parse
import urllib.request

TIMEOUT_S = 5.0


@functools.cache
def is_reachable() -> bool:
    """Whether the hub may be used and something listens at its address; cached."""
    from huggingface_hub import constants  # as its client reads HF_HUB_OFFLINE, HF_ENDPOINT and the like

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True  # the proxy knows more addresses than this machine
    hub = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        port = hub.port or (80 if hub.scheme == "http" else 443)
        socket.create_connection((hub.hostname or "", port), TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True
