"""Small videos: grey frames, each brighter than the one before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

FRAMES = 8


def save_clip(path: Path, first: int = 20, keyframes: int = 12, codec: str = "mpeg4") -> Path:
    """Write eight frames in two seconds; `first` is the grey of the first. Each n-th is a keyframe."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=4)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"g": str(keyframes)}
        for number in range(FRAMES):
            grey = np.full((64, 96, 3), first + 28 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path
