"""Which panel shows what: no window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_medseg.case import InputError
from napari_medseg.desk.linked.arrangement import GAP, Arrangement, Cell, Mode
from napari_medseg.desk.linked.following import matching_order


def of(count):
    return Arrangement([f"model {k}" for k in range(1, count + 1)])


@pytest.mark.parametrize("count", [0, 1, 7])
def test_two_to_six_candidates(count):
    with pytest.raises(InputError, match=rf"{count} candidates? chosen.*choose 2 to 6"):
        of(count)


def test_titles_tell_panels_apart_without_colour():
    panels = of(6).panels
    assert panels[1].title == "2 ▲ model 2"
    assert len({panel.mark for panel in panels}) == 6


def test_a_number_focuses_then_maximises_then_restores():
    views = of(4)
    views.press(3)
    assert (views.focus, views.shown) == (3, (1, 2, 3, 4))
    views.press(3)
    assert views.shown == (3,)
    # another number changes the candidate and stays in the large picture
    views.press(2)
    assert views.shown == (2,)
    views.press(2)
    assert views.shown == (1, 2, 3, 4)
    views.press(6)
    assert views.focus == 2


def test_flicker_alternates_between_the_two_panels_focused_last():
    views = of(4)
    views.press(4)
    views.press(2)
    seen = []
    for _ in range(4):
        views.flicker()
        seen.append(views.shown)
    assert seen == [(2,), (4,), (2,), (4,)]
    # a number joins the pair and is shown at once
    views.press(3)
    assert (views.pair, views.shown) == ((2, 3), (3,))


def test_escape_leaves_one_thing_after_the_other():
    views = of(2)
    views.press(1)
    views.wipe()
    assert (views.mode, views.maximised) == (Mode.WIPE, True)
    assert views.leave()
    assert views.shown == (1,)
    assert views.leave()
    assert views.shown == (1, 2)
    assert not views.leave()


def test_wipe_splits_the_picture_without_gap():
    views = of(3)
    views.press(3)
    views.wipe()
    views.move_split(0.25)
    assert views.cells(800, 600) == {1: Cell(0, 0, 200, 600), 3: Cell(200, 0, 600, 600)}
    views.move_split(1.7)
    assert views.cells(800, 600) == {1: Cell(0, 0, 800, 600), 3: Cell(800, 0, 0, 600)}
    views.wipe()
    assert views.mode is Mode.PANELS


def test_removed_panels_leave_numbers_and_focus_in_order():
    views = of(3)
    views.press(3)
    views.wipe()
    views.remove(3)
    assert (views.numbers, views.focus, views.pair, views.mode) == ((1, 2), 1, (1, 2), Mode.WIPE)
    views.remove(1)
    assert (views.numbers, views.focus, views.mode) == ((2,), 2, Mode.PANELS)
    # one candidate cannot be compared
    views.flicker()
    views.wipe()
    assert views.mode is Mode.PANELS
    views.rename(2, "new")
    assert views.panel(2).title == "2 ▲ new"
    views.remove(2)
    assert views.shown == () and views.cells(100, 100) == {}


def test_changes_are_told_once_and_only_when_there_are_any():
    views, told = of(2), []
    views.changed.connect(lambda: told.append(1))
    views.focus_on(2)
    views.focus_on(2)
    views.move_split(0.5)
    views.show_outlines(True)
    views.press(9)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("count", "width", "height", "grid"),
    [
        (2, 1200, 700, (1, 2)),
        (2, 500, 900, (2, 1)),
        (4, 1200, 800, (2, 2)),
        (6, 1200, 800, (2, 3)),
        (3, 1500, 500, (1, 3)),
    ],
)
def test_grid_takes_the_shape_of_the_window(count, width, height, grid):
    assert of(count).grid(width, height) == grid


@given(st.integers(2, 6), st.integers(60, 3000), st.integers(60, 3000))
def test_panels_fill_the_picture_and_never_overlap(count, width, height):
    cells = of(count).cells(width, height)
    assert list(cells) == list(range(1, count + 1))
    covered = np.zeros((height, width), np.uint8)
    for cell in cells.values():
        covered[cell.y : cell.y + cell.height, cell.x : cell.x + cell.width] += 1
        assert cell.x + cell.width <= width and cell.y + cell.height <= height
    assert covered.max() == 1
    rows, columns = of(count).grid(width, height)
    sizes = np.array([cell[2:] for cell in cells.values()])
    assert np.ptp(sizes, axis=0).max() <= 1
    assert abs(sizes[:, 0].mean() - (width - GAP * (columns - 1)) / columns) <= 1
    assert (rows - 1) * columns < count <= rows * columns


@pytest.mark.parametrize(
    ("order", "ndim", "expected"),
    [
        ((0, 1, 2), 3, (0, 1, 2)),
        ((2, 0, 1), 3, (2, 0, 1)),
        ((1, 0, 2), 2, (0, 1)),
        ((0, 3, 1, 2), 3, (2, 0, 1)),
        ((1, 0), 4, (0, 1, 3, 2)),
    ],
)
def test_order_of_axes_between_viewers_of_different_dimension(order, ndim, expected):
    assert matching_order(order, ndim) == expected
