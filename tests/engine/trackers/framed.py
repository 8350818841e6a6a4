"""A reader of the files of W&B and SwanLab: records in blocks, as the logs of LevelDB."""

import struct

_BLOCK, _HEADER = 32768, 7
_FULL, _LAST = 1, 4


def records(path):
    """The bytes of each record; a file that ends in the middle of one is an error."""
    data, at, parts = path.read_bytes(), _HEADER, []
    while at < len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += _HEADER
        assert at + length <= len(data), path
        parts.append(data[at : at + length])
        at += length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
