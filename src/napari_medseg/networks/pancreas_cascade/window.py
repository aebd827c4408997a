"""Boxes around an organ, and the cut into a window of a fixed size and back: pure functions without branches on values.

A box is ``(top, left, bottom, right)`` in whole pixels, its end excluded. The window has the box at its top left. A box
that fits is copied value by value and the rest of the window is 0; a larger box is shrunk, both axes alike, until it
fits. As every shape is known beforehand, a network that cuts by its own prediction can still be exported.
"""

from __future__ import annotations

import torch


def organ_box(
    mask: torch.Tensor, margin: int | torch.Tensor = 20, threshold: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tight box of a mask, grown by a margin and clipped at the image's borders.

    Parameters
    ----------
    mask
        ``(n, 1, y, x)``: a probability, or 0 and 1.
    margin
        Pixels to grow by; one number or ``(n,)`` whole numbers.
    threshold
        Value from which a pixel counts.

    Returns
    -------
    boxes
        ``(n, 4)`` int64; the whole image where no pixel counts.
    found
        ``(n,)`` bool: whether any pixel counts.
    """
    inside = mask[:, 0] >= threshold
    top, bottom = _span(inside.any(dim=2), margin)
    left, right = _span(inside.any(dim=1), margin)
    return torch.stack([top, left, bottom, right], dim=1), inside.flatten(1).any(dim=1)


def draw_margins(number: int, margin: int = 20, generator: torch.Generator | None = None) -> torch.Tensor:
    """Margins for training, ``(number,)`` int64: `margin`, or with probability 0.5 one drawn from 0 to 2 `margin`."""
    drawn = torch.randint(0, 2 * margin + 1, (number,), generator=generator)
    jittered = torch.rand(number, generator=generator) < 0.5
    return torch.where(jittered, drawn, torch.full_like(drawn, margin))


def crop(image: torch.Tensor, boxes: torch.Tensor, window: tuple[int, int], stretch: bool = False) -> torch.Tensor:
    """What lies in each box, in a window of a fixed size.

    Parameters
    ----------
    image
        ``(n, c, y, x)``, floating point.
    boxes
        ``(n, 4)`` as from `organ_box`.
    window
        Height and width of the window.
    stretch
        Whether each axis of the box is resampled onto the whole window.

    Returns
    -------
    torch.Tensor
        ``(n, c, *window)``, 0 outside the box. Differentiable in the image.
    """
    steps = _steps(boxes, window, stretch)
    rows, columns = (
        _into_window(boxes[:, axis], boxes[:, axis + 2], steps[:, axis], image.shape[axis + 2], window[axis])
        for axis in (0, 1)
    )
    return _resample(image, rows, columns)


def paste(
    values: torch.Tensor, boxes: torch.Tensor, shape: tuple[int, int], fill: float = 0.0, stretch: bool = False
) -> torch.Tensor:
    """Put windows back to where `crop` took them.

    Parameters
    ----------
    values
        ``(n, c, *window)``.
    boxes
        ``(n, 4)``, the boxes of the crop.
    shape
        Height and width of the image.
    fill
        Value outside the box.
    stretch
        As in the crop.

    Returns
    -------
    torch.Tensor
        ``(n, c, *shape)``: inside each box what the window holds, `fill` outside.
    """
    window = (values.shape[2], values.shape[3])
    steps = _steps(boxes, window, stretch)
    rows, columns = (
        _into_image(boxes[:, axis], boxes[:, axis + 2], steps[:, axis], shape[axis], window[axis]) for axis in (0, 1)
    )
    outside = 1.0 - rows.sum(2)[:, None, :, None].round() * columns.sum(2)[:, None, None, :].round()
    return _resample(values, rows, columns) + fill * outside.to(values.dtype)


def _span(filled: torch.Tensor, margin: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    side = filled.shape[1]
    place = torch.arange(side, device=filled.device)
    # where nothing is filled the span starts at `side` and ends at 0, which the margin must not mend
    first = torch.where(filled, place, side).amin(dim=1)
    end = torch.where(filled, place + 1, 0).amax(dim=1)
    empty = first >= end
    start = torch.where(empty, 0, (first - margin).clamp(min=0))
    return start, torch.where(empty, side, (end + margin).clamp(max=side))


def _steps(boxes: torch.Tensor, window: tuple[int, int], stretch: bool) -> torch.Tensor:
    """Image pixels a window pixel, ``(n, 2)``."""
    extent = (boxes[:, 2:] - boxes[:, :2]).to(torch.float32)
    ratio = torch.stack([extent[:, 0] / window[0], extent[:, 1] / window[1]], dim=1)
    return ratio if stretch else ratio.amax(dim=1, keepdim=True).clamp(min=1.0).expand(-1, 2)


def _into_window(start: torch.Tensor, end: torch.Tensor, step: torch.Tensor, side: int, window: int) -> torch.Tensor:
    """Weights ``(n, window, side)``; the row of a window pixel past the box is 0."""
    start, end, step = (v.to(torch.float32)[:, None, None] for v in (start, end, step))
    pixel = torch.arange(side, device=start.device, dtype=torch.float32)[None, None, :]
    cell = torch.arange(window, device=start.device, dtype=torch.float32)[None, :, None]
    # a step is 1 exactly where the box fits, and then each row is one 1 and the copy is exact
    weights = _tent(start + (cell + 0.5) * step - 0.5 - pixel, step)
    weights = _rows_to_one(weights * ((pixel >= start) & (pixel < end)))
    return weights * (cell * step < end - start)


def _into_image(start: torch.Tensor, end: torch.Tensor, step: torch.Tensor, side: int, window: int) -> torch.Tensor:
    """Weights ``(n, side, window)``; the row of an image pixel outside the box is 0."""
    start, end, step = (v.to(torch.float32)[:, None, None] for v in (start, end, step))
    pixel = torch.arange(side, device=start.device, dtype=torch.float32)[None, :, None]
    cell = torch.arange(window, device=start.device, dtype=torch.float32)[None, None, :]
    weights = _tent((pixel - start + 0.5) / step - 0.5 - cell, 1.0 / step)
    weights = _rows_to_one(weights * (cell * step < end - start))
    return weights * ((pixel >= start) & (pixel < end))


def _tent(distance: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return torch.relu(1.0 - distance.abs() / step.clamp(min=1.0))


def _rows_to_one(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)


def _resample(values: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    rows, columns = rows[:, None].to(values.dtype), columns[:, None].to(values.dtype)
    return rows @ values @ columns.transpose(2, 3)
