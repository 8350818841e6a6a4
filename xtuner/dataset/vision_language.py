"""Conversations about images for vision-language models of transformers, by their own processor.

    row       {"messages": [{"role": "user", "content": [{"type": "image_url", ...}, ...]}, ...]}
              {"image": "1.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}
    sample    151652 151655 151655 ... 151653 3838     as the processor tokenises the conversation
    item      ids, labels, boundaries, and for each sample the tensors of its images

The number of tokens of an image follows from its size, or else from its pixels, so lengths and packs are
known before a model exists. The tokens are in the token store; images are read when an item is. A row without
an image is text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xtuner.dataset.encoding.pipeline import MapFn
from xtuner.dataset.huggingface import find_map_fn, process_hf_dataset
from xtuner.dataset.images.processed import ProcessedImages
from xtuner.dataset.images.source import ImageSource
from xtuner.dataset.images.video import check_frames
from xtuner.dataset.items.image_items import ImageItems, count_tokens, joined
from xtuner.dataset.items.packed_dataset import Item, PackedDataset, checked_index
from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING, auto_map_fn
from xtuner.dataset.map_fns.images import place_marks, with_frames, with_image_texts, with_marks
from xtuner.dataset.map_fns.template import chat_messages_map_fn, find_template, template_map_fn
from xtuner.dataset.reading.load import load_dataset
from xtuner.dataset.reading.selection import take_some, take_split
from xtuner.errors import DataError
from xtuner.image_processor import make_processor
from xtuner.language import translate
from xtuner.log import logger
from xtuner.utils import IGNORE_INDEX


class VisionLanguageDataset(ImageItems):
    """Items of one conversation, or packs of them, with the tensors of their images."""

    unbuilt = frozenset({"processor"})

    def __init__(
        self,
        dataset: Any,
        processor: Any,
        max_length: int = 2048,
        image_folder: str | None = None,
        video_frames: int = 8,
        dataset_map_fn: MapFn | str | None = None,
        template: Mapping[str, Any] | str | None = None,
        system: str = "",
        rename_maps: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        max_dataset_length: int | None = None,
        split: str | None = "train",
        pack_to_max_length: bool = True,
        seed: int = 0,
        strict: bool = False,
        held_out: float = 0.0,
        take_held_out: bool = False,
    ) -> None:
        """`dataset`: the path of a file, or rows as for `process_hf_dataset`.

        `processor`: a dict with `pretrained_model_name_or_path`, or a processor of transformers. Images are
        named relative to `image_folder`, a folder or archive, or are in the rows. A video is `video_frames`
        images at equal distances. `template`: a prompt template instead of the tokenizer's own, with `system`
        for rows without one. `max_length` counts the tokens of images. A conversation is never cut within an
        image: it is left out and counted. So are rows whose image is missing; with `strict`, or if there are
        many, these are an error. The other arguments are those of `process_hf_dataset`.
        """
        self._images = ProcessedImages(make_processor(processor))
        self._source = ImageSource(image_folder, setting="image_folder")
        self._map = find_map_fn(dataset_map_fn, "dataset_map_fn", DATASET_FORMAT_MAPPING) or auto_map_fn
        self._renames = dict(rename_maps)
        self._video_frames = check_frames(video_frames)
        self._template = None if template is None else find_template(template)
        self._system = system
        rows = _undecoded(load_dataset(dataset) if isinstance(dataset, str) else dataset)
        chosen = take_some(take_split(rows, split), max_dataset_length, seed)
        text = process_hf_dataset(
            rows,
            tokenizer=self._images.tokenizer,
            max_length=max_length,
            dataset_map_fn=_Mapping(self, self._identity(chosen)),
            max_dataset_length=max_dataset_length,
            split=split,
            pack_to_max_length=False,
            seed=seed,
            strict=strict,
            held_out=held_out,
            take_held_out=take_held_out,
        )
        assert isinstance(text, PackedDataset)
        counts = count_tokens(text.store, self._images.token_id)
        self._num_images: dict[int, int] = {}  # of samples that are cut
        kept = self._whole_images(text, counts, max_length)
        limit = max_length if pack_to_max_length else None
        super().__init__(text, kept, counts, text.store.lengths, limit, seed)

    def _identity(self, rows: Any) -> str:
        """A hash that changes if an image of the rows does, or if a missing one is there."""
        digest = hashlib.blake2b(digest_size=16)
        for _, read in rows.unread():
            try:
                for image in self.marked(read())[1]:
                    digest.update(repr(self._source.identity(image)).encode("utf-8", "surrogatepass"))
            except DataError as error:
                digest.update(str(error).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def marked(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """The row with marks instead of images, and its images."""
        renamed = {self._renames.get(name, name): value for name, value in row.items()}
        return with_marks(with_frames(renamed, self._video_frames))

    def _mapped(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """The row as the map function leaves it, with marks instead of images, and its images."""
        marked, images = self.marked(row)
        texts_only = {name: value for name, value in marked.items() if name not in ("image", "images")}
        return {**marked, **self._map(texts_only)}, images

    def messages(self, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The messages of the row, with marks instead of images."""
        found, _ = self._mapped(row)
        talk = chat_messages_map_fn(found)["conversation"] if found["conversation"] else []
        return list(talk[0]["messages"]) if talk else []

    def conversation(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with the text of each image: as messages for the chat template, or in the template."""
        found, images = self._mapped(row)
        if not found["conversation"]:
            return {"conversation": []}
        texts = self._texts(images)
        if self._template is not None:
            turns = with_image_texts(found["conversation"], texts, self._system)
            written = template_map_fn({"conversation": turns}, self._template)["conversation"]
            return {"conversation": [{**turn, "system": ""} for turn in written]}
        talk = chat_messages_map_fn(found)["conversation"]
        if not talk:
            return {"conversation": []}
        messages = place_marks(talk[0]["messages"], len(images))
        more = {"image_token": self._images.token, "image_texts": texts}
        return {"conversation": [{**talk[0], "messages": messages, **more}]}

    def _texts(self, images: Sequence[Any]) -> list[str]:
        if images and self._images.depends_on_pixels:
            return self._images.texts_of([self._source.image(image) for image in images])
        return self._images.texts([self._source.size(image) for image in images])

    def __getitem__(self, index: int) -> Item:
        index = checked_index(index, len(self))
        samples = [self._sample(int(number)) for number in self.plan[index]]
        item = joined((ids, labels) for ids, labels, _ in samples)
        if any(inputs for _, _, inputs in samples):
            item["image_inputs"] = [inputs for _, _, inputs in samples]
        return item

    def _sample(self, number: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any] | None]:
        """Ids, labels, and the tensors of the images or None."""
        ids, mask = self.store.sample(number)
        inputs = None
        if count := int(self._num_image_tokens[number]):
            row = int(self.store.rows[number])
            try:
                inputs = self._inputs(number, self.row(row), count)
            except DataError as error:
                # The sample stays, so that all processes go on in step; it has no image and no loss.
                logger.warning(translate("%s: %s: its conversation is not trained"), self.place(row), error)
                ids, mask = np.where(ids == self._images.token_id, 0, ids), np.zeros_like(mask)
        return ids, np.where(mask, ids, IGNORE_INDEX).astype(np.int64), inputs

    def _inputs(self, number: int, row: Mapping[str, Any], num_tokens: int) -> dict[str, Any]:
        named = self.marked(row)[1]
        images = list(self._source.images(named[: self._num_images.get(number, len(named))]))
        return self._images.inputs(images, num_tokens)

    def _whole_images(self, text: PackedDataset, num_tokens: np.ndarray, max_length: int) -> np.ndarray:
        """The samples that are not cut within an image; the others are counted and logged."""
        broken = []
        for number in np.flatnonzero((text.store.lengths >= max_length) & (text.stats["cut"] > 0)).tolist():
            row = text.row(int(text.store.rows[number]))
            texts = self._texts(self.marked(row)[1])
            ids = self._images.processor.tokenizer(texts or [""], add_special_tokens=False)
            counts = [sum(i == self._images.token_id for i in one) for one in ids["input_ids"]]
            ends = [0, *np.cumsum(counts).tolist()]
            if int(num_tokens[number]) in ends:
                self._num_images[number] = ends.index(int(num_tokens[number]))
            else:
                broken.append(number)
        if broken:
            logger.warning(
                translate("data: %d conversations are left out, because max_length = %d cuts an image: %s"),
                len(broken),
                max_length,
                text.place(int(text.store.rows[broken[0]])),
            )
        if len(broken) == len(text.store):
            raise DataError(
                translate(
                    "max_length = {max_length} cuts an image of every conversation: raise it",
                    max_length=max_length,
                )
            )
        return np.setdiff1d(np.arange(len(text.store)), broken)


class _Mapping:
    """`VisionLanguageDataset.conversation`, with all that its result depends on as its repr.

    The token store is found by that.
    """

    __slots__ = ("_data", "_key")
    __name__ = "VisionLanguageDataset"  # in messages

    def __init__(self, data: VisionLanguageDataset, key: str) -> None:
        self._data, self._key = data, key

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self._data.conversation(row)

    def __repr__(self) -> str:
        processor = self._data._images.processor
        data = self._data
        settings = f"{data._video_frames} {data._renames} {data._template} {data._system!r} {self._key}"
        return f"{type(processor).__name__} {processor.to_json_string()} {settings}"


def _undecoded(rows: Any) -> Any:
    """`rows` of `datasets`, whose columns of images are read as bytes and paths."""
    if isinstance(rows, Mapping):
        kind: Any = type(rows)  # a DatasetDict has methods that a dict has not
        return kind({name: _undecoded(part) for name, part in rows.items()})
    features = getattr(rows, "features", None)
    if not features or not hasattr(rows, "cast_column"):
        return rows
    from datasets import Image, List

    for name, feature in features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            rows = rows.cast_column(name, List(Image(decode=False)))
    return rows
