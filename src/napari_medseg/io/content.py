"""What a file really is, and whether its numbers can be used: checks that several formats share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from napari_medseg.case import InputError
from napari_medseg.io.lazy import LazyArray

# longest first where one mark begins another
_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"II+\x00", "TIFF"),
    (0, b"MM\x00+", "TIFF"),
    (8, b"WEBP", "WebP"),
    (8, b"AVI ", "AVI"),
    (4, b"ftyp", "MP4 or MOV"),
    (4, b"moov", "MP4 or MOV"),
    (4, b"mdat", "MP4 or MOV"),
    (4, b"wide", "MP4 or MOV"),
    (4, b"free", "MP4 or MOV"),
    (4, b"skip", "MP4 or MOV"),
    (0, b"\x1aE\xdf\xa3", "Matroska"),
    (128, b"DICM", "DICOM"),
    (344, b"n+1\x00", "NIfTI"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"%PDF", "PDF"),
)
_TEXT_BYTES = frozenset(range(32, 127)) | {9, 10, 13}

_CHECKED_ELEMENTS = 1 << 24


def kind_of(path: Path) -> str:
    """What the first bytes of a file say it is, e.g. ``"PNG"``, ``"text"``; empty when they say nothing."""
    with path.open("rb") as stream:
        head = stream.read(512)
    for offset, mark, kind in _MARKS:
        if head[offset : offset + len(mark)] == mark:
            return kind
    return "text" if head and set(head) <= _TEXT_BYTES else ""


def require_file(path: Path, accepted: str) -> None:
    """Raise `InputError` unless `path` is a file with something in it.

    `accepted` ends the sentence, e.g. ``"a TIFF file"``.
    """
    if path.is_dir():
        raise InputError(f"{path.name}: is a folder; accepted is {accepted}.")
    if not path.exists():
        raise InputError(f"{path.name}: there is no such file; accepted is {accepted}.")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name}: the file is empty (0 bytes); accepted is {accepted}.")


def refusal(path: Path, accepted: str) -> InputError:
    """The error for a file that its library cannot open: what it is instead, or that it is damaged.

    `accepted` ends the sentence, e.g. ``"TIFF"``.
    """
    kind = kind_of(path)
    if kind == "text":
        return InputError(f"{path.name}: holds plain text and no picture; accepted is {accepted}.")
    if kind and not all(word in accepted for word in kind.split(" or ")):
        return InputError(f"{path.name}: is a {kind} file in spite of its name; rename it, or choose {accepted}.")
    return InputError(f"{path.name}: is damaged, cut short or not {accepted}; copy or export it again.")


def check_finite(levels: Sequence[LazyArray], where: str) -> tuple[str, ...]:
    """What to say about pixels that are no numbers (NaN or infinite); nothing for integers.

    Looks at the coarsest level, and of that at no more than 16 million pixels spread over it.

    Raises
    ------
    InputError
        If none of the pixels looked at is a number.
    """
    level = levels[-1]
    if level.dtype.kind != "f":
        return ()
    starts = list(product(*(range(0, n, c) for n, c in zip(level.shape, level.chunks, strict=True))))
    most = max(1, _CHECKED_ELEMENTS // int(np.prod(level.chunks)))
    bad = seen = 0
    for start in starts[:: max(1, -(-len(starts) // most))]:
        block = level[tuple(slice(s, s + c) for s, c in zip(start, level.chunks, strict=True))]
        bad += block.size - int(np.count_nonzero(np.isfinite(block)))
        seen += block.size
    if bad == seen:
        raise InputError(f"{where}: holds no numbers, only NaN or infinite values; export it again.")
    share = 100 * bad / seen
    return (f"{share:.2g} % of its pixels are NaN or infinite.",) if bad else ()
