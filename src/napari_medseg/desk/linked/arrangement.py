"""Which panel shows what, and how the panels share the picture. Knows no window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from psygnal import Signal

from napari_medseg.case import InputError

FEWEST_PANELS, MOST_PANELS = 2, 6
# shapes, so that candidates can be told apart without colour; one for each panel
MARKS = "●▲■◆★✚"
# pixels between panels
GAP = 4


class Mode(Enum):
    """How the candidates share the picture."""

    PANELS = "side by side"
    FLICKER = "flicker"
    WIPE = "wipe"


class Cell(NamedTuple):
    """A rectangle of the picture in pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Panel:
    """One candidate's place: `number` is its key, 1 to 6, and stays when other panels go."""

    number: int
    name: str

    @property
    def mark(self) -> str:
        """The panel's shape, e.g. ``"▲"``."""
        return MARKS[self.number - 1]

    @property
    def title(self) -> str:
        """What stands above the picture, e.g. ``"2 ▲ SegResNet"``."""
        return f"{self.number} {self.mark} {self.name}"


class Arrangement:
    """The state of the linked views.

    Flicker and wipe compare the two panels that had the focus last (`pair`): the lower number is the one on the
    left of the wipe.

    Parameters
    ----------
    names
        The candidates' names, 2 to 6, in the order of the panels.

    Raises
    ------
    InputError
        If there are fewer than 2 or more than 6.
    """

    changed = Signal()

    def __init__(self, names: list[str] | tuple[str, ...]) -> None:
        if not FEWEST_PANELS <= len(names) <= MOST_PANELS:
            raise InputError(
                f"{len(names)} candidate{'' if len(names) == 1 else 's'} chosen for the linked views; "
                f"choose {FEWEST_PANELS} to {MOST_PANELS}."
            )
        self.panels = tuple(Panel(k, name) for k, name in enumerate(names, start=1))
        self.mode = Mode.PANELS
        self.focus = 1
        self.maximised = False
        self.outlines = True
        self.split = 0.5
        self._before = 2
        self._second_in_front = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the panels that are left."""
        return tuple(panel.number for panel in self.panels)

    def panel(self, number: int) -> Panel:
        """The panel with this number."""
        return next(panel for panel in self.panels if panel.number == number)

    @property
    def pair(self) -> tuple[int, ...]:
        """The panels compared by flicker and wipe, lower number first; one number when one panel is left."""
        return tuple(sorted({self.focus, self._before}))

    @property
    def shown(self) -> tuple[int, ...]:
        """Numbers of the panels whose candidates are in the picture now."""
        if self.mode is Mode.WIPE:
            return self.pair
        if self.mode is Mode.FLICKER:
            return (self.pair[-1] if self._second_in_front else self.pair[0],)
        return (self.focus,) if self.maximised and self.panels else self.numbers

    @property
    def side_by_side(self) -> bool:
        """Whether every panel has a cell of its own."""
        return self.mode is Mode.PANELS and not self.maximised

    # -- what a person does ------------------------------------------------------------------------------

    def press(self, number: int) -> None:
        """Focus a panel; on the panel that has the focus already, maximise or restore it.

        Under flicker and wipe the panel joins the pair instead. Numbers without a panel do nothing.
        """
        if number not in self.numbers:
            return
        if number != self.focus:
            self._take_focus(number)
        elif self.mode is Mode.PANELS:
            self.maximised = not self.maximised
        self.changed.emit()

    def focus_on(self, number: int) -> None:
        """Focus a panel without maximising it."""
        if number in self.numbers and number != self.focus:
            self._take_focus(number)
            self.changed.emit()

    def flicker(self) -> None:
        """Show one candidate of the pair in the whole picture; called again, the other one."""
        if len(self.pair) < FEWEST_PANELS:
            return
        if self.mode is Mode.FLICKER:
            self._second_in_front = not self._second_in_front
        else:
            self.mode, self._second_in_front = Mode.FLICKER, False
        self.changed.emit()

    def wipe(self) -> None:
        """Both candidates of the pair in one picture with a divider between; called again, back to the panels."""
        if len(self.pair) < FEWEST_PANELS:
            return
        self.mode = Mode.PANELS if self.mode is Mode.WIPE else Mode.WIPE
        self.changed.emit()

    def leave(self) -> bool:
        """One step back: out of flicker or wipe, then out of a maximised panel.

        Returns
        -------
        left
            Whether there was anything to leave.
        """
        if self.mode is not Mode.PANELS:
            self.mode = Mode.PANELS
        elif self.maximised:
            self.maximised = False
        else:
            return False
        self.changed.emit()
        return True

    def move_split(self, to: float) -> None:
        """Put the divider of the wipe at this share of the picture's width, 0 to 1."""
        to = min(1.0, max(0.0, to))
        if to != self.split:
            self.split = to
            self.changed.emit()

    def show_outlines(self, on: bool) -> None:
        """Draw labels as outlines, or filled."""
        if on != self.outlines:
            self.outlines = on
            self.changed.emit()

    # -- what happens to the candidates ------------------------------------------------------------------

    def rename(self, number: int, name: str) -> None:
        """Give a panel its candidate's new name."""
        self.panels = tuple(replace(p, name=name) if p.number == number else p for p in self.panels)
        self.changed.emit()

    def remove(self, number: int) -> None:
        """Take a panel away; the others keep their numbers."""
        self.panels = tuple(p for p in self.panels if p.number != number)
        left = self.numbers
        if left:
            if self.focus not in left:
                self.focus = self._before if self._before in left else left[0]
            if self._before not in left or self._before == self.focus:
                self._before = next((n for n in left if n != self.focus), self.focus)
        if len(left) < FEWEST_PANELS:
            self.mode, self.maximised = Mode.PANELS, False
        self.changed.emit()

    def _take_focus(self, number: int) -> None:
        self._before, self.focus = self.focus, number
        self._second_in_front = self.pair[-1] == number

    # -- where it lies -----------------------------------------------------------------------------------

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of the panels, whichever make the cells most nearly square in `width` × `height`."""
        count = max(1, len(self.panels))
        shapes = [(rows, -(-count // rows)) for rows in range(1, count + 1)]
        # no row may stay empty, and as few cells as possible
        shapes = [(r, c) for r, c in shapes if (r - 1) * c < count]
        return min(shapes, key=lambda s: max(width / s[1], height / s[0]) / max(1.0, min(width / s[1], height / s[0])))

    def cells(self, width: int, height: int) -> dict[int, Cell]:
        """Where each candidate shown lies in a picture of `width` × `height` pixels, by panel number.

        Side by side they are the cells of `grid` with `GAP` pixels between; under the wipe the two sides of the
        divider.
        """
        if not self.side_by_side:
            if self.mode is Mode.WIPE:
                at = round(self.split * width)
                left, right = self.pair
                return {left: Cell(0, 0, at, height), right: Cell(at, 0, width - at, height)}
            return dict.fromkeys(self.shown, Cell(0, 0, width, height))
        rows, columns = self.grid(width, height)
        across, down = (width - GAP * (columns - 1)) / columns, (height - GAP * (rows - 1)) / rows
        cells = {}
        for place, number in enumerate(self.numbers):
            row, column = divmod(place, columns)
            left, top = round(column * (across + GAP)), round(row * (down + GAP))
            right, bottom = round(column * (across + GAP) + across), round(row * (down + GAP) + down)
            cells[number] = Cell(left, top, right - left, bottom - top)
        return cells
