"""Frames of videos: which ones, their times, and what is wrong with a file."""

import sys

import numpy as np
import pytest
from PIL import Image

from xtuner.dataset.images import video as module
from xtuner.dataset.images.video import sample_frames
from xtuner.errors import DataError
from xtuner.extras import install_extra


def test_without_pyav_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError) as error:
        sample_frames(tmp_path / "a.mp4", num_frames=1)
    assert str(error.value) == f"{tmp_path}/a.mp4: reading videos needs PyAV: {install_extra('video')}"


av = pytest.importorskip("av")


def write(path, count=20, rate=10, size=(32, 16), codec="mpeg4", key_every=6, rotation=0, **options):
    """A video whose frame `i` is grey of brightness `10 * i`."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = key_every
        stream.bit_rate = 10**6
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(count):
            values = np.full((size[1], size[0], 3), 10 * i, dtype=np.uint8)
            values[: size[1] // 2, : size[0] // 2] = 255  # the upper left corner
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values)))
        container.mux(stream.encode())
    return path


def numbers(frames):
    """The numbers of the frames, by their brightness."""
    return [round(np.asarray(image)[-4:, -4:].mean() / 10) for image in frames.images]


@pytest.fixture(params=["mp4", "mkv", "avi"])
def video(request, tmp_path):
    return write(tmp_path / f"v.{request.param}")


def test_frames_are_evenly_spaced(video):
    """With the first and the last; all of them if there are fewer; the middle one alone."""
    frames = sample_frames(video, num_frames=4)
    assert (numbers(frames), frames.duration) == ([0, 6, 13, 19], pytest.approx(2.0))
    assert frames.times == pytest.approx([0, 0.6, 1.3, 1.9])
    assert {(image.mode, image.size) for image in frames.images} == {("RGB", (32, 16))}
    assert numbers(sample_frames(video, num_frames=99)) == list(range(20))
    assert numbers(sample_frames(video, num_frames=1)) == [9]
    assert numbers(sample_frames(video, num_frames=8, max_frames=2)) == [0, 19]
    assert numbers(sample_frames(video.read_bytes(), num_frames=2)) == [0, 19]


def test_frames_of_each_second(video):
    """The frame that is shown at each time; at most a number of them, evenly spaced; each once."""
    frames = sample_frames(video, fps=4)
    assert numbers(frames) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert frames.times == pytest.approx([0, 0.2, 0.5, 0.7, 1.0, 1.2, 1.5, 1.7])
    assert numbers(sample_frames(video, fps=4, max_frames=3)) == [0, 10, 17]
    assert numbers(sample_frames(video, fps=30)) == list(range(20))
    assert numbers(sample_frames(video, fps=0.1)) == [0]


def test_frames_between_key_frames_with_frames_that_need_later_ones(tmp_path):
    """Encoders store frames in another order than they are shown."""
    try:
        path = write(tmp_path / "v.mp4", codec="libx264", key_every=12)
    except av.FFmpegError:
        pytest.skip("this build of PyAV has no H.264 encoder")
    for chosen in ({"num_frames": 7}, {"num_frames": 20}, {"fps": 5}):
        frames = sample_frames(path, **chosen)
        assert numbers(frames) == [round(time * 10) for time in frames.times]
        assert len(frames.images) == len(set(frames.times))


@pytest.mark.parametrize(("rotation", "corner"), [(90, (0, -1)), (180, (-1, -1)), (-90, (-1, 0))])
def test_a_video_of_a_phone_is_upright(tmp_path, rotation, corner):
    """The file says by how much it is turned; the white corner is where players show it."""
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV does not write rotations")
    path = write(tmp_path / "v.mp4", rotation=rotation)
    (image,) = sample_frames(path, num_frames=1).images
    assert image.size == ((32, 16) if rotation == 180 else (16, 32))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    turned = np.asarray(Image.fromarray(frame.to_ndarray(format="rgb24")).rotate(frame.rotation, expand=True))
    white = {(y, x) for y in (0, -1) for x in (0, -1) if np.asarray(image)[y, x].min() > 200}
    assert white == {(y, x) for y in (0, -1) for x in (0, -1) if turned[y, x].min() > 200}
    assert len(white) == 1


def test_frames_are_shrunk_to_a_number_of_pixels(tmp_path, monkeypatch):
    """All of a video together."""
    monkeypatch.setattr(module, "MAX_VIDEO_PIXELS", 32 * 16)
    frames = sample_frames(write(tmp_path / "v.mp4"), num_frames=4)
    assert {image.size for image in frames.images} == {(16, 8)}


def test_a_video_that_is_damaged_is_one_line(video):
    """Cut off or changed anywhere: frames, or a DataError with its name."""
    data = video.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 40)):
        for damaged in (data[:at], data[:at] + bytes(40) + data[at + 40 :]):
            error = error_of(damaged)
            assert error is None or ("\n" not in error and "a video" in error)
    video.write_bytes(data[: len(data) // 3])
    if video.suffix == ".mp4":
        with pytest.raises(DataError, match=rf"the video {video} cannot be read: "):
            sample_frames(video, num_frames=3)


def error_of(data):
    try:
        sample_frames(data, num_frames=5, name="a video")
    except DataError as error:
        return str(error)
    return None


def test_a_video_that_is_cut_off_is_found_by_its_list_of_frames(tmp_path):
    """If the list is at the start, as it is for the web."""
    path = write(tmp_path / "v.mp4", movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(DataError, match=r"the video .*v\.mp4 is cut off: it has \d+ of 20 frames"):
        sample_frames(path, num_frames=3)


def test_other_files_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"There is no video .*no\.mp4"):
        sample_frames(tmp_path / "no.mp4", num_frames=1)
    (tmp_path / "text.mp4").write_text("a cat")
    with pytest.raises(DataError, match=r"the video .*text\.mp4 cannot be read: Invalid data"):
        sample_frames(tmp_path / "text.mp4", num_frames=1)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(DataError, match=r"the video .*list\.m3u8 (cannot be read|has no)"):
        sample_frames(playlist, num_frames=1)
