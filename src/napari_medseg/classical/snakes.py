"""Morphological snakes (Márquez-Neila et al., IEEE PAMI 36:2, 2014) whose result depends on their input alone.

scikit-image has them too and they agree, but it alternates its two smoothing operators through a counter of the whole
process: after an odd number of smoothings the next contour, of whatever image, comes out differently.
"""

from __future__ import annotations

from itertools import cycle

import numpy as np
import numpy.typing as npt

Inside = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]


def without_edges(
    pixels: npt.NDArray[np.float32], start: Inside, steps: int, smoothings: int, lambda1: float, lambda2: float
) -> Inside:
    """Inside of a contour that parts two regions of even brightness, after `steps`."""
    inside = start.copy()
    smooth = _Smoothing(inside.ndim)
    for _ in range(steps):
        # sums as scikit-image takes them, so that an empty side has mean 0
        count, total = int(inside.sum()), float(pixels.sum(dtype=np.float64))
        within = float(pixels.sum(dtype=np.float64, where=inside))
        mean_in, mean_out = within / (count + 1e-8), (total - within) / (inside.size - count + 1e-8)
        push = lambda1 * (pixels - mean_in) ** 2 - lambda2 * (pixels - mean_out) ** 2
        border = _border(inside)
        inside[border & (push < 0)] = True
        inside[border & (push > 0)] = False
        for _ in range(smoothings):
            inside = smooth(inside)
    return inside


def geodesic(edge: Values, start: Inside, steps: int, smoothings: int, threshold: float, balloon: float) -> Inside:
    """Inside of a contour that moves until `edge`, near 1 where the image is even, is small, after `steps`."""
    from scipy.ndimage import binary_dilation, binary_erosion

    inside = start.copy()
    smooth = _Smoothing(inside.ndim)
    neighbours = np.ones((3,) * inside.ndim, bool)
    slopes = np.gradient(edge)
    even = edge > threshold / abs(balloon) if balloon else None
    for _ in range(steps):
        if even is not None:
            moved = (binary_dilation if balloon > 0 else binary_erosion)(inside, neighbours)
            inside[even] = moved[even]
        pull = np.zeros_like(edge)
        for axis, slope in enumerate(slopes):
            pull += slope * np.gradient(inside.astype(np.int8), axis=axis)
        inside[pull > 0] = True
        inside[pull < 0] = False
        for _ in range(smoothings):
            inside = smooth(inside)
    return inside


class _Smoothing:
    """Curvature motion: the two compositions of the line operators in turn."""

    def __init__(self, dims: int) -> None:
        self._lines = _lines(dims)
        self._order = cycle(((self._open, self._close), (self._close, self._open)))

    def __call__(self, inside: Inside) -> Inside:
        first, second = next(self._order)
        return second(first(inside))

    def _open(self, inside: Inside) -> Inside:
        """Least of the dilations along lines: fills what no line passes around."""
        from scipy.ndimage import binary_dilation

        least = np.ones_like(inside)
        for line in self._lines:
            least &= binary_dilation(inside, line)
        return least

    def _close(self, inside: Inside) -> Inside:
        """Greatest of the erosions along lines: keeps what some line passes through."""
        from scipy.ndimage import binary_erosion

        greatest = np.zeros_like(inside)
        for line in self._lines:
            greatest |= binary_erosion(inside, line)
        return greatest


def _lines(dims: int) -> list[Inside]:
    """Segments of three pixels in four directions; in volumes squares of nine in nine orientations."""
    axes = np.indices((3,) * dims) - 1
    if dims == 2:
        normals: list[tuple[int, ...]] = [(1, 0), (0, 1), (1, 1), (1, -1)]
    else:
        normals = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)]
    return [np.tensordot(normal, axes, 1) == 0 for normal in normals]


def _border(inside: Inside) -> Inside:
    """Pixels with a neighbour along an axis on the other side, as central differences see it."""
    border = np.zeros_like(inside)
    numbers = inside.astype(np.int8)
    for axis in range(inside.ndim):
        border |= np.gradient(numbers, axis=axis) != 0
    return border
