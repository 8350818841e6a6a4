"""Stored image features: what a frozen encoder makes of each image, computed once, before the first update.

    images     a.jpg b.jpg c.jpg d.jpg     of the training data, and of the validation data
    missing          b.jpg       d.jpg     process 0: b.jpg           process 1: d.jpg
    entry      a hash of weights and settings of the encoder, precision, processor and image -> [rows, width]

Training then reads features instead of images. Later runs find them, and so does one after a kill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

from xtuner.dataset.encoding.progress import show_rates
from xtuner.dataset.images.pixel_cache import PixelCache
from xtuner.dataset.llava import ImageReader, LLaVADataset
from xtuner.engine.batches.data_sets import data_sets
from xtuner.errors import ConfigError, DataError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.parallel.tensors import is_divided

if TYPE_CHECKING:
    from xtuner.engine.run import Run

_BATCH = 16
_READERS = 8  # threads that decode images
_FREE = 0.75  # of the limit: what a full cache keeps


def store_features(run: Run) -> None:
    """Let the data of `run` read the features of its images; those that are missing are computed."""
    model: Any = run.model
    if model.image_features is None:
        return
    if any(map(is_divided, model.parts()["visual_encoder"].parameters())):
        what = "model.image_features: fsdp and ZeRO 3 divide the encoder: use DDP or ZeRO 2, or remove it"
        raise ConfigError(translate(what))
    readers = [(data.reader, list(data.images())) for data in _data_sets(run)]
    precision = str(getattr(run.optim_wrapper, "dtype", None))
    limit = int(model.image_features.max_gb * 1e9)
    for reader, _ in readers:
        settings = f"{model.features_key()} {precision} {reader.settings}"
        reader.stored = PixelCache(model.image_features.folder, limit, settings)
    wanted = [(reader, image) for reader, images in readers for image in _distinct(reader, images)]
    own = wanted[run.world.rank :: run.world.size]
    missing = [(reader, image) for reader, image in own if not _stored(reader).has(reader.identity(image))]
    num_missing = sum(run.world.all_gather(len(missing)))
    _announce(run, len(wanted), len(wanted) - num_missing, limit)
    _encode(run, missing)
    run.world.all_gather(None)  # all entries are there


def _announce(run: Run, count: int, num_stored: int, limit: int) -> None:
    model: Any = run.model
    rows, width = model.features_shape()
    one = torch.empty(0, dtype=_dtype(run)).element_size() * rows * width
    logger.info(
        translate(
            "Image features: {count:,} images x {rows} rows x {width} x {size} bytes = {total:.3f} GB in "
            "{folder}; {stored:,} are stored, {missing:,} are computed",
            count=count,
            rows=rows,
            width=width,
            size=one // (rows * width),
            total=count * one / 1e9,
            folder=model.image_features.folder,
            stored=num_stored,
            missing=count - num_stored,
        )
    )
    if count * one > _FREE * limit:
        what = (
            "model.image_features: the features need {total:.3f} GB, and of max_gb = {limit} three quarters "
            "are kept: set max_gb to {wanted:.3f} or more"
        )
        total = count * one / 1e9
        wanted = total / _FREE * 1.01 + 0.001
        raise ConfigError(translate(what, total=total, limit=limit / 1e9, wanted=wanted))


def _dtype(run: Run) -> torch.dtype:
    """The type of the features, as that of a blank image is."""
    model: Any = run.model
    config = model.visual_encoder.config
    with torch.no_grad(), run.optim_wrapper.autocast():
        return model.features(torch.zeros(1, 3, config.image_size, config.image_size)).dtype


def _data_sets(run: Run) -> Iterator[LLaVADataset]:
    for name, data in data_sets(run):
        if not isinstance(data, LLaVADataset):
            what = (
                "model.image_features: {name}.dataset is a {kind}, which has no images of LLaVADataset: "
                "remove it"
            )
            raise ConfigError(translate(what, name=name, kind=type(data).__name__))
        yield data


def _distinct(reader: ImageReader, images: Iterable[Any]) -> list[Any]:
    """Each image once; those that are missing by now are left to the training, which names them."""
    found: dict[Any, Any] = {}
    for image in images:
        try:
            found.setdefault(reader.identity(image), image)
        except DataError:
            continue
    return list(found.values())


def _stored(reader: ImageReader) -> PixelCache:
    assert reader.stored is not None
    return reader.stored


def _encode(run: Run, missing: Sequence[tuple[ImageReader, Any]]) -> None:
    """Store the features of images; those that cannot be read are left to the training too."""

    def read(wanted: tuple[ImageReader, Any]) -> torch.Tensor | None:
        reader, image = wanted
        try:
            return reader.pixels([image])
        except DataError:
            return None

    model: Any = run.model
    title = translate("image features")
    with ThreadPoolExecutor(_READERS) as pool, show_rates(title, len(missing), of_samples=True) as advance:
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            pixels = list(pool.map(read, some))
            known = [(wanted, one) for wanted, one in zip(some, pixels, strict=True) if one is not None]
            if known:
                with torch.no_grad(), run.optim_wrapper.autocast():
                    features = model.features(torch.cat([one for _, one in known])).cpu()
                for ((reader, image), _), one in zip(known, features, strict=True):
                    _stored(reader).add(reader.identity(image), {"features": one})
            advance(len(some), 0)
