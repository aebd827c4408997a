"""Regions of errors in words."""

from __future__ import annotations

from napari_medseg.case import LabelTable
from napari_medseg.evaluate.review import Error, ErrorRegion

_UNITS = {"mm": "mm", "mm2": "mm²", "mm3": "mm³", "um": "µm", "um2": "µm²", "um3": "µm³", "px": "px"}


def unit_in_words(unit: str) -> str:
    """A unit as it is written, e.g. ``mm³``."""
    return _UNITS.get(unit, unit)


def amount(value: float | None, unit: str) -> str:
    """A number with three figures and its unit; a dash where there is none."""
    if value is None:
        return "–"
    figures = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{figures} {unit_in_words(unit)}"


def label_in_words(region: ErrorRegion, candidate: LabelTable, reference: LabelTable) -> str:
    """The label that an error is about; of a wrong class both, as the reference and the candidate call it."""
    theirs = reference.name(region.reference_label)
    own = candidate.name(region.candidate_label)
    # names of a table that the other side lacks say more than numbers
    if not len(reference) and len(candidate):
        theirs = candidate.name(region.reference_label)
    elif not len(candidate) and len(reference):
        own = reference.name(region.candidate_label)
    if region.error is Error.WRONG_CLASS:
        return f"{theirs}, called {own}"
    return theirs if region.reference_label else own
