"""Pictures of error regions: the image with both outlines, and beside it the errors in their colours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import Geometry, MedicalImage, Segmentation
from napari_medseg.case.contrast import first_window
from napari_medseg.evaluate.errors.maps import categories
from napari_medseg.evaluate.errors.palette import ERROR_TABLE, Category
from napari_medseg.evaluate.review import ErrorRegion

Array = npt.NDArray[Any]

_LARGEST_WINDOW = 1024
_SMALLEST_WINDOW = 48
_SIDE = 380
_GAP = 8
_DASH = 4
_STRENGTH = 0.6
_REFERENCE, _CANDIDATE = (255, 255, 255), (240, 228, 66)
# how a plane is shown: its rows run towards the first of these letters, its columns towards the second
_SHOWN = {"S": ("P", "L"), "I": ("P", "L"), "A": ("I", "L"), "P": ("I", "L"), "R": ("I", "P"), "L": ("I", "P")}
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True)
class Picture:
    """A picture of one region.

    Parameters
    ----------
    png
        Two panels side by side: the image with the outlines of reference (white) and candidate (yellow), and the image
        with the errors in their colours. A dashed box is around the region.
    width, height
        In pixels.
    where
        In words: plane and frame, counted from 0, and which way the panels face.
    """

    png: bytes
    width: int
    height: int
    where: str


def picture_of(
    image: MedicalImage, candidate: Segmentation, reference: Segmentation, region: ErrorRegion, instances: bool
) -> Picture:
    """Show `region` in the plane through its centre, with room around it.

    Volumes of patients are turned as radiologists look at them (patient's right at the left, front or head at the
    top); pictures and slides stay as they are.

    Parameters
    ----------
    image
        What the labels lie on; the same grid.
    candidate, reference
        The labels that were compared.
    region
        One of their error regions.
    instances
        Whether ids are objects of one class.
    """
    lead = len(region.box) - image.geometry.ndim
    frame = region.centre[0] if lead else 0
    window = _window(region, lead, image.geometry)
    index = ((frame,) if lead else ()) + window
    mine, theirs = (np.asarray(s.data[index]) for s in (candidate, reference))
    pixels = _pixels(image, window, frame)
    plane = image.geometry.ndim - 2
    turn = _Turn.of(image.geometry)
    shown, mine, theirs = (turn.apply(a.reshape(a.shape[plane:])) for a in (pixels, mine, theirs))
    steps = turn.steps(image.geometry.steps[-2:])
    size = _size(shown.shape[:2], steps)
    left, right = _enlarged(shown, size, smooth=True), _enlarged(shown, size, smooth=True)
    mine, theirs = _enlarged(mine, size), _enlarged(theirs, size)
    left[_outline(theirs)] = _REFERENCE
    left[_outline(mine)] = _CANDIDATE
    found = categories(mine, theirs, instances=instances)
    for category in (Category.FALSE_POSITIVE, Category.FALSE_NEGATIVE, Category.WRONG_CLASS):
        where, colour = found == category, np.array(ERROR_TABLE.colour(category))
        right[where] = ((1 - _STRENGTH) * right[where] + _STRENGTH * colour).astype(np.uint8)
    right[_outline(theirs)] = _REFERENCE
    frame_of_it = _outline(_enlarged(turn.apply(_boxed(region, lead, window)), size))
    dashes = np.add.outer(np.arange(size[0]), np.arange(size[1])) // _DASH % 2 == 0
    for panel in (left, right):
        panel[frame_of_it] = 0
        panel[frame_of_it & dashes] = 255
    gap = np.full((size[0], _GAP, 3), 255, np.uint8)
    both = np.concatenate([left, gap, right], axis=1)
    words = [f"slice {region.centre[lead]} along the first axis"] if plane else []
    words += [f"frame {frame}"] if lead else []
    words += [turn.words] if turn.words else []
    return Picture(_png(both), both.shape[1], both.shape[0], ", ".join(words))


def _window(region: ErrorRegion, lead: int, geometry: Geometry) -> tuple[slice, ...]:
    """The part of the plane that is shown: the region with half its size around it, within limits."""
    shape, centre, box = geometry.shape, region.centre[lead:], region.box[lead:]
    window = [slice(centre[k], centre[k] + 1) for k in range(len(shape) - 2)]
    finest = min(geometry.steps[-2:])
    for axis in (len(shape) - 2, len(shape) - 1):
        low, high = box[axis]
        small = round(_SMALLEST_WINDOW * finest / geometry.steps[axis])
        side = min(max(2 * (high - low), small), _LARGEST_WINDOW, shape[axis])
        middle = (low + high) // 2 if high - low <= side else centre[axis]
        start = min(max(0, middle - side // 2), shape[axis] - side)
        window.append(slice(start, start + side))
    return tuple(window)


def _boxed(region: ErrorRegion, lead: int, window: tuple[slice, ...]) -> npt.NDArray[np.uint8]:
    """1 inside the region's box, one pixel wider, in the window."""
    inside = np.zeros(tuple(part.stop - part.start for part in window[-2:]), np.uint8)
    pairs = zip(region.box[lead:][-2:], window[-2:], strict=True)
    inside[tuple(slice(max(0, low - 1 - part.start), high + 1 - part.start) for (low, high), part in pairs)] = 1
    return inside


