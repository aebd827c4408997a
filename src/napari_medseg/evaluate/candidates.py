"""Whether several label images can be compared with each other, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_medseg.case import InputError


def checked_names(candidates: Sequence[Any], names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of two or more integer arrays of one shape; ``candidate 1``, ... when ``None``.

    Raises
    ------
    InputError
        If there are fewer than two, names are too few or doubled, shapes differ, or labels are not integers.
    """
    if len(candidates) < 2:
        raise InputError(f"Agreement is that of two or more candidates; given was {len(candidates)}.")
    called = tuple(f"candidate {k + 1}" for k in range(len(candidates))) if names is None else tuple(names)
    if len(called) != len(candidates) or len(set(called)) != len(called):
        raise InputError(f"The names {', '.join(called)} do not tell {len(candidates)} candidates apart.")
    for name, one in zip(called, candidates, strict=True):
        if np.dtype(one.dtype).kind not in "uib":
            raise InputError(f"The labels of {name} hold {np.dtype(one.dtype)} values; labels are whole numbers.")
        if tuple(one.shape) != tuple(candidates[0].shape):
            raise InputError(
                f"The labels of {name} have the shape {tuple(one.shape)} and those of {called[0]} "
                f"{tuple(candidates[0].shape)}; bring them onto one grid first."
            )
    return called
