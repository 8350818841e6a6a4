"""WebDataset shards: files of one name are a row, whose images stay in the archive."""

import io
import json
import tarfile

import pytest
from PIL import Image

from xtuner.data_files import named_files, with_braces
from xtuner.dataset.huggingface import process_hf_dataset
from xtuner.dataset.images.source import ImageSource
from xtuner.dataset.reading.files import Mark
from xtuner.dataset.reading.load import load_dataset
from xtuner.errors import DataError, NotFoundError


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


def write(path, files, form=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(key, **fields):
    return [(f"{key}.png", png("red")), (f"{key}.json", json.dumps(fields).encode())]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_rows_of_a_shard(tmp_path, form):
    """One for each key, in the order of the archive; by iteration, index and resumed reading the same."""
    long = "x" * 150
    files = [*sample("0/a", id=1), ("0/a.txt", "é".encode()), *sample(f"1/{long}", text="b")]
    files += [
        ("c.left.PNG", png("blue")),
        ("c.right.png", png("red")),
        ("c.mp4", b"..."),
        (".hidden.json", b""),
    ]
    shard = write(tmp_path / "s.tar", files, form)
    rows = load_dataset(str(shard), split="train")
    expected = [
        {"__key__": "0/a", "id": 1, "text": "é", "image": f"{shard}/0/a.png"},
        {"__key__": f"1/{long}", "text": "b", "image": f"{shard}/1/{long}.png"},
        {
            "__key__": "c",
            "image": [f"{shard}/c.left.PNG", f"{shard}/c.right.png"],
            "video": f"{shard}/c.mp4",
        },
    ]
    assert list(rows) == [rows[i] for i in range(3)] == expected
    assert (len(rows), rows.place(1)) == (3, f"{shard} row 2")
    (file,) = rows.files
    marks = [found.next for found in file.scan(Mark())]
    for number, mark in enumerate(marks, 1):
        assert [found.read() for found in file.scan(mark)] == expected[number:]
        assert [file.place_at(found.mark) for found in file.scan(mark)] == [
            f"{shard} row {n}" for n in range(number + 1, 4)
        ]
    source = ImageSource()
    assert source.image(rows[0]["image"]).getcolors() == [(6, (255, 0, 0))]
    assert source.size(rows[2]["image"][0]) == (3, 2)


def test_several_shards(tmp_path):
    """By a pattern, with braces, or beside JSON lines."""
    for number in range(3):
        write(tmp_path / f"s-{number:03}.tar", sample(f"{number}", id=number))
    names = [str(tmp_path / f"s-{number:03}.tar") for number in range(3)]
    for name in ("s-*.tar", "s-{000..002}.tar", "s-00{0,1,2}.tar", "s-{000..002}.*"):
        assert [row["id"] for row in load_dataset(str(tmp_path / name), split="train")] == [0, 1, 2]
        assert named_files(str(tmp_path / name)) == names
    (tmp_path / "more.jsonl").write_text('{"id": 3}')
    rows = load_dataset(str(tmp_path / "{s-001.tar,more.jsonl}"), split="train")
    assert [row["id"] for row in rows] == [1, 3]
    with pytest.raises(NotFoundError, match=r"there is no data file .*s-003\.tar"):
        load_dataset(str(tmp_path / "s-{000..003}.tar"))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a{1..3}", ["a1", "a2", "a3"]),
        ("a{08..10}", ["a08", "a09", "a10"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("a{3..1}", []),
        ("{}{a}{1..}", ["{}{a}{1..}"]),
    ],
)
def test_braces(name, names):
    """As a shell fills them in, without the rest of its rules."""
    assert with_braces(name) == names


def test_a_compressed_shard(tmp_path):
    import gzip

    shard = write(tmp_path / "s.tar", sample("a", id=1))
    packed = tmp_path / "s.tar.gz"
    packed.write_bytes(gzip.compress(shard.read_bytes()))
    shard.unlink()
    row = load_dataset(str(packed), split="train")[0]
    assert (row["id"], ImageSource().size(row["image"])) == (1, (3, 2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"{", "Expecting property name"), (b"[1]", "it is no object such as"), (b"\xff", "can't decode")],
)
def test_a_broken_row_names_its_file(tmp_path, content, reason):
    shard = write(tmp_path / "s.tar", [*sample("a", id=1), ("b.json", content)])
    rows = load_dataset(str(shard), split="train")
    assert rows[0]["id"] == 1
    with pytest.raises(DataError, match=rf"s\.tar row 2: b\.json cannot be read: .*{reason}") as error:
        rows[1]
    assert "\n" not in str(error.value)


def test_a_damaged_shard_is_one_line(tmp_path):
    shard = write(tmp_path / "s.tar", [*sample("a", id=1), *sample("b", id=2)])
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"s\.tar is no .zip or plain .tar archive, or a damaged one"):
        list(load_dataset(str(shard), split="train"))


def test_files_that_are_not_read_are_reported(tmp_path, caplog):
    shard = write(tmp_path / "s.tar", [*sample("a", id=1), ("a.npy", b"...")])
    assert load_dataset(str(shard), split="train")[0]["id"] == 1
    assert "s.tar: files of kind .npy are not read" in caplog.text


def test_the_fingerprint_is_of_names_and_texts(tmp_path):
    """It changes with a text and with the name or size of an image."""

    def fingerprint(*files):
        return load_dataset(str(write(tmp_path / "s.tar", files)), split="train").fingerprint()

    first = fingerprint(*sample("a", id=1))
    assert first == fingerprint(*sample("a", id=1))
    assert len({first, fingerprint(*sample("a", id=2)), fingerprint(*sample("b", id=1))}) == 3


def test_shards_are_trained_on(tmp_path, bos):
    """The texts of a shard become samples, with the images' names kept beside them."""
    conversation = [{"input": "Hi", "output": "Hello"}]
    shard = write(tmp_path / "s.tar", sample("a", conversation=conversation))
    items = process_hf_dataset(
        load_dataset(str(shard)), tokenizer=bos, max_length=64, pack_to_max_length=False
    )
    assert items[0]["image"] == f"{shard}/a.png"
