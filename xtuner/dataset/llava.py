"""Conversations about images for LLaVA, with pixels for each `<image>`.

    row          {"image": "1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}
    sample       1 3148 -200 13 5618 ...                  -200 once for each image; max_length counts it so
    item         1 3148 -200 -200 ... -200 13 5618 ...    once for each row that the encoder makes of it
    pixels       one tensor [images, 3, height, width] for each item

A row without an image is text. {"video": "a.mp4", ...} is a row with `video_frames` images, and `<video>` in
its text so many `<image>`. The tokens are in the token store; images are read when an item is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xtuner.dataset.encoding.pipeline import MAX_FAULTY_FRACTION, NAMED_ROWS, MapFn
from xtuner.dataset.huggingface import process_hf_dataset
from xtuner.dataset.images.pixel_cache import PixelCache
from xtuner.dataset.images.shape import bounded_for, expand_to_square
from xtuner.dataset.images.source import ImageSource
from xtuner.dataset.images.video import check_frames
from xtuner.dataset.items.image_items import ImageItems, count_tokens, joined
from xtuner.dataset.items.packed_dataset import Item, PackedDataset, checked_index
from xtuner.dataset.map_fns.images import named_images, with_frames
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import ConfigError, DataError
from xtuner.image_processor import background_of, make_image_processor, num_patches
from xtuner.language import translate
from xtuner.log import logger
from xtuner.model_folder import read_json
from xtuner.utils import IGNORE_INDEX, IMAGE_TOKEN_INDEX

if TYPE_CHECKING:
    from PIL.Image import Image

_READERS = 16  # threads that look for images


class LLaVADataset(ImageItems):
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
        pixel_cache: str | None = None,
        pixel_cache_gb: float = 50.0,
        seed: int = 0,
        strict: bool = False,
        held_out: float = 0.0,
        take_held_out: bool = False,
        video_frames: int = 8,
    ) -> None:
        """`max_length` cuts the text, and counts an image as one token.

        `rows_per_image`: those that the image encoder makes of an image, by default as the config in the
        processor's folder says. `max_packed_length` packs conversations together, up to that many tokens with
        those of the images. `pixel_cache`: a folder that keeps prepared pixels (1.4 MB each at 336 x 336), up
        to `pixel_cache_gb`, so that an image is decoded once. Rows whose image is missing are left out and
        counted; with `strict`, or if there are many, they are an error. `held_out`, `take_held_out`: as of
        `process_hf_dataset`. A video is `video_frames` images at equal distances.
        """
        self._video_frames = check_frames(video_frames)
        self.rows_per_image = rows_per_image or _rows_by_config(image_processor)
        images = ImageSource(image_folder, setting="image_folder")
        processor = make_image_processor(image_processor)
        self.reader = ImageReader(images, processor, pad_image_to_square, pixel_cache, pixel_cache_gb)
        is_ready = offline_processed_text_folder is not None
        source = offline_processed_text_folder or data_path
        if source is None:
            raise ConfigError(translate("LLaVADataset needs data_path: the file of conversations"))
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
            video_frames=video_frames,
        )
        assert isinstance(text, PackedDataset)
        counts = count_tokens(text.store, IMAGE_TOKEN_INDEX)
        lengths = text.store.lengths + counts * (self.rows_per_image - 1)
        kept = self._with_images(text, counts, strict)
        _check_fits(lengths[kept], max_packed_length)
        super().__init__(text, kept, counts, lengths, max_packed_length, seed)
        _log_images(counts[kept], lengths[kept])

    def read(self, path: str, max_rows: int | None, seed: int) -> Any:
        """The rows of the file `path`, of which at most `max_rows` are taken."""
        return load_dataset(path)

    def __getitem__(self, index: int) -> Item:
        index = checked_index(index, len(self))
        samples = [self._sample(int(number)) for number in self.plan[index]]
        images = [pixels for _, _, pixels in samples if pixels is not None]
        if len({pixels.dim() for pixels in images}) > 1:  # some have no stored features
            samples = [self._sample(int(number), stored=False) for number in self.plan[index]]
            images = [pixels for _, _, pixels in samples if pixels is not None]
        item = joined((ids, labels) for ids, labels, _ in samples)
        return {**item, "pixel_values": torch.cat(images)} if images else item

    def images(self) -> Iterator[Any]:
        """The images of all items, as the rows name them."""
        for number in self.plan.order.tolist():
            if count := int(self._num_image_tokens[number]):
                yield from self._images(self.row(int(self.store.rows[number])))[:count]

    def _images(self, row: Mapping[str, Any]) -> list[Any]:
        """The images of a row, in the forms that `ImageSource` takes; frames of videos are among them."""
        return named_images(with_frames(row, self._video_frames))

    def _sample(self, number: int, stored: bool = True) -> tuple[np.ndarray, np.ndarray, torch.Tensor | None]:
        """Ids with a token for each row of an image, labels, and the pixels or features of the images."""
        ids, mask = self.store.sample(number)
        pixels = None
        if count := int(self._num_image_tokens[number]):
            row = int(self.store.rows[number])
            try:
                images = self._images(self.row(row))[:count]
                pixels = self.reader.features(images) if stored else None
                pixels = self.reader.pixels(images) if pixels is None else pixels
            except DataError as error:
                # The sample stays, so that all processes go on in step; it has no loss.
                logger.warning(translate("%s: %s: its conversation is not trained"), self.place(row), error)
                pixels, mask = self.reader.blank(count), np.zeros_like(mask)
        repeats = np.where(ids == IMAGE_TOKEN_INDEX, self.rows_per_image, 1)
        labels = np.where(mask, ids, IGNORE_INDEX)
        return np.repeat(ids, repeats), np.repeat(labels, repeats), pixels

    def _with_images(self, text: PackedDataset, counts: np.ndarray, strict: bool) -> np.ndarray:
        """The samples whose images are there; what is left out is counted and logged."""
        rows, total = text.store.rows, len(text.store)

        def look(number: int) -> tuple[str, bool]:
            try:
                images, count = self._images(text.row(int(rows[number]))), int(counts[number])
            except DataError as error:  # of rows that were tokenised elsewhere
                return str(error), False
            return self._fault(images, count), len(images) > count

        with ThreadPoolExecutor(_READERS) as readers:
            found = list(readers.map(look, range(total), chunksize=256))
        faults = {number: what for number, (what, _) in enumerate(found) if what}
        if faults:
            named = [f"{text.place(int(rows[number]))}: {what}" for number, what in faults.items()]
            if strict or len(faults) > total * MAX_FAULTY_FRACTION:
                what = " ({count:,} of {rows:,} rows have a fault)"
                more = translate(what, count=len(faults), rows=total) if len(faults) > 1 else ""
                raise DataError(f"{named[0]}{more}")
            what = "data: %d rows are left out because of images: %s"
            logger.warning(translate(what), len(faults), "; ".join(named[:NAMED_ROWS]))
        if more_images := [number for number, (_, is_more) in enumerate(found) if is_more]:
            what = "data: %d rows have more images than <image> in the text, or a cut before one: %s"
            places = [text.place(int(rows[number])) for number in more_images[:NAMED_ROWS]]
            logger.warning(translate(what), len(more_images), ", ".join(places))
        return np.setdiff1d(np.arange(total), list(faults))

    def _fault(self, images: Sequence[Any], count: int) -> str:
        """What is wrong with the images of a row whose text has `count`, or nothing."""
        if len(images) < count:
            what = "the text has {count} <image>, and the row {images} images"
            return translate(what, count=count, images=len(images))
        return next((fault for image in images[:count] if (fault := self.reader.fault(image))), "")


class ImageReader:
    """Reads images of a source as the pixels that an encoder takes."""

    def __init__(
        self, source: ImageSource, processor: Any, square: bool, cache: str | None, cache_gb: float
    ) -> None:
        """`cache`: a folder that keeps pixels, so that an image is decoded once for all epochs and runs."""
        self._source, self._processor, self._square = source, processor, square
        self._cache: PixelCache | None = None
        self.stored: PixelCache | None = None  # features of the model's encoder, which the engine gives
        if cache is not None:
            self._cache = PixelCache(cache, int(cache_gb * 1e9), self.settings)

    @property
    def settings(self) -> str:
        """A text that changes if the pixels of an image do."""
        return f"{self._processor.to_json_string()} square={self._square}"

    def identity(self, image: Any) -> tuple[Any, ...]:
        """Plain values that change if the image changes; DataError if it cannot be read."""
        return self._source.identity(image)

    def features(self, images: Sequence[Any]) -> torch.Tensor | None:
        """The stored features `[images, rows, width]`; None if those of one image are not there."""
        if self.stored is None:
            return None
        found = [self.stored.read(self.identity(image)) for image in images]
        missing = [image for image, tensors in zip(images, found, strict=True) if tensors is None]
        for image in missing:
            what = "%.200s: its stored features are missing or damaged: the encoder runs again"
            logger.warning(translate(what), image)
        return None if missing else torch.stack([tensors["features"] for tensors in found if tensors])

    def fault(self, image: Any) -> str:
        """Why there is no such image, from its header alone; nothing if it is there."""
        try:
            self._source.size(image)
        except DataError as error:
            return str(error)
        return ""

    def pixels(self, images: Sequence[Any]) -> torch.Tensor:
        """`[images, 3, height, width]`; DataError if one of them cannot be read."""

        def make(numbers: Sequence[int]) -> Iterator[dict[str, torch.Tensor]]:
            chosen = [images[number] for number in numbers]
            return map(self._process, chosen, self._source.images(chosen))

        if self._cache is None:
            found = list(make(range(len(images))))
        else:
            found = self._cache.get([self.identity(image) for image in images], make)
        return torch.cat([tensors["pixel_values"] for tensors in found])

    def _process(self, value: Any, image: Image) -> dict[str, torch.Tensor]:
        if self._square:
            image = expand_to_square(image, background_of(self._processor))
        name = value if isinstance(value, str) else translate("the image of the row")
        image = bounded_for(image, self._processor, name)
        return {"pixel_values": self._processor(images=image, return_tensors="pt")["pixel_values"]}

    def blank(self, count: int) -> torch.Tensor:
        """Pixels in place of images that cannot be read."""
        from PIL import Image

        one = self._processor(images=Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"]
        return torch.zeros_like(one).repeat(count, 1, 1, 1)


def _log_images(counts: np.ndarray, lengths: np.ndarray) -> None:
    if num_images := int(counts.sum()):
        what = "data: %s images; with them %s tokens, at most %s in a conversation"
        logger.info(translate(what), *(f"{n:,}" for n in (num_images, lengths.sum(), lengths.max())))


def _check_fits(lengths: np.ndarray, limit: int | None) -> None:
    if limit is not None and lengths.max(initial=0) > limit:
        what = "a conversation has {longest} tokens with its images, more than max_packed_length = {limit}"
        raise DataError(translate(what, longest=int(lengths.max()), limit=limit))


def _rows_by_config(image_processor: Any) -> int:
    """The rows that the encoder makes of an image, by the config in the folder that a processor names."""
    from transformers.utils import cached_file

    path = (
        image_processor.get("pretrained_model_name_or_path") if isinstance(image_processor, Mapping) else None
    )
    found = path and cached_file(str(path), "config.json", _raise_exceptions_for_missing_entries=False)
    config = read_json(Path(found)) if found else {}
    config = config.get("vision_config", config)
    if "image_size" not in config or "patch_size" not in config:
        what = "LLaVADataset needs rows_per_image, if image_processor is not a dict that names a folder"
        raise ConfigError(translate(what))
    return num_patches(config["image_size"], config["patch_size"])
