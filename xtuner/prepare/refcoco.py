"""Convert RefCOCO's annotations to one file of images, sentences and boxes.

    refcoco_annotations/            [{"id": "refcoco_12", "image": "coco/train2017/000000098304.jpg",
        refcoco/refs(unc).p           "sents": ["the man on the left"], "bbox": [x, y, w, h],
        refcoco/instances.json        "height": 480, "width": 640}, ...]
        refcoco+/ refcocog/  ...

The annotations are pickles. They are read by an unpickler that makes lists, dicts, sets, numbers and text,
and refuses to look up anything else, so no file can run code.
"""

from __future__ import annotations

import collections
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtuner.errors import DataError, NotFoundError
from xtuner.language import translate
from xtuner.log import logger
from xtuner.prepare.writing import LeftOut, check_target, new_rows, progress_bar

SOURCES = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
IMAGES = "coco/train2017"

# These files were written by Python 2, whose builtins are `__builtin__`.
_CONTAINERS = {
    (module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)
} | {("collections", "OrderedDict"): collections.OrderedDict}


class PlainUnpickler(pickle.Unpickler):
    """An unpickler of containers, numbers and text that refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The container of that name; UnpicklingError for anything else."""
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        raise pickle.UnpicklingError(
            translate("it contains {name}, but only plain data is read", name=f"{module}.{name}")
        )


def load_plain(path: Path) -> Any:
    """The content of a pickle of plain data; DataError for any other."""
    try:
        with open(path, "rb") as file:
            return PlainUnpickler(file, encoding="utf-8", errors="replace").load()
    except FileNotFoundError:
        raise NotFoundError(translate("there is no {path}", path=path)) from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
    ) as e:
        raise DataError(translate("{path} is refused: {error}", path=path, error=e)) from e


def convert_refcoco(
    annotations: Path, images: Path, folder: Path, force: bool = False, split: str = "train"
) -> tuple[Path, int, dict[str, Any], LeftOut]:
    """The file written, its number of items, the first one, and what was left out."""
    target = folder / f"{split}.json"
    check_target(target, (), force)
    present = [name for name in SOURCES if (annotations / name).is_dir()]
    if not present:
        raise NotFoundError(
            translate(
                "{annotations} has none of the folders {names}",
                annotations=annotations,
                names=", ".join(SOURCES),
            )
        )
    for name in SOURCES.keys() - set(present):
        logger.warning(translate("there is no %s: it is left out"), annotations / name)
    if not images.is_dir():
        raise NotFoundError(
            translate(
                "there is no folder of images {images}: --image-path names COCO's train2017", images=images
            )
        )
    left_out = LeftOut()
    seen: set[str] = set()
    first: dict[str, Any] = {}
    with progress_bar(translate("annotations")) as advance, new_rows(target) as [rows]:
        for name in present:
            for item in _items(annotations / name, name, SOURCES[name], left_out, split):
                content = json.dumps({**item, "id": None}, sort_keys=True)
                if content in seen:
                    left_out.add(translate("the same image, box and sentences as another"), item["id"])
                elif not (images / Path(item["image"]).name).is_file():
                    left_out.add(
                        translate("the image is not in {folder}", folder=images), Path(item["image"]).name
                    )
                else:
                    seen.add(content)
                    first = first or item
                    rows.write(item)
                    advance(0, rows.count)
        if not rows.count:
            what = (
                "{annotations} has no item for training. {left_out}"
                if split == "train"
                else "{annotations} has no item of the split {split}. {left_out}"
            )
            raise DataError(translate(what, annotations=annotations, split=split, left_out=left_out))
    return target, rows.count, first, left_out


def _items(folder: Path, name: str, split_by: str, left_out: LeftOut, split: str) -> Iterator[dict[str, Any]]:
    """The items of a split of one of the data sets; those not for training name it."""
    refs = load_plain(folder / f"refs({split_by}).p")
    try:
        instances = json.loads((folder / "instances.json").read_text("utf-8"))
        images = {image["id"]: image for image in instances["images"]}
        boxes = {box["id"]: box for box in instances["annotations"]}
    except FileNotFoundError:
        raise NotFoundError(translate("there is no {path}", path=folder / "instances.json")) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            translate(
                "{path} is not a COCO annotation: {error!r}", path=folder / "instances.json", error=error
            )
        ) from error
    for ref in refs:
        try:
            if ref["split"] != split:
                continue
            image = images[ref["image_id"]]
            yield {
                "id": f"{name}_{ref['ref_id']}",
                "image": f"{IMAGES}/{ref['image_id']:012d}.jpg",
                "sents": [sentence["sent"] for sentence in ref["sentences"]],
                "bbox": boxes[ref["ann_id"]]["bbox"],
                "height": image["height"],
                "width": image["width"],
                **({} if split == "train" else {"split": split}),
            }
        except (KeyError, TypeError) as error:
            number = ref.get("ref_id") if isinstance(ref, dict) else ref
            left_out.add(translate("no {name!r}", name=error.args[0]), f"{name} {number!r:.40}")
