"""Rows of files -> questions, and the images of rows."""

import io
import json

import pytest
from PIL import Image

from tests.evaluation.vision.pictures import base64_of, choice_rows, drawn, write_json, write_tsv
from xtuner.errors import ConfigError, DataError, NotFoundError
from xtuner.evaluation.vision.benchmarks import BENCHMARKS, check_columns, find_benchmark
from xtuner.evaluation.vision.images import open_image
from xtuner.evaluation.vision.refcoco import REFCOCO, right_box
from xtuner.evaluation.vision.rows import Rows


def questions(path, name, instruction=None):
    benchmark = BENCHMARKS.get(name, REFCOCO)
    rows = Rows(str(path), [path.parent])
    check_columns(benchmark, rows.path, rows.first)
    return rows, rows.questions(lambda row: benchmark.ask(row, instruction), benchmark.index)


def test_the_prompt_of_mmbench(tmp_path):
    """Hint, question, options and instruction, one a line; rotations have the image of their first row."""
    rows, found = questions(write_tsv(tmp_path / "mmbench_dev.tsv", choice_rows()), "mmbench")
    text = "Which colour?\nA. red\nB. blue\nC. green\nD. black\n"
    own = "Answer with the option's letter from the given choices directly."
    assert [question.index for question in found] == [0, 1_000_000, 1, 1_000_001]
    assert found[0].text == f"Look.\n{text}{own}"
    assert found[2].text == text + own
    assert [question.image for question in found] == [0, 0, 2, 2]
    assert len({question.image_key for question in found}) == 2
    assert rows.image(found[1]).size == (80, 60)
    assert "image" not in found[0].row
    spaced = choice_rows(1, 1, question="Which? ", hint=" See:\n")
    _, (found_one,) = questions(write_tsv(tmp_path / "mmbench_spaces.tsv", spaced), "mmbench")
    assert found_one.text.startswith(" See:\n\nWhich? \nA. red\n")
    chinese = choice_rows(question="是什么颜色？")
    _, found = questions(write_tsv(tmp_path / "mmbench_cn.tsv", chinese), "mmbench")
    assert found[2].text == text.replace("Which colour?", "是什么颜色？") + "请直接回答选项字母。"
    _, found = questions(tmp_path / "mmbench_cn.tsv", "mmbench", "Letter:")
    assert found[2].text.endswith("\nD. black\nLetter:")


def test_the_prompts_of_other_benchmarks(tmp_path):
    """An instruction is added unless the question has it."""
    path = write_json(tmp_path / "pope.jsonl", [{"text": "Is it red?", "label": "no"}])
    assert questions(path, "pope")[1][0].text == "Is it red?\nPlease answer yes or no."
    asked = {"question": "Is it red? Please answer yes or no.", "answer": "Yes", "category": "color"}
    path = write_json(tmp_path / "mme.jsonl", [asked])
    assert questions(path, "mme")[1][0].text == asked["question"]
    path = write_json(tmp_path / "vqa.json", {"data": [{"question": "Which word?", "answers": ["a"] * 10}]})
    text = "Which word?\nAnswer the question using a single word or phrase."
    assert questions(path, "textvqa")[1][0].text == text
    row = {
        "image": "a.jpg",
        "sents": ["the man", "left {man}"],
        "bbox": [8, 6, 8, 6],
        "width": 80,
        "height": 60,
    }
    _, found = questions(write_json(tmp_path / "train.json", [row]), "refcoco")
    assert [q.text for q in found] == [f"[refer] give me the location of {text}" for text in row["sents"]]
    assert [(q.index, q.row["box"]) for q in found] == [(0, [10, 10, 20, 20]), ("0_1", [10, 10, 20, 20])]


def test_boxes_of_rows():
    """Pixels with the size of the image; hundredths without; anything else is refused."""
    assert right_box({"bbox": [8.4, 6, 8, 6], "width": 80, "height": 60}) == [10, 10, 20, 20]
    assert right_box({"bbox": [10, 20, 30, 40]}) == [10, 20, 30, 40]
    with pytest.raises(DataError, match=r"bbox is \[1, 2\], but must be four numbers"):
        right_box({"bbox": [1, 2]})


@pytest.mark.parametrize(
    ("name", "row", "benchmark"),
    [
        ("x.tsv", {"question": "", "A": "a", "B": "b"}, "mmbench"),
        ("MMBench_DEV_EN.tsv", {"question": "", "A": "a", "B": "b", "category": "x"}, "mmbench"),
        ("MME.tsv", {"question": "", "answer": "Yes", "category": "color"}, "mme"),
        ("HallusionBench.json", {"question": "", "gt_answer": "1"}, "hallusionbench"),
        ("x.json", {"question": "", "set_id": "0", "figure_id": "1"}, "hallusionbench"),
        ("coco_pope_random.json", {"text": "", "label": "yes"}, "pope"),
        ("x.jsonl", {"question": "", "answer": "No"}, "pope"),
        ("TextVQA_val.json", {"question": "", "answers": ["a"]}, "textvqa"),
        ("x.tsv", {"question": "", "answer": "['a', 'b']"}, "textvqa"),
    ],
)
def test_the_benchmark_of_a_file(name, row, benchmark):
    """By its columns and name."""
    assert find_benchmark(name, row).name == benchmark


