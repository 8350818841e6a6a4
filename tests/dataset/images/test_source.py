"""Images as rows name them: in folders and archives, in the row itself, and what is refused."""

import base64
import gc
import io
import multiprocessing
import os
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from xtuner.dataset.images.source import ImageSource
from xtuner.errors import DataError, NotFoundError

NAMES = ["a.png", "train/b.png", "train/ü c.jpg"]


def image_of(name):
    values = np.random.default_rng(NAMES.index(name)).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(values)


def content(name):
    file = io.BytesIO()
    image_of(name).save(file, "PNG" if name.endswith("png") else "JPEG", quality=95)
    return file.getvalue()


def decoded(name):
    return Image.open(io.BytesIO(content(name))).convert("RGB").tobytes()


@pytest.fixture
def places(tmp_path):
    """The same images in a folder and in archives."""
    folder = tmp_path / "images"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(name))
    for kind, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / f"{kind}.zip", "w", method) as archive:
            for name in NAMES:
                archive.writestr(name, content(name))
    for kind, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{kind}.tar", "w", format=form) as archive:
            archive.add(folder, "./")
    return tmp_path


PLACES = ["images", "stored.zip", "deflated.zip", "gnu.tar", "pax.tar"]


@pytest.mark.parametrize("place", PLACES)
def test_an_image_of_a_folder_or_an_archive(places, place):
    """An archive is a folder: by the source or by the name, whole or from a folder in it."""
    source = ImageSource(places / place)
    for name in NAMES:
        assert source.image(name).tobytes() == decoded(name)
        assert source.size(name) == (7, 5)
    assert ImageSource(places / place / "train").image("b.png").tobytes() == decoded("train/b.png")
    assert ImageSource(places).size(f"{place}/train/b.png") == (7, 5)
    assert ImageSource().size(places / place / "a.png") == (7, 5)


@pytest.mark.parametrize("place", PLACES)
def test_errors_name_the_file_in_one_line(places, place):
    source = ImageSource(places / place)
    for read in (source.image, source.size, source.identity):
        with pytest.raises(DataError, match=r"here is no .*no\.png") as error:
            read("no.png")
        assert str(places / place) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["url", "upper", "bytes", "column", "path", "pillow", "file"])
def test_other_ways_to_name_an_image(places, value):
    data = content("a.png")
    url = base64.b64encode(data).decode()
    values = {
        "url": f"data:image/png;base64,{url}",
        "upper": f"DATA:image/png;BASE64,{url}",
        "bytes": memoryview(data),
        "column": {"bytes": data, "path": None},
        "path": {"bytes": None, "path": str(places / "images" / "a.png")},
        "pillow": Image.open(io.BytesIO(data)),
        "file": (places / "images" / "train" / "ü c.jpg").as_uri(),
    }
    source = ImageSource()
    expected = decoded("train/ü c.jpg" if value == "file" else "a.png")
    assert source.image(values[value]).tobytes() == expected
    assert source.size(values[value]) == (7, 5)


def test_a_column_of_datasets(places):
    """Images of a `datasets` column, decoded or not."""
    import datasets

    files = [str(places / "images" / name) for name in NAMES]
    rows = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    source = ImageSource()
    stored = rows.cast_column("image", datasets.Image(decode=False))
    for index, name in enumerate(NAMES):
        assert source.image(rows[index]["image"]).tobytes() == decoded(name)
        assert source.image(stored[index]["image"]).tobytes() == decoded(name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://host/a.png", "https://host/a.png is not fetched: download the image first"),
        ("s3://host/a.png", "s3://host/a.png is not fetched"),
        ("data:image/png,abc", "must be in base64"),
        ("data:image/png;base64,a*b", "is not base64"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        ({"url": "a.png"}, "is no image: give the path of a file"),
        (None, "None is no image"),
        (b"text", "the image of 4 bytes is not an image"),
        ("a\0.png", "is no image"),
        ("a" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_image_is_one_line(value, message):
    with pytest.raises(DataError, match=message) as error:
        ImageSource().image(value)
    assert "\n" not in str(error.value)


def test_a_source_that_is_not_there():
    with pytest.raises(NotFoundError, match=r"there is no folder or archive of images no\.zip"):
        ImageSource("no.zip")


def test_a_confined_source_reads_its_folder_only(places):
    """Not above it, not by an absolute path or a link; a source of the user's own data reads all."""
    folder = places / "images"
    os.symlink(places / "stored.zip", folder / "link.zip")
    outside = [
        "../images2/a.png",
        "../stored.zip/a.png",
        "/etc/hostname",
        "link.zip/a.png",
        "train/../../x.png",
    ]
    outside += [(folder.parent / "gnu.tar").as_uri(), "~/a.png"]
    source = ImageSource(folder, is_confined=True)
    for name in outside:
        for read in (source.image, source.size, source.identity):
            with pytest.raises(DataError, match="is outside of"):
                read(name)
    assert source.size("train/../a.png") == source.size(str(folder / "a.png")) == (7, 5)
    assert ImageSource(folder).size("../stored.zip/a.png") == (7, 5)
    assert ImageSource(folder).size("link.zip/a.png") == (7, 5)
    with pytest.raises(DataError, match="is outside of"):
        ImageSource(is_confined=True).image("a.png")
    data = {"bytes": content("a.png"), "path": "/etc/passwd"}
    assert source.size(data) == (7, 5)


def test_a_source_that_fetches(places, monkeypatch):
    """An image of the web is downloaded into the cache; if it is not there, that is one line."""
    import http.server
    import threading

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(places / "images"))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        source = ImageSource(fetches=True)
        assert source.image(f"{address}/train/b.png").tobytes() == decoded("train/b.png")
        with pytest.raises(DataError, match=r"no\.png cannot be downloaded"):
            source.image(f"{address}/no.png")
        server.shutdown()
        thread.join()


# --- processes -------------------------------------------------------------------------------------------


def read_all(source):
    return [source.image(name).tobytes() for name in NAMES]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_source_in_other_processes(places, method):
    """Workers read what the parent reads, at the same time; the list of files goes with the source."""
    source = ImageSource(places / "deflated.zip")
    expected = read_all(source)
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(read_all, [source] * 4) == [expected] * 4


def test_threads_read_at_the_same_time(places):
    source = ImageSource(places)
    names = [f"{place}/{name}" for place in PLACES for name in NAMES] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: source.image(name).tobytes(), names))
    assert found == [decoded(name.partition("/")[2]) for name in names]


