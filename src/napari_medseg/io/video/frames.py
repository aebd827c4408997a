"""Video (MP4, AVI, MOV, MKV) as a lazy ``t y x c`` array with exact frame numbers.

The file is gone through once without decoding, to list when every frame is shown and which can be decoded
on their own. Any frame is then found by decoding from the last such key frame before it. Where the file does
not say when frames are shown, their order is learned while they are decoded for the first time.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from napari_medseg.case import Geometry, InputError, MedicalImage, Modality, Source
from napari_medseg.io.content import require_file
from napari_medseg.io.lazy import AnyArray, LazyArray
from napari_medseg.io.video.index import ACCEPTED, FrameIndex, frame_index, open_container

# decoded frames kept for stepping back and forth
_CACHE_BYTES = 64_000_000
_DECODER_THREADS = 2


class VideoFrames(LazyArray):
    """The frames as ``(t, y, x, c)`` RGB bytes. Safe to use from several threads; they take turns."""

    def __init__(self, path: Path, index: FrameIndex) -> None:
        self._path, self._index = path, index
        self._lock = threading.RLock()
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        # number of the frame that was decoded last; -1 for none
        self._position = -1
        # for files without times: place in the file of every frame shown so far, and the reverse
        self._places: list[int] = []
        self._numbers: dict[int, int] = {}
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
        key = self._key_before(number)
        # going on is cheaper than seeking back when the last key frame lies behind us already
        if self._key_number(key) <= self._position < number:
            found = self._advance_to(number)
            if found is not None:
                return found
        # a seek may end behind the frame, and a key frame may show frames that refer to the group before it
        for attempt in dict.fromkeys((key, max(key - 1, -1), -1)):
            self._seek(attempt)
            found = self._advance_to(number)
            if found is not None:
                return found
        raise InputError(f"{self._path.name}: frame {number} is not stored; copy or export the video again.")

    def _key_before(self, number: int) -> int:
        """Which key frame to start from for frame `number`; -1 for the beginning of the file."""
        if self._index.times:
            wanted = number
        elif self._places:
            # frames not seen yet follow the last one that was
            wanted = self._places[min(number, len(self._places) - 1)]
        else:
            return -1
        key = bisect_right(self._index.keys, wanted, key=lambda entry: entry[0]) - 1
        # a key frame stored before the last one seen may be shown after it
        while not self._index.times and key >= 0 and self._index.keys[key][0] not in self._numbers:
            key -= 1
        return key

    def _key_number(self, key: int) -> int:
        """The frame number of a key frame."""
        if key < 0:
            return 0
        place = self._index.keys[key][0]
        return place if self._index.times else self._numbers[place]

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
        """The number of a decoded frame; ``None`` for one that is not to be shown."""
        times = self._index.times
        if frame.pts is None:
            return None
        if times:
            at = bisect_right(times, frame.pts) - 1
            return at if at >= 0 and times[at] == frame.pts else None
        # `_stamped` made the time stamp the place in the file
        if frame.pts not in self._numbers:
            if self._position != len(self._places) - 1:
                return None
            self._numbers[frame.pts] = len(self._places)
            self._places.append(frame.pts)
        return self._numbers[frame.pts]

    def _seek(self, key: int) -> None:
        """Stand before key frame `key`, or before the first frame for -1."""
        if self._container is None or key < 0:
            if self._container is not None:
                self._container.close()
            self._container = open_container(self._path)
            codec = self._container.streams.video[0].codec_context
            codec.thread_count, codec.thread_type = _DECODER_THREADS, "AUTO"
        stream = self._container.streams.video[0]
        if key >= 0:
            self._container.seek(self._index.keys[key][1], stream=stream, backward=True, any_frame=False)
        self._frames = self._container.decode(stream) if self._index.times else self._stamped(stream)
        self._position = -1

    def _stamped(self, stream: Any) -> Iterator[Any]:
        """Decode with the place in the file as the time stamp, which decoders hand on from packet to picture."""
        place = 0
        for packet in self._container.demux(stream):
            if packet.size:
                place = self._index.stored.get(packet.dts, place)
                packet.pts = place
                place += 1
            yield from packet.decode()


def read(path: Path) -> list[MedicalImage]:
    """The video track as a time series of RGB pictures.

    Raises
    ------
    InputError
        If there is no video track, or the file is damaged or cut short.
    """
    require_file(path, ACCEPTED)
    index = frame_index(path)
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
            details={
                "format": "video",
                "codec": index.codec,
                "modality": "assumed endoscopy: video files do not say",
            },
            warnings=index.warnings,
        )
    ]


def _picture(frame: Any) -> AnyArray:
    """RGB bytes ``(y, x, c)``, turned as the recorder asked."""
    pixels: AnyArray = frame.to_ndarray(format="rgb24")
    turns = round(float(frame.rotation or 0) / 90)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns % 4 else pixels
