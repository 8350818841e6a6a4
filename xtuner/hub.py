"""Whether the model hub can be asked at all, so that a name that is nowhere fails at once.

The hub's own client asks for every file anew, six times each with pauses in between.
"""

from __future__ import annotations

import functools
import socket
import urllib.parse
import urllib.request

TIMEOUT_S = 5.0


@functools.cache
def is_reachable() -> bool:
    """Whether the hub may be asked and something listens at its address; found out once."""
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
