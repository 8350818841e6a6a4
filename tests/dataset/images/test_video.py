"""Frames of videos as images."""

from __future__ import annotations

import shutil
import sys
import wave

import numpy as np
import pytest

from tests import vision
from tests.video import save_clip
from xtuner.dataset import VisionLanguageDataset
from xtuner.dataset.images.source import ImageSource
from xtuner.dataset.map_fns.images import IMAGE_MARK, with_frames, with_marks
from xtuner.errors import ConfigError, DataError
from xtuner.image_processor import load_processor


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("video") / "clip.mp4")


def brightness(image):
    return round((float(np.asarray(image).mean()) - 20) / 28)


@pytest.mark.parametrize(
    ("count", "wanted"), [(8, [1, 2, 3, 4, 5, 6, 7, 7]), (4, [1, 3, 5, 7]), (2, [2, 6]), (1, [4])]
)
def test_frames_are_at_equal_distances(clip, count, wanted):
    """Each is the first at or after the middle of its part of the video."""
    source = ImageSource(clip.parent)
    names = [f"clip.mp4#frame={number}/{count}" for number in range(1, count + 1)]
    assert [brightness(source.image(name)) for name in names] == wanted
    assert {source.size(name) for name in names} == {(96, 64)}
    assert len({source.identity(name) for name in names}) == count


