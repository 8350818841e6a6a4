"""A pseudo-terminal in the place of stdout, and what a user sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")


class Terminal:
    """Within `with`, stdout is a terminal of so many columns; after it, `text` is all that was written."""

    def __init__(self, monkeypatch, columns: int = 80, rows: int = 24) -> None:
        self._patch, self._size = monkeypatch, (rows, columns)
        self._bytes = b""
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")

    def __enter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *self._size, 0, 0))
        self._file = open(slave, "w", encoding="utf-8", buffering=1)
        self._before = sys.stdout
        sys.stdout = self._file
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def _read(self) -> None:
        while True:
            try:
                self._bytes += (chunk := os.read(self._master, 65536))
            except OSError:  # the other end was closed
                return
            if not chunk:
                return

    def __exit__(self, *_) -> None:
        sys.stdout = self._before
        self._file.close()
        self._thread.join()
        os.close(self._master)

    @property
    def text(self) -> str:
        """All that was written, without colours and movements."""
        return _CONTROL.sub("", self._bytes.decode("utf-8")).replace("\r\n", "\n")

    def lines(self) -> list[str]:
        """Its lines; what was drawn over counts too."""
        return re.split(r"[\r\n]", self.text)
