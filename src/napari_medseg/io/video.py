"""Video (MP4, AVI, MOV, MKV) as a lazy ``t y x c`` array with exact frame numbers.

The file is gone through once without decoding, to list when every frame is shown and which can be decoded
on their own. Any frame is then found by decoding from the last such key frame before it.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from napari_medseg.case import Geometry, InputError, MedicalImage, Modality, Source
from napari_medseg.io.content import kind_of, refusal, require_file
from napari_medseg.io.lazy import AnyArray, LazyArray

_ACCEPTED = "MP4, MOV, AVI or Matroska video"
_CONTAINERS = ("MP4 or MOV", "AVI", "Matroska")
# decoded frames kept for stepping back and forth
_CACHE_BYTES = 64_000_000
_DECODER_THREADS = 2
# frame times may differ by this share of the usual distance before they are called uneven
_UNEVEN = 0.1


@dataclass(frozen=True)
class FrameIndex:
    """When every frame is shown, in ticks of `time_base` and in the order of display.

    `times` is empty for files that do not say (AVI with reordered frames): their frames can only be counted.
    `keys` holds, for each key frame, its position in display order and the time to seek to.
    """

    count: int
    times: tuple[int, ...]
    keys: tuple[tuple[int, int], ...]
    time_base: Fraction
    seconds_per_frame: float | None
    warnings: tuple[str, ...]


class VideoFrames(LazyArray):
    """The frames as ``(t, y, x, c)`` RGB bytes. Safe to use from several threads; they take turns."""

    def __init__(self, path: Path, index: FrameIndex) -> None:
        self._path, self._index = path, index
        self._lock = threading.RLock()
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._position = -1
        self._recent: OrderedDict[int, AnyArray] = OrderedDict()
        self._capacity = 1
        first = self._frame(0)
        self._capacity = max(2, _CACHE_BYTES // first.nbytes)
        super().__init__((index.count, *first.shape), np.uint8, (1, *first.shape))

    def _read(self, region: tuple[slice, ...]) -> AnyArray:
        times, *rest = region
        found = np.empty(tuple(part.stop - part.start for part in region), np.uint8)
        for k, number in enumerate(range(times.start, times.stop)):
            frame = self._frame(number)
            if frame.shape != self.shape[1:]:
                raise InputError(
                    f"{self._path.name}: frame {number} has another size; accepted is one size throughout."
                )
            found[k] = frame[tuple(rest)]
        return found

    def _frame(self, number: int) -> AnyArray:
        with self._lock:
            if number in self._recent:
                self._recent.move_to_end(number)
                return self._recent[number]
            try:
                return self._decode(number)
            except av.FFmpegError as error:
                # the decoder ends with its error: start afresh next time
                self._position = -1
                raise InputError(
                    f"{self._path.name}: frame {number} cannot be decoded; copy or export it again."
                ) from error

    def _decode(self, number: int) -> AnyArray:
        start = bisect_right(self._index.keys, (number, 1 << 62)) - 1
        # going on is cheaper than seeking back when the last key frame lies behind us already
        if 0 <= self._position < number and self._position >= (self._index.keys[start][0] if start >= 0 else 0):
            found = self._advance_to(number)
            if found is not None:
                return found
        # a seek may end behind the frame, and a key frame may show frames that refer to the group before it
        for attempt in dict.fromkeys((start, max(start - 1, -1), -1)):
            self._seek(attempt)
            found = self._advance_to(number)
            if found is not None:
                return found
        raise InputError(f"{self._path.name}: frame {number} is not stored; copy or export the video again.")

    def _advance_to(self, number: int) -> AnyArray | None:
        """Decode up to frame `number`; ``None`` if it does not come."""
        for frame in self._frames:
            position = self._number_of(frame)
            if position is None:
                continue
            self._position = position
            if position > number:
                return None
            if number - position < self._capacity // 2 or position == number:
                picture = _picture(frame)
                self._recent[position] = picture
                while len(self._recent) > self._capacity:
                    self._recent.popitem(last=False)
                if position == number:
                    return picture
        self._position = self._index.count
        return None

    def _number_of(self, frame: Any) -> int | None:
        """The display number of a decoded frame; ``None`` for one that is not to be shown."""
        times = self._index.times
        if not times:
            return self._position + 1
        if frame.pts is None:
            return None
        at = bisect_right(times, frame.pts) - 1
        return at if at >= 0 and times[at] == frame.pts else None

    def _seek(self, start: int) -> None:
        """Stand before key frame `start`, or before the first frame for -1."""
        if self._container is None or start < 0 or not self._index.times:
            if self._container is not None:
                self._container.close()
            self._container = _open(self._path)
            stream = self._container.streams.video[0]
            stream.codec_context.thread_count = _DECODER_THREADS
            stream.codec_context.thread_type = "AUTO"
        stream = self._container.streams.video[0]
        if start >= 0 and self._index.times:
            self._container.seek(self._index.keys[start][1], stream=stream, backward=True, any_frame=False)
        self._frames = self._container.decode(stream)
        self._position = -1


def read(path: Path) -> list[MedicalImage]:
    """The video track as a time series of RGB pictures.

    Raises
    ------
    InputError
        If there is no video track, or the file is damaged or cut short.
    """
    require_file(path, _ACCEPTED)
    stat = path.stat()
    index, codec = _index(path, stat.st_mtime_ns, stat.st_size)
    frames = VideoFrames(path, index)
    return [
        MedicalImage(
            (frames,),
            "tyxc",
            Geometry.from_spacing(frames.shape[1:3], None),
            modality=Modality.ES,
            intensity="RGB",
            name=path.stem,
            source=Source("video", (path,)),
            seconds_per_frame=index.seconds_per_frame,
            details={"format": "video", "codec": codec, "modality": "assumed endoscopy: video files do not say"},
            warnings=index.warnings,
        )
    ]


def _open(path: Path) -> Any:
    # FFmpeg opens much more: pictures as one frame, and text files that send it to other files or the network
    if kind_of(path) not in _CONTAINERS:
        raise refusal(path, _ACCEPTED)
    try:
        return av.open(str(path))
    except (av.FFmpegError, ValueError) as error:
        raise refusal(path, _ACCEPTED) from error


@lru_cache(maxsize=16)
def _index(path: Path, modified: int, size: int) -> tuple[FrameIndex, str]:
    """List the frames of the first video track without decoding; remembered while the file stays the same."""
    with _open(path) as container:
        if not container.streams.video:
            raise InputError(f"{path.name}: has no video track; accepted is {_ACCEPTED}.")
        stream = container.streams.video[0]
        shown: list[tuple[int | None, int | None, bool]] = []
        try:
            shown.extend(
                (packet.pts, packet.dts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard and not packet.is_corrupt
            )
        except av.FFmpegError as error:
            if not shown:
                raise refusal(path, _ACCEPTED) from error
        if not shown:
            raise InputError(f"{path.name}: its video track holds no frames; copy or export it again.")
        base = Fraction(stream.time_base or Fraction(1, 1))
        rate = stream.average_rate
        warnings = []
        if stream.frames > len(shown):
            warnings.append(f"The video is cut short: {len(shown)} of {stream.frames} frames are there.")
        codec, kind = str(stream.codec_context.name), str(container.format.name)
    times = sorted(pts for pts, _, _ in shown if pts is not None)
    # AVI stores no display times: those that come up are guesses unless every frame stands alone
    guessed = kind == "avi" and not all(key for _, _, key in shown)
    if guessed or len(set(times)) < len(shown):
        warnings.append("It does not say when each frame is shown, so going back is slow.")
        seconds = float(1 / rate) if rate else None
        return FrameIndex(len(shown), (), (), base, seconds, tuple(warnings)), codec
    position = {pts: k for k, pts in enumerate(times)}
    keys = sorted(
        (position[pts], pts if dts is None else min(pts, dts)) for pts, dts, key in shown if key and pts is not None
    )
    seconds = float((times[-1] - times[0]) * base) / (len(times) - 1) if len(times) > 1 else None
    distances = np.diff(times)
    if len(distances) and np.ptp(distances) > max(2.0, _UNEVEN * float(np.median(distances))):
        low, high = (1000 * float(v * base) for v in (int(distances.min()), int(distances.max())))
        warnings.append(f"Its frames are unevenly spaced ({low:.0f} to {high:.0f} ms); times are averages.")
    return FrameIndex(len(times), tuple(times), tuple(keys), base, seconds, tuple(warnings)), codec


def _picture(frame: Any) -> AnyArray:
    """RGB bytes ``(y, x, c)``, turned as the recorder asked."""
    pixels: AnyArray = frame.to_ndarray(format="rgb24")
    turns = round(float(frame.rotation or 0) / 90)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns % 4 else pixels
