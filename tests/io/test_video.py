"""Video: every frame by its number, whatever the order in which frames are asked for."""

import struct
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from napari_medseg.case import InputError
from napari_medseg.io import open_images, video
from tests.io.picture_cases import FRAMES, HEIGHT, WIDTH, clip, number_of, picture

CLIPS = [
    ("a.mp4", "libx264", {}),
    ("a.mov", "libx264", {"x264-params": "open-gop=1:bframes=3"}),
    ("a.mkv", "libx264", {}),
    ("a.mp4", "mpeg4", {}),
    ("a.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
    ("a.avi", "mpeg4", {}),
    ("a.avi", "libx264", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), CLIPS)
def test_every_frame_in_any_order(tmp_path, name, codec, options):
    clip(tmp_path / name, codec, **options)
    (found,) = open_images(tmp_path / name)
    assert found.axes == "tyxc"
    assert found.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert found.seconds_per_frame == pytest.approx(0.04, rel=1e-3)
    assert found.geometry.spacing is None
    order = [*np.random.default_rng(1).permutation(FRAMES).tolist(), 60, 0, 59, 58, 57, 1, 0, 60]
    frames = found.levels[0]
    frames._capacity = 4  # so that most of them have to be decoded again
    assert [number_of(frames[k]) for k in order] == order
    assert [number_of(f) for f in frames[20:45:3]] == list(range(20, 45, 3))
    assert number_of(frames[-1]) == FRAMES - 1


def test_pixels_are_those_of_the_file(tmp_path):
    clip(tmp_path / "a.mp4")
    (found,) = video.read(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        expected = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    np.testing.assert_array_equal(found.levels[0][30], expected[30])
    np.testing.assert_array_equal(
        found.read((slice(10, 50), slice(8, 90)), frame=41), np.moveaxis(expected[41][10:50, 8:90], -1, 0)
    )
    assert np.abs(found.levels[0][7].astype(int) - picture(7)).mean() < 5


def test_threads_get_their_own_frames(tmp_path):
    clip(tmp_path / "a.mp4")
    frames = video.read(tmp_path / "a.mp4")[0].levels[0]
    wanted = [5, 50, 17, 3, 44, 60, 0, 29] * 3
    with ThreadPoolExecutor(4) as pool:
        assert [number_of(f) for f in pool.map(lambda k: frames[k], wanted)] == wanted


def test_uneven_frame_times_are_said(tmp_path):
    times = np.cumsum([0, *([20, 20, 110] * 20)]).tolist()
    clip(tmp_path / "a.mkv", times=times)
    (found,) = video.read(tmp_path / "a.mkv")
    assert any("unevenly" in said for said in found.warnings)
    assert found.seconds_per_frame == pytest.approx(0.05, rel=0.01)
    assert [number_of(found.levels[0][k]) for k in (40, 3, 60)] == [40, 3, 60]


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_recorders_rotation_is_applied(tmp_path, degrees):
    """The matrix of the track header says how a player turns the picture, clockwise."""
    clip(tmp_path / "a.mp4", frames=3)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    a, b, c, d = {0: (one, 0, 0, one), 90: (0, one, -one, 0), 180: (-one, 0, 0, -one)}[degrees]
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "b.mp4").write_bytes(content)
    straight = video.read(tmp_path / "a.mp4")[0].levels[0][1]
    np.testing.assert_array_equal(video.read(tmp_path / "b.mp4")[0].levels[0][1], np.rot90(straight, -degrees // 90))


def test_file_that_ends_too_early(tmp_path):
    clip(tmp_path / "a.mp4")
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"^b\.mp4: .*damaged"):
        video.read(tmp_path / "b.mp4")
    clip(tmp_path / "c.mp4", container={"movflags": "faststart"})
    content = (tmp_path / "c.mp4").read_bytes()
    (tmp_path / "d.mp4").write_bytes(content[: int(len(content) * 0.8)])
    (found,) = video.read(tmp_path / "d.mp4")
    assert any("cut short" in said for said in found.warnings)
    assert found.frame_count < FRAMES
    assert [number_of(found.levels[0][k]) for k in (5, 20)] == [5, 20]


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"^a\.mp4: has no video track"):
        video.read(tmp_path / "a.mp4")


def test_playlists_are_not_followed(tmp_path):
    clip(tmp_path / "real.mp4", frames=3)
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n")
    with pytest.raises(InputError, match=r"^a\.mp4: holds plain text"):
        video.read(tmp_path / "a.mp4")


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_learned_order_makes_going_back_cheap(tmp_path, codec):
    """An AVI file does not say when frames are shown; once seen, a frame is found from its key frame."""
    clip(tmp_path / "a.avi", codec)
    frames = video.read(tmp_path / "a.avi")[0].levels[0]
    frames._capacity = 2
    assert number_of(frames[58]) == 58
    decoded = []
    real = frames._number_of
    frames._number_of = lambda frame: decoded.append(1) or real(frame)
    for number in (40, 30, 59, 1):
        decoded.clear()
        assert number_of(frames[number]) == number
        assert len(decoded) <= 26  # two groups of 12 and what is reordered