def test_nothing_stays_open(places):
    """A ResourceWarning, for a file that was not closed, would be an error here."""
    source = ImageSource(places)
    for place in PLACES:
        for name in NAMES:
            source.size(f"{place}/{name}")
            source.image(f"{place}/{name}")
    gc.collect()
    descriptors = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert not any(path.startswith(str(places)) for path in descriptors)


# --- archives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES[1:])
def test_an_archive_that_changes_is_an_error(places, place):
    source = ImageSource(places / place)
    with open(places / place, "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=rf"{place} changed while it was read"):
        source.image("a.png")


@pytest.mark.parametrize("place", PLACES[1:])
def test_a_damaged_archive_is_one_line(places, place):
    data = (places / place).read_bytes()
    at = data.index(b"train/")
    # Cut off in a header or in a file, and a header of nonsense.
    for damaged in (data[: at + 10], data[: at - 3], data[: at + 3] + b"\xff" * 300 + data[at + 303 :]):
        (places / place).write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{place}.* damaged") as error:
            ImageSource(places / place).image("train/b.png")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["stored.zip", "deflated.zip"])
def test_a_changed_byte_in_a_zip_archive_is_found(places, place):
    """By the sum that it keeps of each file."""
    data = bytearray((places / place).read_bytes())
    data[data.index(b"a.png") + 40] ^= 0xFF
    (places / place).write_bytes(data)
    with pytest.raises(DataError, match=rf"{place}/a.png is damaged or cut off"):
        ImageSource(places / place).image("a.png")


def test_a_tar_without_its_end_is_reported(places, caplog):
    """It may have been cut off between two files."""
    data = (places / "gnu.tar").read_bytes().rstrip(b"\0")
    (places / "gnu.tar").write_bytes(data + bytes(-len(data) % 512))
    ImageSource(places / "gnu.tar")
    assert "gnu.tar ends without the mark of its end: it may be cut off" in caplog.text


def test_a_compressed_tar_is_refused(places):
    with tarfile.open(places / "a.tar", "w:gz") as archive:
        archive.add(places / "images", "")
    with pytest.raises(DataError, match=r"a.tar is no .zip or plain .tar archive"):
        ImageSource(places / "a.tar")


def test_another_compression_in_a_zip_is_refused(places):
    with zipfile.ZipFile(places / "b.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", content("a.png"))
    with pytest.raises(DataError, match=r"a.png is encrypted or compressed .*: pack .*b.zip again"):
        ImageSource(places / "b.zip").image("a.png")


def test_the_last_file_of_a_name_counts(places):
    """As when an archive is unpacked."""
    with tarfile.open(places / "twice.tar", "w") as archive:
        for name in ("a.png", "train/b.png"):
            archive.add(places / "images" / name, "x.png")
    assert ImageSource(places / "twice.tar").image("x.png").tobytes() == decoded("train/b.png")


def test_links_in_a_tar_are_counted(places, caplog):
    os.symlink("a.png", places / "images" / "link.png")
    with tarfile.open(places / "links.tar", "w") as archive:
        archive.add(places / "images", "")
    assert len(ImageSource(places / "links.tar")._archives[str(places / "links.tar")]) == 3
    assert "links.tar: 1 link to other files are left out" in caplog.text


def test_the_list_of_files_is_small(tmp_path):
    """29 bytes a file, also pickled."""
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(2000):
            archive.writestr(f"a/long/folder/{number:09}.jpg", b"")
    assert len(pickle.dumps(ImageSource(tmp_path / "many.zip"))) < 2000 * 29 + 2000


@pytest.mark.parametrize("place", PLACES)
def test_the_identity_changes_with_the_content(places, place):
    """Of each image, and when its file is written again."""
    before = {name: ImageSource(places / place).identity(name) for name in NAMES}
    assert len(set(before.values())) == 3
    path = places / place / "a.png" if place == "images" else places / place
    os.utime(path, (1, 1))
    assert ImageSource(places / place).identity("a.png") != before["a.png"]
    assert ImageSource().identity(b"x") == ImageSource().identity(b"x") != ImageSource().identity(b"y")
    assert ImageSource().identity(image_of("a.png")) != ImageSource().identity(image_of("train/b.png"))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "a.png",
            {"setting": "image_folder"},
            "a.png: set image_folder to the folder that this name begins in",
        ),
        (
            "a.png",
            {"folder": ".", "setting": "image_folder"},
            "./a.png: the row names a.png, and image_folder is .",
        ),
        ("/no/a.png", {"folder": ".", "setting": "image_folder"}, "/no/a.png"),
        ("a.png", {}, "a.png"),
    ],
)
def test_a_missing_image_is_said_with_the_setting_that_finds_it(name, options, said, tmp_path, monkeypatch):
    """Where rows name images; a whole path is of no folder."""
    monkeypatch.chdir(tmp_path)
    source = ImageSource(**options)
    for read in (source.image, source.size, source.identity):
        with pytest.raises(DataError) as raised:
            read(name)
        assert str(raised.value) == f"There is no image {said}"
