"""What a number in a table of scores means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "zero", "neither"]
Quantity = Literal["ratio", "length", "volume", "count", "decibel", "intensity"]


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its definition, its rule for empty masks, and which way is better.

    Parameters
    ----------
    key
        Key in tables and JSON, for instance ``"hd95"``.
    name
        What a person reads, for instance ``"HD95"``.
    definition
        One sentence or formula.
    when_empty
        The value where the candidate, the reference or both hold nothing. Scores are ``nan`` where a metric is not
        defined and ``inf`` where one side has no boundary to measure to.
    better
        Which values are better; ``"zero"`` for signed differences, ``"neither"`` for plain facts.
    quantity
        What is measured. Lengths are in the unit of the spacing, volumes in its cube (its square for pictures).
    source
        Paper or library whose definition is followed.
    """

    key: str
    name: str
    definition: str
    when_empty: str
    better: Better
    quantity: Quantity = "ratio"
    source: str = ""
