"""The voxels of the region under review, found without holding the window, and their outline."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject

from napari_medseg.desk.pieces.work import Work
from napari_medseg.desk.reviewing.finding import Found
from napari_medseg.desk.reviewing.outline import Outline
from napari_medseg.evaluate.review import ErrorRegion, ReviewItem
from napari_medseg.jobs import Progress

# so many are unpacked within a frame
_AT_ONCE = 300_000


class Sight(QObject):
    """Outlines one region at a time.

    Parameters
    ----------
    outline
        Where it is drawn.
    """

    def __init__(self, outline: Outline) -> None:
        super().__init__()
        self.outline = outline
        self._shown: tuple[Found, ErrorRegion] | None = None
        self._points: npt.NDArray[Any] | None = None

    def show(self, found: Found, item: ReviewItem) -> None:
        """Outline a region in what the viewer shows now."""
        region = item.region
        if self._shown is None or self._shown[0] is not found or self._shown[1] is not region:
            self._shown, self._points = (found, region), None
            if region.runs is not None and region.voxels <= _AT_ONCE:
                self._points = _points_of(found, region, progress=Progress())
            elif region.runs is not None:
                work = Work(_points_of, found, region)
                work.done.connect(self._take)
                work.start()
        self._draw()

    def end(self) -> None:
        """Take the outline away."""
        self._shown, self._points = None, None
        self.outline.remove()

    def _take(self, points: npt.NDArray[Any]) -> None:
        if self._shown is not None and len(points) == self._shown[1].voxels:
            self._points = points
            self._draw()

    def _draw(self) -> None:
        if self._shown is None:
            return
        found, region = self._shown
        box = found.pair.layer_box(region.box)
        self.outline.show(found.question.candidate, box, self._points)


def _points_of(found: Found, region: ErrorRegion, *, progress: Progress) -> npt.NDArray[Any]:
    """Index of each voxel in the candidate's layer."""
    assert region.runs is not None
    progress.check()
    return np.asarray(found.pair.layer_points(region.runs.points(found.pair.shape)))
