"""RefCOCO's pickles are data, and nothing in them is run."""

import collections
import json
import os
import pickle

import pytest

from xtuner.errors import DataError, NotFoundError
from xtuner.prepare.refcoco import convert_refcoco, load_plain

PLAIN = [
    {"a": [1, 2.5, None, True], "b": ("x", b"y"), "c": {1, 2}, "d": frozenset({3})},
    collections.OrderedDict(e=10**30),
    "中文",
]


class Opens:
    """Runs a command where an ordinary unpickler reads it."""

    def __reduce__(self):
        return os.system, ("echo harm",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_read(tmp_path, protocol):
    # Protocols below 3 spell bytes as a call, which is not plain data.
    value = PLAIN if protocol > 2 else [{**PLAIN[0], "b": "x"}, *PLAIN[1:]]
    (tmp_path / "p").write_bytes(pickle.dumps(value, protocol))
    assert load_plain(tmp_path / "p") == value


def test_python_2_text_is_read(tmp_path):
    """`[{'split': 'train', 'ref_id': 1L}]` as Python 2 wrote it."""
    (tmp_path / "p").write_bytes(
        b"\x80\x02]q\x00}q\x01(U\x05splitq\x02U\x05trainq\x03U\x06ref_id\x8a\x01\x01ua."
    )
    assert load_plain(tmp_path / "p") == [{"split": "train", "ref_id": 1}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [Opens(), len, pickle.Unpickler, collections.defaultdict(list)])
def test_everything_else_is_refused(tmp_path, value, protocol, capfd):
    (tmp_path / "p").write_bytes(pickle.dumps([value], protocol))
    with pytest.raises(DataError, match=r"is refused: it contains .*, but only plain data is read"):
        load_plain(tmp_path / "p")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04", b"not a pickle", b"cos\nsystem\n(S'x'\ntR.", b"(S'x\n."]
)
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(DataError, match="is refused"):
        load_plain(tmp_path / "p")


def ref(number, image, split="train", box=7, words="a man"):
    return {
        "ref_id": number, "image_id": image, "ann_id": box, "split": split,
        "sentences": [{"sent": words, "raw": words}],
    }  # fmt: skip


def write(folder, name, split_by, refs):
    (folder / name).mkdir(parents=True)
    (folder / name / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, 2))
    instances = {
        "images": [{"id": i, "height": 480, "width": 640} for i in (1, 2)],
        "annotations": [{"id": 7, "bbox": [1.0, 2.0, 3.0, 4.0]}],
    }
    (folder / name / "instances.json").write_text(json.dumps(instances))


@pytest.fixture
def folders(tmp_path):
    images = tmp_path / "train2017"
    images.mkdir()
    (images / "000000000001.jpg").write_bytes(b"")
    return tmp_path / "annotations", images, tmp_path / "out"


def test_the_training_part_of_all_three(folders):
    """The same item again, an image that is missing and a broken one are named; other splits are not ours."""
    annotations, images, out = folders
    write(annotations, "refcoco", "unc", [ref(1, 1), ref(2, 1, "val"), ref(3, 2), ref(4, 1, box=8)])
    write(annotations, "refcoco+", "unc", [ref(1, 1)])
    write(annotations, "refcocog", "umd", [ref(1, 1, words="the man")])
    target, count, first, left_out = convert_refcoco(annotations, images, out)
    item = {
        "id": "refcoco_1",
        "image": "coco/train2017/000000000001.jpg",
        "sents": ["a man"],
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "height": 480,
        "width": 640,
    }
    assert (target, count, first) == (out / "train.json", 2, item)
    assert json.loads(target.read_text()) == [item, {**item, "id": "refcocog_1", "sents": ["the man"]}]
    assert left_out.counts == {
        f"the image is not in {images}": 1,
        "no 8": 1,
        "the same image, box and sentences as another": 1,
    }


def test_another_split(folders):
    """It is a file of its own, whose items name the split."""
    annotations, images, out = folders
    write(annotations, "refcoco", "unc", [ref(1, 1), ref(2, 1, "testA", words="the man")])
    target, count, first, _ = convert_refcoco(annotations, images, out, split="testA")
    assert (target, count) == (out / "testA.json", 1)
    assert (first["id"], first["sents"], first["split"]) == ("refcoco_2", ["the man"], "testA")
    with pytest.raises(DataError, match="has no item of the split testB"):
        convert_refcoco(annotations, images, out, split="testB")


def test_folders_that_are_missing_are_named(folders):
    annotations, images, out = folders
    with pytest.raises(NotFoundError, match=r"has none of the folders refcoco, refcoco\+, refcocog"):
        convert_refcoco(annotations, images, out)
    write(annotations, "refcoco", "unc", [ref(1, 1)])
    with pytest.raises(NotFoundError, match="there is no folder of images"):
        convert_refcoco(annotations, images / "none", out)
    (annotations / "refcoco" / "instances.json").unlink()
    with pytest.raises(NotFoundError, match=r"there is no .*instances.json"):
        convert_refcoco(annotations, images, out)
    assert not list(out.glob("*"))
