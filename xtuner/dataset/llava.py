"""Conversations about images for LLaVA, with pixels for each `<image>`.

    row          {"image": "1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}
    sample       1 3148 -200 13 5618 ...                  -200 once for each image; max_length counts it so
    item         1 3148 -200 -200 ... -200 13 5618 ...    once for each row that the encoder makes of it
    pixels       one tensor [images, 3, height, width] for each item

A row without an image is text. The tokens are in the token store; images are read when an item is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtuner.dataset.encoding.pipeline import MAX_FAULTY_FRACTION, NAMED_ROWS, MapFn
from xtuner.dataset.huggingface import process_hf_dataset
from xtuner.dataset.images.shape import bounded_for, expand_to_square
from xtuner.dataset.images.source import ImageSource
from xtuner.dataset.items import packing
from xtuner.dataset.items.packed_dataset import Item, PackedDataset, checked_index
from xtuner.dataset.items.store import TokenStore
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import ConfigError, DataError
from xtuner.image_processor import background_of, make_image_processor
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model_folder import read_json
from xtuner.utils import IGNORE_INDEX, IMAGE_TOKEN_INDEX

_READERS = 16  # threads that look for images


class LLaVADataset(PackedDataset):
    """Items of one conversation, or packs of them, with the pixels of their images."""

    # The folder of the processor says how many rows an encoder makes of an image.
    unbuilt = frozenset({"image_processor"})

    def __init__(
        self,
        image_folder: str,
        image_processor: Any,
        data_path: str | None = None,
        tokenizer: Any = None,
        offline_processed_text_folder: str | None = None,
        max_dataset_length: int | None = None,
        dataset_map_fn: MapFn | str | None = None,
        template_map_fn: MapFn | str | None = None,
        max_length: int = 2048,
        pad_image_to_square: bool = False,
        rows_per_image: int | None = None,
        max_packed_length: int | None = None,
        seed: int = 0,
        strict: bool = False,
        held_out: float = 0.0,
        take_held_out: bool = False,
    ) -> None:
        """`max_length` cuts the text, and counts an image as one token.

        `rows_per_image`: those that the image encoder makes of an image, by default as the config in the
        processor's folder says. `max_packed_length` packs conversations together, up to that many tokens with
        those of the images. Rows whose image is missing are left out and counted; with `strict`, or if there
        are many, they are an error. `held_out`, `take_held_out`: as of `process_hf_dataset`.
        """
        if isinstance(image_processor, Mapping):
            rows_per_image = rows_per_image or _rows_by_config(image_processor)
        image_processor = make_image_processor(image_processor)
        if rows_per_image is None:
            what = "LLaVADataset needs rows_per_image, if image_processor is not a dict that names a folder"
            raise ConfigError(translate(what))
        self._reader = ImageReader(ImageSource(image_folder), image_processor, pad_image_to_square)
        self.rows_per_image = rows_per_image
        source = offline_processed_text_folder or data_path
        if source is None:
            raise ConfigError(translate("LLaVADataset needs data_path: the file of conversations"))
        is_ready = offline_processed_text_folder is not None
        text = process_hf_dataset(
            load_dataset(str(source)) if is_ready else self.read(str(source), max_dataset_length, seed),
            do_dataset_tokenization=not is_ready,
            tokenizer=tokenizer,
            max_length=max_length,
            dataset_map_fn=dataset_map_fn,
            template_map_fn=template_map_fn,
            max_dataset_length=max_dataset_length,
            pack_to_max_length=False,
            with_image_token=True,
            strict=strict,
            held_out=held_out,
            take_held_out=take_held_out,
        )
        assert isinstance(text, PackedDataset)
        self._images = _count_images(text.store)
        kept = self._with_images(text, strict)
        lengths = text.store.lengths + self._images * (rows_per_image - 1)
        if max_packed_length is None:
            plan = packing.plan_chosen(kept)
        else:
            plan = _pack(kept, lengths, max_packed_length, seed)
        stats = {**text.stats, "packs": len(plan)}
        super().__init__(text.store, plan, stats, text.place, text.row)
        self._lengths = lengths
        self.length = plan.lengths(lengths)

    def read(self, path: str, max_rows: int | None, seed: int) -> Any:
        """The rows of the file `path`, of which at most `max_rows` are taken."""
        return load_dataset(path)

    @property
    def modality_length(self) -> np.ndarray:
        """As `length`, negative for items without an image."""
        has_image = np.add.reduceat(self._images[self.plan.order], self.plan.boundaries[:-1]) > 0
        return np.where(has_image, self.length, -self.length)

    def __getitem__(self, index: int) -> Item:
        index = checked_index(index, len(self))
        samples = [self._sample(int(number)) for number in self.plan[index]]
        images = [pixels for _, _, pixels in samples if pixels is not None]
        ends = itertools.accumulate(len(ids) for ids, _, _ in samples)
        item = {
            "input_ids": np.concatenate([ids for ids, _, _ in samples]),
            "labels": np.concatenate([labels for _, labels, _ in samples]),
            "cumulative_len": [0, *ends],
        }
        return {**item, "pixel_values": torch.cat(images)} if images else item

    def _sample(self, number: int) -> tuple[np.ndarray, np.ndarray, torch.Tensor | None]:
        """Ids with a token for each row of an image, labels, and the pixels of the images."""
        ids, mask = self.store.sample(number)
        pixels = None
        if count := int(self._images[number]):
            row = int(self.store.rows[number])
            try:
                pixels = self._reader.pixels(images_of(self.row(row))[:count])
            except DataError as error:
                # The sample stays, so that all processes go on in step; it has no loss.
                logger.warning(translate("%s: %s: its conversation is not trained"), self.place(row), error)
                pixels, mask = self._reader.blank(count), np.zeros_like(mask)
        repeats = np.where(ids == IMAGE_TOKEN_INDEX, self.rows_per_image, 1)
        labels = np.where(mask, ids, IGNORE_INDEX)
        return np.repeat(ids, repeats), np.repeat(labels, repeats), pixels

    def _with_images(self, text: PackedDataset, strict: bool) -> np.ndarray:
        """The samples whose images are there; the others are counted and logged."""
        shown, rows = np.flatnonzero(self._images), text.store.rows

        def fault(number: int) -> str:
            return self._fault(text.row(int(rows[number])), int(self._images[number]))

        with ThreadPoolExecutor(_READERS) as readers:
            found = dict(zip(shown.tolist(), readers.map(fault, shown, chunksize=256), strict=True))
        faults = {number: what for number, what in found.items() if what}
        if faults:
            named = [f"{text.place(int(rows[number]))}: {what}" for number, what in faults.items()]
            count, total = len(faults), len(text.store)
            if strict or count > total * MAX_FAULTY_FRACTION:
                what = " ({count:,} of {rows:,} rows have a fault)"
                more = translate(what, count=count, rows=total) if count > 1 else ""
                raise DataError(f"{named[0]}{more}")
            what = "data: %d rows are left out, because of their images: %s"
            logger.warning(translate(what), count, "; ".join(named[:NAMED_ROWS]))
        return np.setdiff1d(np.arange(len(text.store)), list(faults))

    def _fault(self, row: Mapping[str, Any], count: int) -> str:
        """What is wrong with the images of a row whose text has `count`, or nothing."""
        names = images_of(row)
        if len(names) < count:
            what = "the text has {count} <image>, and the row {images} images"
            return translate(what, count=count, images=len(names))
        return next((fault for name in names if (fault := self._reader.fault(name))), "")


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Reads images of a source as the pixels that an encoder takes."""

    source: ImageSource
    processor: Any
    square: bool

    def fault(self, image: Any) -> str:
        """Why there is no such image, from its header alone; nothing if it is there."""
        try:
            self.source.size(image)
        except DataError as error:
            return str(error)
        return ""

    def pixels(self, images: Sequence[Any]) -> torch.Tensor:
        """`[images, 3, height, width]`; DataError if one of them cannot be read."""
        found = [self.source.image(image) for image in images]
        if self.square:
            found = [expand_to_square(image, background_of(self.processor)) for image in found]
        found = [bounded_for(image, self.processor, "an image") for image in found]
        return self.processor(images=found, return_tensors="pt")["pixel_values"]

    def blank(self, count: int) -> torch.Tensor:
        """Pixels in place of images that cannot be read."""
        from PIL import Image

        one = self.processor(images=Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"]
        return torch.zeros_like(one).repeat(count, 1, 1, 1)


def images_of(row: Mapping[str, Any]) -> list[Any]:
    """The images of a row, in the forms that `ImageSource` takes."""
    found = row.get("image", row.get("images"))
    if found is None or found == "":
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _count_images(store: Any) -> np.ndarray:
    assert isinstance(store, TokenStore)
    starts = np.concatenate([[0], np.cumsum(store.lengths)[:-1]])
    return np.add.reduceat(store.ids == IMAGE_TOKEN_INDEX, starts, dtype=np.int64)


def _pack(kept: np.ndarray, lengths: np.ndarray, limit: int, seed: int) -> packing.PackPlan:
    if lengths[kept].max(initial=0) > limit:
        what = "a conversation has {longest} tokens with its images, more than max_packed_length = {limit}"
        raise DataError(translate(what, longest=int(lengths[kept].max()), limit=limit))
    plan = packing.plan_packs(lengths[kept], limit, seed)
    return packing.PackPlan(kept[plan.order], plan.boundaries)


def _rows_by_config(cfg: Mapping[str, Any]) -> int | None:
    from transformers.utils import cached_file

    path = cfg.get("pretrained_model_name_or_path")
    found = path and cached_file(str(path), "config.json", _raise_exceptions_for_missing_entries=False)
    if not found:
        return None
    config = read_json(Path(found))
    config = config.get("vision_config", config)
    if "image_size" not in config or "patch_size" not in config:
        return None
    return (config["image_size"] // config["patch_size"]) ** 2
