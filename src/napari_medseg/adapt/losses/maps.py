"""Logits and targets as maps of one shape."""

from __future__ import annotations

import torch

from napari_medseg.case import InputError


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Sigmoid of a single map, softmax over the classes of several; ``(n, c, *spatial)``."""
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, 1)


def class_numbers(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
    """Class numbers ``(n, *spatial)`` int64, or ``None`` where the target holds maps of each class's share.

    Raises
    ------
    ValueError
        The target does not lie on the logits' grid.
    InputError
        It holds a class that the logits have no map of.
    """
    classes = logits.shape[1]
    if target.ndim == logits.ndim - 1:
        target = target[:, None]
    if target.shape == logits.shape and classes > 1:
        return None
    if target.shape != (logits.shape[0], 1, *logits.shape[2:]):
        raise ValueError(f"a target of shape {tuple(target.shape)} does not fit logits {tuple(logits.shape)}")
    numbers = target[:, 0].long()
    lowest, highest = int(numbers.min()), int(numbers.max())
    if lowest < 0 or highest >= max(classes, 2):
        wrong = lowest if lowest < 0 else highest
        raise InputError(f"the labels hold class {wrong}; the model has classes 0 to {max(classes, 2) - 1}")
    return numbers


def reference_maps(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The target as maps like the logits, ``(n, c, *spatial)``, each pixel's shares adding to 1 where ``c > 1``.

    Raises
    ------
    ValueError, InputError
        As `class_numbers` does.
    """
    numbers = class_numbers(logits, target)
    if numbers is None:
        return target.to(logits.dtype)
    if logits.shape[1] == 1:
        return target.reshape(logits.shape).to(logits.dtype)
    return torch.nn.functional.one_hot(numbers, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
