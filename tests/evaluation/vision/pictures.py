"""Small files of questions about drawn images."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = ["red", "blue", "green", "black"]


def drawn(colour: str, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A circle of `colour` on white."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((20, 15, 60, 45), fill=colour)
    return image


def base64_of(image: Image.Image) -> str:
    """The PNG of `image` in base64."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def write_tsv(path: Path, rows: list[dict]) -> Path:
    """A table with the columns of the first row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return path


def write_json(path: Path, rows: object) -> Path:
    """A JSON file; a list of rows in JSON lines if its name says so."""
    lines = isinstance(rows, list) and path.suffix == ".jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows))
    return path


def choice_rows(count: int = 2, rotations: int = 2, **more: object) -> list[dict]:
    """Rows as MMBench has them: the image is in the first rotation, the others name its index."""
    rows = []
    for number in range(count):
        for turn in range(rotations):
            order = COLOURS[turn:] + COLOURS[:turn]
            colour = COLOURS[number % 4]
            row = {"index": number + turn * 1_000_000}
            row["image"] = number if turn else base64_of(drawn(colour, (80 + number, 60)))
            row |= {"question": "Which colour?", "hint": "" if number else "Look."}
            row |= dict(zip("ABCD", order, strict=True))
            row |= {"answer": "ABCD"[order.index(colour)], "category": "ocr" if number % 2 else "image_style"}
            row["l2-category"] = "coarse_perception" if number % 2 else "logic_reasoning"
            rows.append({**row, "split": "dev", **more})
    return rows