def _pixels(image: MedicalImage, window: tuple[slice, ...], frame: int) -> Array:
    """The image there as red, green, blue, 0-255, the channels last."""
    block = np.moveaxis(image.read(window, 0, frame), 0, -1)
    if image.is_rgb and block.shape[-1] >= 3:
        colours = block[..., :3].astype(np.float64)
        whole = 255.0 if block.dtype == np.uint8 else float(np.iinfo(block.dtype).max if block.dtype.kind == "u" else 1)
        scaled = colours / whole
    else:
        low, high = first_window(image)
        scaled = np.repeat((block[..., :1].astype(np.float64) - low) / (high - low), 3, axis=-1)
    rgb: Array = (np.nan_to_num(scaled).clip(0, 1) * 255).round().astype(np.uint8)
    return rgb


@dataclass(frozen=True)
class _Turn:
    """How a plane is turned for showing: rows and columns swapped, then each flipped."""

    swapped: bool = False
    flips: tuple[bool, bool] = (False, False)
    words: str = ""

    @classmethod
    def of(cls, geometry: Geometry) -> _Turn:
        if geometry.frame != "patient" or geometry.ndim != 3:
            return cls()
        across, rows, columns = geometry.orientation
        down, right = _SHOWN[across]
        swapped = rows not in (down, _OPPOSITE[down])
        if swapped:
            rows, columns = columns, rows
        words = f"top {_OPPOSITE[down]}, bottom {down}, left {_OPPOSITE[right]}, right {right}"
        return cls(swapped, (rows != down, columns != right), words)

    def apply(self, array: Array) -> Array:
        turned = np.swapaxes(array, 0, 1) if self.swapped else array
        return turned[:: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]

    def steps(self, steps: tuple[float, ...]) -> tuple[float, float]:
        return (steps[1], steps[0]) if self.swapped else (steps[0], steps[1])


def _size(shape: tuple[int, ...], steps: tuple[float, float]) -> tuple[int, int]:
    """Height and width in pixels of the screen, with the proportions of the world."""
    height, width = shape[0] * steps[0], shape[1] * steps[1]
    scale = _SIDE / max(height, width)
    return max(24, round(height * scale)), max(24, round(width * scale))


def _enlarged(array: Array, size: tuple[int, int], smooth: bool = False) -> Array:
    """Nearest for labels, which get no new ids; smooth for pixels."""
    if smooth:
        from PIL import Image

        picture = Image.fromarray(np.ascontiguousarray(array))
        return np.array(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(np.intp) for n, m in zip(size, array.shape, strict=True))
    return array[np.ix_(rows, columns)]


def _outline(labels: Array) -> npt.NDArray[np.bool_]:
    """The outermost pixels of every label."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for step in (1, -1):
            other = np.roll(labels, step, axis)
            beyond = [slice(None), slice(None)]
            beyond[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            other[tuple(beyond)] = labels[tuple(beyond)]
            edge |= (labels != other) & (labels > 0)
    return edge


def _png(rgb: Array) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG", optimize=True)
    return stream.getvalue()