def decoded(path):
    """All frames of a video, and their times as fractions of its length."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        start = float((stream.start_time or 0) * stream.time_base)
        own = stream.duration and float(stream.duration * stream.time_base)
        seconds = own or container.duration / 1_000_000
        frames = list(container.decode(stream))
        return [frame.to_image() for frame in frames], [(frame.time - start) / seconds for frame in frames]


@pytest.mark.parametrize("keyframes", [1, 3, 12])
@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "mpeg4"), ("avi", "mpeg4"), ("mkv", "libx264"), ("mp4", "libx264"), ("ts", "libx264")],
)
def test_several_frames_at_once(kind, codec, keyframes, tmp_path):
    """In any order and among images: each is the first of all decoded ones at its time or later.

    Formats without an index (ts) find keyframes by guesses, which may be behind.
    """
    numbers = [1, 2, 3, 5, 9, 9, 4, 8]
    wanted = []
    for name, first in (("a", 20), ("b", 30)):
        path = save_clip(tmp_path / f"{name}.{kind}", first, keyframes, codec)
        images, times = decoded(path)
        for number in numbers:
            at = (number - 0.5) / 9 - 1e-6
            wanted.append(next((i for i, t in zip(images, times, strict=True) if t >= at), images[-1]))
    wanted[0].save(tmp_path / "1.png")
    names = [f"{name}.{kind}#frame={number}/9" for name in "ab" for number in numbers]
    more = [(names[2], wanted[2]), ("1.png", wanted[0]), (names[10], wanted[10]), (names[1], wanted[1])]
    names, wanted = [*names, *(name for name, _ in more)], [*wanted, *(image for _, image in more)]
    source = ImageSource(tmp_path)
    assert [image.tobytes() for image in source.images(names)] == [image.tobytes() for image in wanted]
    assert [source.image(name).tobytes() for name in names] == [image.tobytes() for image in wanted]
    assert len({image.tobytes() for image in wanted}) >= 10


def test_frames_of_a_video_in_an_archive(clip, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "clips"), "zip", clip.parent)
    assert brightness(ImageSource(archive).image("clip.mp4#frame=1/2")) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There is no image"), (b"no video", "cannot be read"), (b"", "cannot be read")],
)
def test_what_is_no_video_is_one_line(clip, tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=message):
        ImageSource(tmp_path).image("a.mp4#frame=1/2")


def test_a_file_of_sound_is_no_video(tmp_path):
    """The message names the file once."""
    with wave.open(str(tmp_path / "a.mp4"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0" * 8000)
    with pytest.raises(DataError) as error:
        ImageSource(tmp_path).image("a.mp4#frame=1/2")
    assert str(error.value) == f"{tmp_path}/a.mp4 has no pictures: it is no video"


def test_names_that_others_send_are_no_videos(clip):
    """A server decodes images alone."""
    with pytest.raises(DataError, match="There is no image"):
        ImageSource(clip.parent, is_confined=True).image("clip.mp4#frame=1/2")


def test_a_large_video_is_refused(clip, monkeypatch):
    monkeypatch.setattr("xtuner.dataset.images.video.MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(DataError, match="has 96 x 64 pixels: scale it down"):
        ImageSource(clip.parent).image("clip.mp4#frame=1/2")


def test_without_the_package_its_command_is_named(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"PyAV, which is not installed: .* install 'av>=14'"):
        ImageSource(clip.parent).image("clip.mp4#frame=1/2")


FRAMES = ["a.mp4#frame=1/2", "a.mp4#frame=2/2"]


@pytest.mark.parametrize(
    "row",
    [
        {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat?"}]},
        {"videos": ["a.mp4"], "conversations": [{"from": "human", "value": "<video>\nWhat?"}]},
        {"video": {"path": "a.mp4"}, "conversations": [{"from": "human", "value": "<video>\nWhat?"}]},
    ],
)
def test_a_field_of_videos(row):
    """A mark in the text is as many of images as there are frames."""
    found = with_frames(row, 2)
    assert found == {
        "images": FRAMES,
        "conversations": [{"from": "human", "value": "<image><image>\nWhat?"}],
    }


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("<image>A <video>B <image>C", ["1.png", *FRAMES, "2.png"]),
        ("<video><image><image>", [*FRAMES, "1.png", "2.png"]),
    ],
)
def test_images_and_videos_are_in_the_order_of_the_text(text, images):
    row = {
        "images": ["1.png", "2.png"],
        "video": "a.mp4",
        "conversations": [{"from": "human", "value": text}],
    }
    found = with_frames(row, 2)
    assert found["images"] == images
    assert found["conversations"][0]["value"] == text.replace("<video>", "<image><image>")
    assert row["video"] == "a.mp4"


def test_parts_of_messages(tmp_path):
    """Images and videos keep their order."""
    parts = [
        {"type": "image", "image": "1.png"},
        {"type": "video_url", "video_url": {"url": "a.mp4"}},
        {"type": "video", "video": "a.mp4"},
        {"type": "text", "text": "What?"},
    ]
    row = {"messages": [{"role": "user", "content": parts}]}
    changed, images = with_marks(with_frames(row, 2))
    assert images == ["1.png", *FRAMES, *FRAMES]
    texts = [part["text"] for part in changed["messages"][0]["content"]]
    assert texts == [*[IMAGE_MARK] * 5, "What?"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": "a.mp4", "image": "1.png"}, "images and videos: write <image> and <video>"),
        ({"video": 3}, "3 is no video: give the path of a file"),
    ],
)
def test_a_row_that_cannot_be_meant_is_an_error(row, message):
    with pytest.raises(DataError, match=message):
        with_frames(row, 2)


def test_a_video_trains_as_its_frames_do(clip, tmp_path, tokenizer):
    """The item is that of a row with the frames as images."""
    folder = vision.save("qwen2_5_vl", tmp_path / "model", tokenizer)
    source = ImageSource(clip.parent)
    names = []
    for number in (1, 2, 3):
        source.image(f"clip.mp4#frame={number}/3").save(clip.parent / f"{number}.png")
        names.append(f"{number}.png")
    talk = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "It gets brighter."}]
    rows = [
        {"video": "clip.mp4", "conversations": talk},
        {"images": names, "conversations": [{**talk[0], "value": "<image><image><image>\nWhat?"}, talk[1]]},
    ]
    items = [
        VisionLanguageDataset(
            [row],
            load_processor(folder),
            image_folder=str(clip.parent),
            video_frames=3,
            pack_to_max_length=False,
        )[0]
        for row in rows
    ]
    assert items[0]["input_ids"].tolist() == items[1]["input_ids"].tolist()
    assert items[0]["labels"].tolist() == items[1]["labels"].tolist()
    (one,), (other,) = (item["image_inputs"] for item in items)
    assert all((one[name] == other[name]).all() for name in one)
