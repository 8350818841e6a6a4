"""Padding to a square for CLIP, and the bound on the pixels that a processor makes of an image.

┌──────┐                    ┌──────┐
│ wide │                    │ mean │
└──────┘               ->   │ wide │
                            │ mean │
                            └──────┘

An image of few pixels can become one of many: 50,000 x 1,000 has 50 million, and 2,500 million as a square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtuner.dataset.images.decode import MAX_PIXELS
from xtuner.errors import DataError
from xtuner.language import translate
from xtuner.log import say_once

if TYPE_CHECKING:
    from PIL.Image import Image

SHRUNK_SIDE = 4096
"""The longer side of an image that is shrunk before it is padded: far above the size of any encoder."""


def expand_to_square(image: Image, colour: tuple[int, ...]) -> Image:
    """`image` centred on the smallest square that holds it, filled with `colour`.

    If the square would have more than MAX_PIXELS pixels, the image is shrunk first.
    """
    from PIL import Image

    if image.width == image.height:
        return image
    if max(image.size) ** 2 > MAX_PIXELS:
        image = _shrunk(image)
    width, height = image.size
    side = max(width, height)
    square = Image.new(image.mode, (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _shrunk(image: Image) -> Image:
    say_once(
        "images that as a square would have more than {pixels:,} pixels are shrunk to {side} before",
        pixels=MAX_PIXELS,
        side=SHRUNK_SIDE,
    )
    scale = SHRUNK_SIDE / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def bounded_for(image: Image, processor: Any, name: str) -> Image:
    """`image`, or its centre if `processor`, an image processor, would enlarge it beyond MAX_PIXELS.

    That is so for very long images if their shorter side is resized to a fixed size. DataError, which names
    the image `name`, if the processor does not crop to the centre afterwards.
    """
    edge = _shortest_edge(processor)
    short, long = sorted(image.size)
    if not edge or edge * edge * long <= MAX_PIXELS * short:
        return image
    if not getattr(processor, "do_center_crop", False):
        raise DataError(
            translate(
                "{name} is too long: {width} x {height} pixels become more than {MAX_PIXELS:,}, resized to a "
                "shorter side of {edge}",
                name=name,
                width=image.width,
                height=image.height,
                MAX_PIXELS=MAX_PIXELS,
                edge=edge,
            )
        )
    kept = max(1, short * MAX_PIXELS // (edge * edge))
    kept += (long - kept) % 2  # the centre stays where it is
    left, top = (max(0, side - kept) // 2 for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def _shortest_edge(processor: Any) -> int | None:
    """The size of the shorter side after resizing, if that alone decides the size."""
    size = getattr(processor, "size", None)
    if not getattr(processor, "do_resize", True) or size is None:
        return None
    sizes = dict(size) if not isinstance(size, int) else {"shortest_edge": size}
    return None if sizes.get("longest_edge") else sizes.get("shortest_edge")
