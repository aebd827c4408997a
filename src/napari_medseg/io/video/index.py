"""When every frame of a video is shown and which can be decoded on their own, found without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from napari_medseg.case import InputError
from napari_medseg.io.content import kind_of, refusal

ACCEPTED = "MP4, MOV, AVI or Matroska video"
_CONTAINERS = ("MP4 or MOV", "AVI", "Matroska")
# frame times may differ by this share of the usual distance before they are called uneven
_UNEVEN = 0.1


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video track.

    Parameters
    ----------
    count
        Number of frames.
    times
        Time stamp of every frame in the order of display. Empty for files that do not say (AVI with frames
        stored in another order than shown): there a frame is known only by its place in the file.
    keys
        For each key frame its number (in display order; in file order without `times`) and the stamp to seek to.
    stored
        Without `times`: from decoding time stamp to place in the file.
    seconds_per_frame
        Mean time between frames.
    codec
        Its name.
    warnings
        What a person should know.
    """

    count: int
    times: tuple[int, ...]
    keys: tuple[tuple[int, int], ...]
    stored: dict[int, int]
    seconds_per_frame: float | None
    codec: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Packet:
    pts: int | None
    dts: int | None
    key: bool


def open_container(path: Path) -> Any:
    """The file as FFmpeg sees it.

    Raises
    ------
    InputError
        If it is no video container that is accepted.
    """
    # FFmpeg opens much more: pictures as one frame, and text files that send it to other files or the network
    if kind_of(path) not in _CONTAINERS:
        raise refusal(path, ACCEPTED)
    try:
        return av.open(str(path))
    except (av.FFmpegError, ValueError) as error:
        raise refusal(path, ACCEPTED) from error


def frame_index(path: Path) -> FrameIndex:
    """List the frames of the first video track; remembered while the file stays the same.

    Raises
    ------
    InputError
        If there is no video track, or no frame in it.
    """
    stat = path.stat()
    return _frame_index(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _frame_index(path: Path, modified: int, size: int) -> FrameIndex:
    with open_container(path) as container:
        if not container.streams.video:
            raise InputError(f"{path.name}: has no video track; accepted is {ACCEPTED}.")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise InputError(f"{path.name}: its video is packed in a way that is not known here; convert it to MP4.")
        packets: list[_Packet] = []
        try:
            packets.extend(
                _Packet(packet.pts, packet.dts, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard and not packet.is_corrupt
            )
        except av.FFmpegError as error:
            if not packets:
                raise refusal(path, ACCEPTED) from error
        if not packets:
            raise InputError(f"{path.name}: its video track holds no frames; copy or export it again.")
        codec = str(stream.codec_context.name)
        said = []
        if stream.frames > len(packets):
            said.append(f"The video is cut short: {len(packets)} of {stream.frames} frames are there.")
        # AVI stores no display times: those that come up are guesses unless every frame stands alone
        guessed = container.format.name == "avi" and not all(p.key for p in packets)
        if guessed or len({p.pts for p in packets} - {None}) < len(packets):
            seconds = float(1 / stream.average_rate) if stream.average_rate else None
            return _by_place(packets, codec, seconds, said)
        return _by_time(packets, codec, Fraction(stream.time_base or Fraction(1, 1)), said)


def _by_place(packets: list[_Packet], codec: str, seconds: float | None, said: list[str]) -> FrameIndex:
    stored = {p.dts: k for k, p in enumerate(packets) if p.dts is not None}
    complete = len(stored) == len(packets)
    keys = tuple((k, p.dts) for k, p in enumerate(packets) if p.key and p.dts is not None) if complete else ()
    said.append("It does not say when each frame is shown, so jumping far ahead takes long the first time.")
    return FrameIndex(len(packets), (), keys, stored if complete else {}, seconds, codec, tuple(said))


def _by_time(packets: list[_Packet], codec: str, base: Fraction, said: list[str]) -> FrameIndex:
    times = sorted(p.pts for p in packets if p.pts is not None)
    number = {pts: k for k, pts in enumerate(times)}
    keys = sorted(
        (number[p.pts], p.pts if p.dts is None else min(p.pts, p.dts)) for p in packets if p.key and p.pts is not None
    )
    seconds = float((times[-1] - times[0]) * base) / (len(times) - 1) if len(times) > 1 else None
    distances = np.diff(times)
    if len(distances) and np.ptp(distances) > max(2.0, _UNEVEN * float(np.median(distances))):
        low, high = (1000 * float(v * base) for v in (int(distances.min()), int(distances.max())))
        said.append(f"Its frames are unevenly spaced ({low:.0f} to {high:.0f} ms); times are averages.")
    return FrameIndex(len(times), tuple(times), tuple(keys), {}, seconds, codec, tuple(said))
