"""What the values of an error map mean, their names and colours, and the legend with its shares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from napari_medseg.case import InputError, Label, LabelTable
from napari_medseg.case.labels import Colour
from napari_medseg.evaluate.pairs import Confusion, PairCounts


class Category(IntEnum):
    """The values of an error map."""

    BACKGROUND = 0
    """Both say background, or for one class: neither says that class."""
    AGREEMENT = 1
    """Both say the same label."""
    FALSE_POSITIVE = 2
    """Only the candidate says foreground (or the class)."""
    FALSE_NEGATIVE = 3
    """Only the reference says foreground (or the class)."""
    WRONG_CLASS = 4
    """Both say foreground, with different labels; not in maps of one class."""


# Okabe-Ito but for the agreement, which is to recede; apart also for eyes that do not tell red from green
_AGREEMENT: Colour = (94, 115, 102)
_ORANGE: Colour = (230, 159, 0)
_SKY_BLUE: Colour = (86, 180, 233)
_REDDISH_PURPLE: Colour = (204, 121, 167)
_YELLOW: Colour = (240, 228, 66)
_VERMILLION: Colour = (213, 94, 0)

ERROR_TABLE = LabelTable(
    (
        Label(Category.AGREEMENT, "agreement", _AGREEMENT),
        Label(Category.FALSE_POSITIVE, "false positive", _ORANGE),
        Label(Category.FALSE_NEGATIVE, "false negative", _SKY_BLUE),
        Label(Category.WRONG_CLASS, "wrong class", _REDDISH_PURPLE),
    )
)
"""Names and colours of the values of an error map, `Category`."""


def difference_table(first: str = "A", second: str = "B") -> LabelTable:
    """Names and colours of `ErrorCategories` of two candidates, of which neither is right by definition.

    Parameters
    ----------
    first, second
        What the two are called; `first` is in the place of the candidate, `second` in that of the reference.
    """
    return LabelTable(
        (
            Label(Category.AGREEMENT, "both, same label", _AGREEMENT),
            Label(Category.FALSE_POSITIVE, f"only {first}", _YELLOW),
            Label(Category.FALSE_NEGATIVE, f"only {second}", _SKY_BLUE),
            Label(Category.WRONG_CLASS, "both, other label", _VERMILLION),
        )
    )


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend.

    Parameters
    ----------
    category
        The value in the map.
    name, colour
        What a person reads and sees; red, green, blue, 0-255.
    voxels
        How many voxels of the whole image have that value.
    share
        Their share of all voxels that are foreground in either label image, 0 to 1; ``nan`` if there are none.
    """

    category: Category
    name: str
    colour: Colour
    voxels: int
    share: float


def legend(
    counts: PairCounts | Confusion,
    *,
    label: int | None = None,
    instances: bool = False,
    table: LabelTable = ERROR_TABLE,
) -> tuple[LegendEntry, ...]:
    """The lines of the legend of an error map, in the order of `Category`; the shares add up to 1.

    Parameters
    ----------
    counts
        The voxels of every pair of ids of candidate and reference, or those of one class alone.
    label
        The class that the map shows; all when ``None``. Not with a `Confusion`, which is of one class already.
    instances
        Whether ids are objects of one class, so that there is no wrong class.
    table
        `ERROR_TABLE`, or `difference_table` for two candidates.

    Raises
    ------
    InputError
        If a class is asked for of counts that are of one class already.
    """
    if isinstance(counts, Confusion):
        if label is not None:
            raise InputError(f"The counts are those of one class already; those of label {label} are not in them.")
        confusion, wrong = counts, None
    elif label is not None:
        confusion, wrong = counts.confusion(label), None
    else:
        confusion, wrong = counts.confusion_any(), None
        if not instances:
            both = (counts.candidate > 0) & (counts.reference > 0)
            wrong = int(counts.voxels[both & (counts.candidate != counts.reference)].sum())
    voxels = {
        Category.AGREEMENT: confusion.true_positive - (wrong or 0),
        Category.FALSE_POSITIVE: confusion.false_positive,
        Category.FALSE_NEGATIVE: confusion.false_negative,
    }
    if wrong is not None:
        voxels[Category.WRONG_CLASS] = wrong
    foreground = sum(voxels.values())
    return tuple(
        LegendEntry(c, table.name(c), table.colour(c), n, n / foreground if foreground else float("nan"))
        for c, n in voxels.items()
    )
