"""Scores as JSON knows them."""

from __future__ import annotations

import math


def json_number(value: float) -> float | str | None:
    """A number for JSON, which knows neither: ``None`` for ``nan``, ``"inf"`` or ``"-inf"`` for infinities."""
    number = float(value)
    if math.isnan(number):
        return None
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return number