def test_an_unknown_benchmark():
    with pytest.raises(
        ConfigError, match=r"unknown \(its columns are question, answer\): name it with --bench"
    ):
        find_benchmark("x.json", {"question": "Which?", "answer": "a dog"})


def test_wrong_files(tmp_path):
    """An empty file, a missing column, an index twice, a row without options or index: one line each."""
    rows = choice_rows()
    (tmp_path / "a.tsv").write_text("index\tA\n")
    with pytest.raises(DataError, match=r"a.tsv has no rows"):
        Rows(str(tmp_path / "a.tsv"), [])
    without = [{k: v for k, v in row.items() if k != "question"} for row in rows]
    with pytest.raises(
        DataError, match=r"b.tsv has no column 'question', which MMBench needs; its columns are i"
    ):
        questions(write_tsv(tmp_path / "b.tsv", without), "mmbench")
    rows[3]["index"] = 1
    with pytest.raises(
        DataError, match=r"c.tsv line 5: the index 1 is also that of .*c.tsv line 4: each quest"
    ):
        questions(write_tsv(tmp_path / "c.tsv", rows), "mmbench")
    rows[3] |= {"index": 9, **dict.fromkeys("ABCD", "")}
    with pytest.raises(DataError, match=r"d.tsv line 5: the row has no options"):
        questions(write_tsv(tmp_path / "d.tsv", rows), "mmbench")
    rows[3]["index"] = ""
    with pytest.raises(DataError, match=r"e.tsv line 5: the row has no index"):
        questions(write_tsv(tmp_path / "e.tsv", rows), "mmbench")


def test_wrong_rows_of_refcoco(tmp_path):
    """A row without sentences or box is named."""
    row = {"image": "a.jpg", "sents": "a man", "bbox": [1, 2, 3, 4]}
    for name, message in (
        ("sents", "the row has no sents"),
        ("bbox", "bbox is None, but must be four numbers"),
    ):
        rows = [row, {key: value for key, value in row.items() if key != name}]
        path = write_json(tmp_path / f"{name}.jsonl", rows)
        with pytest.raises(DataError, match=rf"{name}.jsonl line 2: {message}"):
            questions(path, "refcoco")


def test_images_in_every_form(tmp_path):
    """base64, a data URL, bytes, a file of any folder by its path or name, an image of PIL."""
    image, folder = drawn("red"), tmp_path / "images"
    folder.mkdir()
    image.save(folder / "a.png")
    content = (folder / "a.png").read_bytes()
    text = base64_of(image)
    forms = [text, f"data:image/png;base64,{text}", {"bytes": content, "path": None}, content, image]
    forms += ["a.png", "coco/train2017/a.png", {"bytes": None, "path": "a.png"}]
    for value in forms:
        opened = open_image(value, "row 1", [tmp_path, folder])
        assert (opened.mode, opened.tobytes()) == ("RGB", image.tobytes())
    grey = io.BytesIO()
    Image.new("L", (4, 4)).save(grey, "PNG")
    assert open_image(grey.getvalue(), "row 1", []).mode == "RGB"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no base64!", r"row 1: the image is neither base64 nor the name of a file: no base64!"),
        ("aGVsbG8gd29ybGQ=", r"row 1 is not an image: PNG, JPEG"),
        (base64_of(drawn("red"))[:200], r"the image row 1 is damaged or cut off"),
        (4.5, r"row 1: the image is a float, which cannot be read"),
    ],
)
def test_images_that_cannot_be_read(value, message):
    with pytest.raises(DataError, match=message):
        open_image(value, "row 1", [])


def test_images_of_coco_are_found_in_their_folder(tmp_path):
    """As `preprocess refcoco` names them, or by the name alone."""
    folder = tmp_path / "coco" / "train2017"
    folder.mkdir(parents=True)
    drawn("red").save(folder / "a.png")
    for name in ("a.png", "coco/train2017/a.png"):
        assert open_image(name, "row 1", [tmp_path]).size == (80, 60)


def test_an_image_that_is_not_there(tmp_path):
    with pytest.raises(
        NotFoundError, match=r"There is no image .*coco/a.jpg, which row 1 names: .*--image-folder"
    ):
        open_image("coco/a.jpg", "row 1", [tmp_path])


def test_a_file_of_coco_by_its_id(tmp_path):
    """The original's evaluation files name the image within `img_id`."""
    drawn("red").save(tmp_path / "000000581857.jpg")
    row = {"img_id": "COCO_train2014_000000581857_16", "sents": "a man", "bbox": [1, 2, 3, 4]}
    path = write_json(tmp_path / "refcoco_testA.json", [row])
    rows, (question,) = questions(path, "refcoco")
    assert rows.image(question).size == (80, 60)
    assert rows.file_of(0) == "refcoco_testA"
    assert json.dumps(question.row)
