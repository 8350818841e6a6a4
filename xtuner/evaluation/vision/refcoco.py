"""RefCOCO: sentences about an object in an image, answered by a box in hundredths.

{"img_id": "COCO_train2014_000000581857_16", "sents": "woman in white", "bbox": [x, y, w, h], "height": ..}
{"image": "coco/train2017/000000581857.jpg", "sents": ["woman in white", ...], "bbox": [x, y, w, h], ..}
{"image": "000000581857.jpg", "sents": "woman in white", "bbox": [10, 20, 30, 40]}      in hundredths
      ->  "[refer] give me the location of woman in white"   ->   "{<10><20><30><40>}"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xtuner.dataset.refcoco_json import to_hundredths
from xtuner.errors import DataError
from xtuner.evaluation.vision.benchmarks import Answered, Benchmark, Scores, cell
from xtuner.evaluation.vision.boxes import find_box, iou
from xtuner.evaluation.vision.rows import Asked, Row
from xtuner.language import translate

REFER = "[refer] give me the location of {}"
THRESHOLD = 0.5


def ask_box(row: Row, instruction: str | None) -> list[Asked]:
    """A question for each sentence of the row, with the right box; `instruction` has {} for the sentence."""
    sentences = row.get("sents")
    sentences = [sentences] if isinstance(sentences, str) else sentences
    if not sentences:
        raise DataError(translate("the row has no {name}", name="sents"))
    box = right_box(row)
    form = REFER if instruction is None else instruction
    return [Asked(form.replace("{}", text), {"sents": text, "box": box}) for text in sentences]


def right_box(row: Row) -> list[int]:
    """The box of a row in hundredths: of pixels if the row has the size of the image, else as it is."""
    bbox = row.get("bbox")
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        raise DataError(translate("bbox is {value!r}, but must be four numbers", value=bbox))
    if row.get("width") and row.get("height"):
        return to_hundredths(bbox, row["width"], row["height"])
    return [int(value) for value in bbox]


def group_of(one: Answered) -> str:
    """The split of a question: its own, else its file; with the data set that its id names."""
    dataset = cell(one.row, "dataset") or cell(one.row, "id").partition("_")[0].partition("-")[0]
    dataset = dataset if dataset.startswith("refcoco") else ""
    split = cell(one.row, "split")
    return " ".join(filter(None, (dataset, split))) if dataset or split else one.file


def score_boxes(answered: Sequence[Answered]) -> Scores:
    """The fraction of boxes with an IoU above 0.5, of all questions and of each split."""
    cells: list[dict[str, Any]] = []
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(answered):
        box = find_box(one.answer)
        overlap = 0.0 if box is None else iou(box, one.row["box"])
        cells.append(
            {"said": "" if box is None else str(box), "iou": overlap, "hit": int(overlap > THRESHOLD)}
        )
        groups.setdefault(group_of(one), []).append(number)
    metrics = {"Acc": _mean([c["hit"] for c in cells]), "mean_iou": _mean([c["iou"] for c in cells])}
    sections = [[_line(translate("Overall"), cells)], []]
    for name, numbers in groups.items():
        own = [cells[number] for number in numbers]
        metrics[name] = _mean([c["hit"] for c in own])
        sections[1].append(_line(name, own))
    if len(groups) == 1:
        sections.pop()
    malformed = sum(not c["said"] for c in cells)
    header = ["Split", "IoU > 0.5 (%)", "Mean IoU", "Malformed"]
    return Scores(metrics, header, sections, cells, malformed, summary=f"Acc: {metrics['Acc']}")


def _line(name: str, cells: Sequence[dict[str, Any]]) -> list[str]:
    malformed = sum(not c["said"] for c in cells)
    hits, overlaps = _mean([c["hit"] for c in cells]), _mean([c["iou"] for c in cells])
    return [name, f"{100 * hits:.1f}", f"{overlaps:.3f}", f"{malformed:,}"]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


REFCOCO = Benchmark(
    "refcoco",
    "RefCOCO",
    [["sents"], ["bbox"], ["image", "img_id"]],
    [],
    ask_box,
    score_boxes,
    ("bbox",),
)
