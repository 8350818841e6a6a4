"""What a data file with images holds for a vision-language model, as training reads it.

[{"image": "1.jpg", "conversations": [...]}, ...]  ->  image_folder, lengths with the tokens of images
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xtuner.dataset.images.processed import ProcessedImages
from xtuner.dataset.images.source import ImageSource
from xtuner.dataset.map_fns.images import IMAGE_MARK, with_frames, with_marks
from xtuner.dataset.vision_language import VisionLanguageDataset
from xtuner.errors import DataError
from xtuner.image_processor import load_processor
from xtuner.language import translate
from xtuner.proposal.data import DataFacts, Row, short_ones

# Images are looked at for their sizes, which takes longer than a row of text.
_MEASURED = 200
# Longer than any conversation, so that none is cut.
_NO_LIMIT = 2**30


def images_of_rows(rows: Sequence[Row]) -> list[Any]:
    """The images that the rows name."""
    return [image for row in rows for image in _images(row)]


def look_at_images(path: str, num_rows: int, read: Sequence[Row], model: str, template: str) -> DataFacts:
    """The facts of the file, measured by the processor in the folder `model`.

    `template`: the prompt template for a processor without a chat template.
    """
    processor = load_processor(model)
    writes_turns = bool(ProcessedImages(processor).tokenizer.chat_template)
    images = images_of_rows(read[:_MEASURED])
    folder = _folder_of(images, path)
    data = VisionLanguageDataset(
        [dict(row) for row in read[:_MEASURED]],
        processor,
        template=None if writes_turns else template,
        max_length=_NO_LIMIT,
        image_folder=folder,
        pack_to_max_length=False,
    )
    asked = _asked(data, read[:_MEASURED], folder)
    answers = [data.store.sample(int(number))[1].argmax() for number in data.plan.order]
    return DataFacts(
        path=path,
        num_rows=num_rows,
        format_name=translate("conversations with images"),
        why_format=translate(
            "{count} images in the {rows} rows looked at", count=len(images), rows=min(len(read), _MEASURED)
        ),
        map_fn="auto",
        is_text=False,
        lengths=sorted(map(int, data.length)),
        questions=[question for _, question in asked],
        prompts=sorted(map(int, answers)),
        has_images=True,
        image_folder=folder,
        takes_template=not writes_turns,
        shown=[image for image, _ in asked],
    )


def _asked(data: VisionLanguageDataset, rows: Sequence[Row], folder: str | None) -> list[tuple[str, str]]:
    """The files of up to two images, each with a short question about it, as samples during training."""
    found: list[tuple[str, str]] = []
    for row in rows:
        images = _images(row)
        if len(images) != 1 or not isinstance(images[0], str) or not _is_found(images[0], folder):
            continue
        question = next((m for m in data.messages(row) if m["role"] == "user"), None)
        text = str(question["content"]).replace(IMAGE_MARK, "").strip() if question else ""
        name = os.path.join(folder or "", images[0])
        if short_ones([text]) and name not in dict(found):
            found.append((name, text))
        if len(found) == 2:
            break
    return found


def _images(row: Row) -> list[Any]:
    try:
        return with_marks(with_frames(row, 1))[1]
    except DataError:  # reported where the rows are measured
        return []


def _folder_of(images: Sequence[Any], path: str) -> str | None:
    """The folder of relative names: that of the file or `images` in it; None: the working folder."""
    names = [image for image in images if isinstance(image, str)]
    if not names or _is_found(names[0], None):
        return None
    tried = [Path(path).parent, Path(path).parent / "images"]
    for folder in tried:
        if folder.is_dir() and _is_found(names[0], str(folder)):
            return str(folder)
    what = (
        "{path}: there is no image {name!r} in {first}, in {second} or in the working folder: put the file "
        "beside its images, or name them by absolute paths"
    )
    raise DataError(translate(what, path=path, name=names[0], first=tried[0], second=tried[1]))


def _is_found(image: str, folder: str | None) -> bool:
    try:
        ImageSource(folder).size(image)
    except DataError:
        return False
    return True
