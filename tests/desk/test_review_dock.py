"""The Review dock in a real window: errors found, looked at, decided, painted away and kept."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from napari.layers import Labels, Layer
from napari.layers._source import layer_source
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QAbstractButton, QFormLayout, QLabel

from napari_medseg.case import Geometry, LabelTable, Segmentation
from napari_medseg.desk.layers import labels_layer
from napari_medseg.desk.linked.following import camera_of
from napari_medseg.desk.review_dock import ReviewDock
from napari_medseg.desk.reviewing.listing import row_after
from napari_medseg.desk.reviewing.outline import NAME, outline_of
from napari_medseg.evaluate.review import State
from napari_medseg.io import open_segmentation, write_segmentation

TABLE = LabelTable.from_names({1: "liver", 2: "tumour"})


@pytest.fixture
def review(make_napari_viewer, qtbot):
    """A shown viewer with candidate and reference, and the dock with their errors found."""

    def make(candidate, reference, *, find=True, shown=True, prepare=lambda layers: None):
        viewer = make_napari_viewer(show=shown)
        layers = []
        for labels in (reference, candidate):
            layer = labels if isinstance(labels, Layer) else Layer.create(*labels_layer(labels))
            layers.append(viewer.add_layer(layer))
        prepare(layers)
        dock = ReviewDock(viewer)
        viewer.window.add_dock_widget(dock, name="Review")
        if find:
            dock.candidate.choose(layers[1])
            dock.reference.choose(layers[0])
            click(qtbot, dock.run_bar.run)
            wait(qtbot, dock)
        return viewer, dock

    return make


def click(qtbot, button):
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, button.height() // 2))


def wait(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.run_bar.busy, timeout=20_000)


def press(qtbot, viewer, key, modifier=Qt.KeyboardModifier.NoModifier):
    """As if typed over the canvas."""
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, key, modifier)


def labels_of(data, spacing=None, unit="mm", name="labels", **options):
    axes = len(data.shape) - int(options.get("axes", "").startswith("t"))
    unit = unit if spacing else None
    geometry = Geometry.from_spacing(data.shape[-axes:], spacing, unit) if spacing else None
    geometry = geometry or Geometry.from_spacing(data.shape[-axes:], None)
    return Segmentation(data, geometry, TABLE, name=name, **options)


def plain_pair():
    """A reference with one square; the candidate misses a corner of it and invents two blobs, 40 and 6 pixels."""
    reference = np.zeros((60, 80), np.uint8)
    reference[10:30, 10:30] = 1
    candidate = reference.copy()
    candidate[10:14, 10:15] = 0
    candidate[40:45, 50:58] = 2
    candidate[50:52, 20:23] = 1
    return labels_of(candidate, (0.5, 0.5), "um", "model"), labels_of(reference, (0.5, 0.5), "um", "truth")


def cells(dock):
    model = dock.table.regions
    return [[model.data(model.index(r, c)) for c in range(model.columnCount())] for r in range(model.rowCount())]


def states(dock):
    return [row[1] for row in cells(dock)]


def slice_shown(layer):
    return np.asarray(layer._slice.image.raw)


# -- finding and going through ---------------------------------------------------------------------


def test_regions_are_listed_with_units_and_ranked(qtbot, review):
    _, dock = review(*plain_pair())
    rows = cells(dock)
    assert [r[:5] for r in rows] == [
        ["1", "open", "false positive", "tumour", "10 µm²"],
        ["2", "open", "false negative", "liver", "5 µm²"],
        ["3", "open", "false positive", "liver", "1.5 µm²"],
    ]
    # the missing corner reaches 4 pixels of 0.5 µm into the square, as far as its row
    assert rows[1][5] == "2 µm"
    assert dock.decisions.progress.text() == "0 of 3 decided"
    assert dock.message.text() == "3 regions found. N goes to the first."


@pytest.mark.slow
def test_orders_weights_and_filters(qtbot, review):
    _, dock = review(*plain_pair())
    dock.choices.by.setCurrentText("clinical weight")
    assert dock.choices.weight_table.isVisible()
    dock.choices.weight_table.item(0, 1).setText("5")
    assert [r[3] for r in cells(dock)] == ["liver", "liver", "tumour"]
    dock.choices.only_error.setCurrentText("false positive")
    assert [(r[0], r[2], r[3]) for r in cells(dock)] == [
        ("2", "false positive", "liver"),
        ("3", "false positive", "tumour"),
    ]
    dock.choices.only_state.setCurrentText("ignored")
    assert cells(dock) == []
    assert dock.choices._empty.isVisible()


def test_keys_on_the_canvas_step_and_decide(qtbot, review):
    viewer, dock = review(*plain_pair())
    viewer.layers.selection.active = viewer.layers["model"]
    press(qtbot, viewer, Qt.Key.Key_N)
    assert dock.table.currentIndex().row() == 0
    # the blob of rows 40-44 and columns 50-57, in micrometres
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (42 * 0.5, 53.5 * 0.5))
    height, width = viewer.window._qt_viewer.canvas.size
    assert camera_of(viewer).zoom == pytest.approx(min(height / 3 / 4, width / 3 / 4))
    press(qtbot, viewer, Qt.Key.Key_A)
    press(qtbot, viewer, Qt.Key.Key_N)
    press(qtbot, viewer, Qt.Key.Key_N)
    press(qtbot, viewer, Qt.Key.Key_I)
    press(qtbot, viewer, Qt.Key.Key_P)
    assert dock.table.currentIndex().row() == 1
    assert states(dock) == ["accepted", "open", "ignored"]
    assert dock.decisions.progress.text() == "2 of 3 decided"
    # napari's own meaning of P, the brush, was not woken
    assert viewer.layers["model"].mode == "pan_zoom"


def test_a_layer_that_is_drawn_on_keeps_its_keys(qtbot, review):
    viewer, dock = review(*plain_pair())
    layer = viewer.layers.selection.active = viewer.layers["model"]
    press(qtbot, viewer, Qt.Key.Key_N)
    layer.mode = "paint"
    press(qtbot, viewer, Qt.Key.Key_F)
    assert layer.mode == "fill"
    assert states(dock)[0] == "open"
    press(qtbot, viewer, Qt.Key.Key_F, Qt.KeyboardModifier.ShiftModifier)
    assert states(dock)[0] == "fixed"
    press(qtbot, viewer, Qt.Key.Key_N)
    assert dock.table.currentIndex().row() == 1
    layer.mode = "pan_zoom"
    press(qtbot, viewer, Qt.Key.Key_P)
    assert dock.table.currentIndex().row() == 0


def test_keys_in_the_dock_but_not_while_typing(qtbot, review):
    viewer, dock = review(*plain_pair())
    window = viewer.window._qt_window
    window.activateWindow()
    dock.table.setFocus()
    qtbot.waitUntil(window.isActiveWindow)
    assert dock.current is None
    qtbot.keyClick(dock.table, Qt.Key.Key_N)
    assert dock.table.currentIndex().row() == 0
    dock.decisions.note.setFocus()
    qtbot.keyClicks(dock.decisions.note, "on a fine pia")
    assert dock.decisions.note.text() == "on a fine pia"
    assert dock.table.currentIndex().row() == 0
    assert states(dock)[0] == "open"
    qtbot.keyClick(dock.decisions.note, Qt.Key.Key_Return)
    assert dock.session.queue.item(dock.current).note == "on a fine pia"
    dock.table.setFocus()
    qtbot.keyClick(dock.table, Qt.Key.Key_O)
    qtbot.keyClick(dock.table, Qt.Key.Key_F)
    assert states(dock)[0] == "fixed"
    assert dock.session.queue.item(dock.current).note == "on a fine pia"


def test_selecting_a_row_by_mouse_looks_at_it(qtbot, review):
    viewer, dock = review(*plain_pair())
    spot = dock.table.visualRect(dock.table.regions.index(1, 2)).center()
    qtbot.mouseClick(dock.table.viewport(), Qt.MouseButton.LeftButton, pos=spot)
    # the corner of rows 10-13 and columns 10-14, in micrometres
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (11.5 * 0.5, 12 * 0.5))
    qtbot.keyClick(dock.table, Qt.Key.Key_Down)
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (50.5 * 0.5, 21 * 0.5))


def test_a_decided_region_that_is_filtered_out_stays_the_current_one(qtbot, review):
    _, dock = review(*plain_pair())
    dock.choices.only_state.setCurrentText("open")
    dock.next()
    dock.decide(State.ACCEPTED)
    assert [r[0] for r in cells(dock)] == ["2", "3"]
    dock.next()
    assert dock.table.currentIndex().row() == 0
    assert cells(dock)[0][3] == "liver"


def test_row_after_goes_round():
    class Item:
        def __init__(self, number):
            self.id = number

    rows = [(2, Item(7)), (5, Item(8))]
    assert row_after(rows, None, 0, 1) == 0
    assert row_after(rows, None, 0, -1) == 1
    assert row_after(rows, 8, 5, 1) == 0
    # the current one, of rank 3, is not listed
    assert row_after(rows, 9, 3, 1) == 1
    assert row_after(rows, 9, 3, -1) == 0
    assert row_after(rows, 9, 6, 1) == 0
    assert row_after([], 9, 6, 1) is None


# -- where the view goes -----------------------------------------------------------------------------


def blob_in(shape, where):
    data = np.zeros(shape, np.uint8)
    data[where] = 1
    return data


def test_view_of_a_volume_that_is_stored_turned(qtbot, review, volume):
    """The file's axes are right, inferior, anterior; the layer's are inferior, posterior, left."""
    where = np.s_[4:7, 10:15, 16:24]
    candidate = Segmentation(blob_in(volume.shape, where), volume.geometry, TABLE, name="model")
    reference = Segmentation(np.zeros(volume.shape, np.uint8), volume.geometry, TABLE, name="truth")
    viewer, dock = review(candidate, reference)
    dock.next()
    # centre of the block in the patient: R = 2 * 5 - 30, A = 19.5 + 7, S = -1.5 * 12 + 12; the viewer's are -S, -A, -R
    assert viewer.dims.point[0] == pytest.approx(6.0)
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (-26.5, 20.0))
    shown = slice_shown(viewer.layers["model"])
    assert np.count_nonzero(shown) == 3 * 8


@pytest.mark.parametrize(
    "order", [(1, 0, 2), *(pytest.param(o, marks=pytest.mark.slow) for o in [(0, 1, 2), (2, 1, 0), (0, 2, 1)])]
)
def test_view_and_outline_in_any_order_of_a_rotated_anisotropic_layer(qtbot, review, order):
    data = blob_in((12, 20, 24), np.s_[8, 5:9, 6:9])
    options = {"scale": (4, 1, 2), "rotate": [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]], "translate": (3, 5, 7)}
    matrix = np.eye(4)
    matrix[1, 2] = 0.3
    model = Labels(data, name="model", affine=matrix, **options)
    truth = Labels(np.zeros_like(data), name="truth", affine=matrix, **options)
    viewer, dock = review(model, truth, shown=False)
    viewer.dims.order = order
    dock.next()
    hidden, displayed = order[0], order[1:]
    shown = slice_shown(model)
    expected = [data.any(axis=tuple(a for a in range(3) if a != k)).sum() for k in displayed]
    assert np.count_nonzero(shown) == np.prod(expected)
    # the outline encloses as much of the world as the voxels do, as napari draws them
    qtbot.wait(20)
    drawn = viewer.layers[NAME]
    world = np.array([drawn.data_to_world(p) for p in drawn.data[0]])[:, displayed]
    matrix = model._data_to_world.set_slice(list(displayed)).affine_matrix
    voxel = abs(np.linalg.det(matrix[:2, :2]))
    assert abs(shoelace(world)) == pytest.approx(np.prod(expected) * voxel)
    middle = np.asarray(camera_of(viewer).center[-2:])
    np.testing.assert_allclose(middle, (world.max(0) + world.min(0)) / 2, atol=1e-6)
    assert np.ptp(drawn.data[0][:, hidden]) == 0


def shoelace(corners):
    y, x = corners[:-1].T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_view_of_a_pyramid(qtbot, review):
    data = blob_in((512, 512), np.s_[300:320, 100:130])
    empty = np.zeros_like(data)

    def pyramid(array, name):
        return Labels([array, array[::2, ::2], array[::4, ::4]], name=name, multiscale=True, scale=(0.25, 0.25))

    viewer, dock = review(pyramid(data, "model"), pyramid(empty, "truth"))
    dock.next()
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (309.5 * 0.25, 114.5 * 0.25))
    assert len(viewer.layers[NAME].data) == 1


def test_view_of_a_video_goes_to_the_frame(qtbot, review):
    data = blob_in((9, 40, 40), np.s_[6, 10:20, 30:36])
    viewer, dock = review(
        labels_of(data, (1.0, 1.0), name="model", axes="tyx", seconds_per_frame=0.04),
        labels_of(np.zeros_like(data), (1.0, 1.0), name="truth", axes="tyx", seconds_per_frame=0.04),
    )
    dock.next()
    assert viewer.dims.point[0] == pytest.approx(6 * 0.04)
    assert np.count_nonzero(slice_shown(viewer.layers["model"])) == 60
    viewer.dims.set_point(0, 5 * 0.04)
    qtbot.waitUntil(lambda: len(viewer.layers[NAME].data) == 0)
    # no slider became finer or coarser by the outline
    assert viewer.dims.range[0].step == pytest.approx(0.04)


@pytest.mark.slow
def test_view_in_three_dimensions(qtbot, review):
    data = blob_in((12, 20, 24), np.s_[2:6, 5:9, 6:10])
    viewer, dock = review(
        labels_of(data, (2.0, 1.0, 1.0), name="model"), labels_of(np.zeros_like(data), (2.0, 1.0, 1.0), name="truth")
    )
    viewer.dims.ndisplay = 3
    dock.next()
    np.testing.assert_allclose(camera_of(viewer).center, (7.0, 6.5, 7.5))
    # the twelve edges of its box
    drawn = viewer.layers[NAME]
    assert len(drawn.data) == 12
    ends = np.concatenate([[drawn.data_to_world(p) for p in line] for line in drawn.data])
    np.testing.assert_allclose([ends.min(0), ends.max(0)], [(3, 4.5, 5.5), (11, 8.5, 9.5)])


@pytest.mark.slow
def test_a_flat_picture_in_three_dimensions_is_looked_at_without_an_outline(qtbot, review):
    viewer, dock = review(*plain_pair())
    dock.next()
    viewer.dims.ndisplay = 3
    dock.next()
    np.testing.assert_allclose(camera_of(viewer).center[-2:], (11.5 * 0.5, 12 * 0.5))
    viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: NAME in viewer.layers)


# -- the outline -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(mask=hnp.arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_outline_encloses_exactly_the_pixels(mask):
    loops = outline_of(mask, np.array([1, 1]))
    # holes run the other way round and are taken off
    assert sum(shoelace(loop) for loop in loops) == pytest.approx(np.count_nonzero(mask))
    for loop in loops:
        np.testing.assert_array_equal(loop[0], loop[-1])


def test_outline_lies_on_the_edge_of_the_region_in_the_picture(qtbot, review):
    viewer, dock = review(*plain_pair())
    viewer.layers["model"].visible = viewer.layers["truth"].visible = False
    dock.next()
    qtbot.wait(100)
    picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    yellow = (picture[..., 0] > 150) & (picture[..., 1] > 140) & (picture[..., 2] < 120)
    rows, columns = np.nonzero(yellow)
    ratio = picture.shape[1] / viewer.window._qt_viewer.canvas.size[1]
    zoom = camera_of(viewer).zoom * ratio
    middle = np.array(picture.shape[:2]) / 2
    # 5 by 8 pixels of 0.5 µm around the middle of the view; the line is a twelfth of a pixel wide
    expected = np.array([5, 8]) * 0.5 * zoom / 2
    found = np.array([[rows.min(), columns.min()], [rows.max() + 1, columns.max() + 1]])
    np.testing.assert_allclose(found, [middle - expected, middle + expected], atol=0.1 * zoom)
    inside = yellow[int(middle[0]) - 5 : int(middle[0]) + 5, int(middle[1]) - 5 : int(middle[1]) + 5]
    assert not inside.any()


def test_the_labels_stay_selected_and_the_outline_goes_with_the_dock(qtbot, review):
    viewer, dock = review(*plain_pair())
    viewer.layers.selection.active = viewer.layers["model"]
    dock.next()
    assert viewer.layers.selection.active is viewer.layers["model"]
    assert NAME in viewer.layers
    viewer.window.remove_dock_widget(dock)
    assert NAME not in viewer.layers
    # P is napari's brush again
    press(qtbot, viewer, Qt.Key.Key_P)
    assert viewer.layers["model"].mode == "paint"


def test_the_outline_comes_back_when_it_was_deleted(qtbot, review):
    viewer, dock = review(*plain_pair())
    dock.next()
    viewer.layers.remove(NAME)
    dock.next()
    assert len(viewer.layers[NAME].data) == 1


# -- edits -------------------------------------------------------------------------------------------


def test_painting_an_error_away_makes_its_region_fixed(qtbot, review):
    viewer, dock = review(*plain_pair())
    layer = viewer.layers["model"]
    dock.next()
    number = dock.current
    layer.data_setitem(np.nonzero(np.asarray(layer.data) == 2), 0)
    qtbot.waitUntil(lambda: states(dock)[0] == "fixed", timeout=5000)
    assert dock.current == number
    assert dock.table.currentIndex().row() == 0
    assert dock.decisions.progress.text() == "1 of 3 decided"
    layer.undo()
    qtbot.waitUntil(lambda: states(dock)[0] == "open", timeout=5000)
    layer.redo()
    qtbot.waitUntil(lambda: states(dock)[0] == "fixed", timeout=5000)


def test_brush_strokes_on_a_turned_volume_reach_the_region(qtbot, review, volume):
    candidate = Segmentation(blob_in(volume.shape, np.s_[4:7, 12, 16:18]), volume.geometry, TABLE, name="model")
    reference = Segmentation(np.zeros(volume.shape, np.uint8), volume.geometry, TABLE, name="truth")
    viewer, dock = review(candidate, reference)
    dock.next()
    layer = viewer.layers["model"]
    layer.brush_size = 1
    spots = np.argwhere(np.asarray(layer.data))
    for spot in spots[:3]:
        layer.paint(tuple(spot), 0)
    qtbot.waitUntil(lambda: cells(dock)[0][4] == "9 mm³", timeout=5000)
    for spot in spots[3:]:
        layer.paint(tuple(spot), 0)
    qtbot.waitUntil(lambda: states(dock)[0] == "fixed", timeout=5000)
    # a new error elsewhere joins the list
    layer.paint((1, 2, 3), 2)
    qtbot.waitUntil(lambda: len(cells(dock)) == 2, timeout=5000)


@pytest.mark.slow
def test_another_array_is_compared_as_a_whole_and_decisions_stay(qtbot, review):
    viewer, dock = review(*plain_pair())
    dock.next()
    dock.decide(State.ACCEPTED)
    layer = viewer.layers["model"]
    data = np.asarray(layer.data).copy()
    data[50:52, 20:23] = 0
    layer.data = data
    qtbot.waitUntil(lambda: states(dock) == ["accepted", "open", "fixed"], timeout=5000)


# -- keeping -----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    candidate, reference = plain_pair()
    write_segmentation(candidate, tmp_path / "model.ome.zarr")
    write_segmentation(reference, tmp_path / "truth.ome.zarr")
    return tmp_path / "model.ome.zarr", tmp_path / "truth.ome.zarr"


def opened(path):
    # as napari notes where a file came from when it is opened through its menu
    with layer_source(path=str(path)):
        return Layer.create(*labels_layer(open_segmentation(path)))


def test_decisions_are_kept_with_the_file_and_come_back(qtbot, review, files):
    viewer, dock = review(opened(files[0]), opened(files[1]))
    assert dock.decisions.kept.text().startswith("Decisions are kept with ")
    dock.next()
    dock.decide(State.IGNORED)
    dock.decisions.note.setText("artefact")
    dock.decisions.note.editingFinished.emit()
    session = dock.session
    qtbot.waitUntil(lambda: session not in type(session)._saving)
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()

    viewer, dock = review(opened(files[0]), opened(files[1]))
    assert "goes on" in dock.message.text()
    assert states(dock) == ["ignored", "open", "open"]
    dock.next()
    assert dock.decisions.note.text() == "artefact"
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()

    # another reference: refused in one sentence, and a new review is possible
    viewer, dock = review(opened(files[0]), labels_of(np.zeros((60, 80), np.uint8), (0.5, 0.5), "um", "other"))
    assert dock.message.is_error and "another reference" in dock.message.text()
    click(qtbot, dock.choices.anew)
    click(qtbot, dock.run_bar.run)
    wait(qtbot, dock)
    assert not dock.message.is_error
    dock.next()
    dock.decide(State.ACCEPTED)
    qtbot.waitUntil(lambda: dock.session not in type(dock.session)._saving)
    assert not dock.message.is_error, dock.message.text()


@pytest.mark.slow
def test_edits_that_are_not_on_disk_do_not_spoil_the_review_that_is(qtbot, review, files):
    viewer, dock = review(opened(files[0]), opened(files[1]))
    layer = dock.candidate.layer
    layer.data_setitem(np.nonzero(np.asarray(layer.data) == 2), 0)
    qtbot.waitUntil(lambda: states(dock)[0] == "fixed", timeout=5000)
    assert "edited" in dock.decisions.kept.text()
    dock.next()
    dock.next()
    dock.decide(State.ACCEPTED)
    session = dock.session
    qtbot.waitUntil(lambda: session not in type(session)._saving)
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    viewer, dock = review(opened(files[0]), opened(files[1]))
    assert states(dock) == ["open", "accepted", "open"]


@pytest.mark.slow
def test_labels_in_memory_are_kept_together_with_their_review(qtbot, review, tmp_path):
    candidate, reference = plain_pair()
    viewer, dock = review(candidate, reference)
    assert "in memory only" in dock.decisions.kept.text()
    dock.next()
    dock.decide(State.ACCEPTED)
    layer = viewer.layers["model"]
    layer.data_setitem((np.array([50]), np.array([20])), 0)
    qtbot.waitUntil(lambda: cells(dock)[2][4] == "1.25 µm²", timeout=5000)
    dock.keep_in(tmp_path / "kept.ome.zarr")
    wait(qtbot, dock)
    assert dock.message.text() == "Labels and review are kept in kept.ome.zarr.", dock.message.text()
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    viewer, dock = review(opened(tmp_path / "kept.ome.zarr"), reference)
    assert states(dock) == ["accepted", "open", "open"], dock.message.text()


# -- bad input, going away ---------------------------------------------------------------------------


def test_mismatch_and_emptiness_are_one_sentence(qtbot, review, make_napari_viewer):
    candidate, _ = plain_pair()
    _, dock = review(candidate, labels_of(np.zeros((60, 81), np.uint8), (0.5, 0.5), "um", "truth"))
    assert dock.message.is_error
    assert "different grids" in dock.message.text() and "shape" in dock.message.text()
    assert dock.session is None
    dock.reference.choose(dock.candidate.layer)
    click(qtbot, dock.run_bar.run)
    wait(qtbot, dock)
    assert "both candidate and reference" in dock.message.text()


def test_no_layers_and_no_errors(qtbot, review, make_napari_viewer):
    viewer = make_napari_viewer()
    dock = ReviewDock(viewer)
    viewer.window.add_dock_widget(dock)
    click(qtbot, dock.run_bar.run)
    assert "nothing to compare" in dock.message.text()
    reference = plain_pair()[1]
    first = viewer.add_layer(Layer.create(*labels_layer(reference)))
    second = viewer.add_layer(Layer.create(*labels_layer(reference)))
    dock.show_pair(second, first)
    wait(qtbot, dock)
    assert dock.message.text().startswith("No errors")
    dock.next()
    assert dock.current is None


def test_a_deleted_layer_ends_the_review(qtbot, review):
    viewer, dock = review(*plain_pair())
    dock.next()
    viewer.layers.remove("truth")
    assert dock.session is None
    assert cells(dock) == []
    assert NAME not in viewer.layers
    assert "truth was removed" in dock.message.text()
    viewer.layers.selection.active = viewer.layers["model"]
    press(qtbot, viewer, Qt.Key.Key_P)
    assert viewer.layers["model"].mode == "paint"


@pytest.mark.slow
def test_closing_while_errors_are_found(qtbot, review):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 2, (40, 200, 200)).astype(np.uint8)
    viewer, dock = review(Labels(data), Labels(np.zeros_like(data)), find=False, shown=False)
    click(qtbot, dock.run_bar.run)
    work = dock._work
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not work.running, timeout=20_000)
    qtbot.wait(20)
    assert dock.session is None


def test_mnemonics_are_unique_and_everything_has_a_tooltip(qtbot, review):
    _, dock = review(*plain_pair())
    texts = [w.text() for w in dock.findChildren(QAbstractButton) if w.text()]
    texts += [w.text() for w in dock.findChildren(QLabel) if "&" in w.text()]
    letters = [t[t.index("&") + 1].lower() for t in texts if "&" in t]
    assert len(letters) == len(set(letters)), sorted(letters)
    assert len(letters) >= 17
    for button in dock.findChildren(QAbstractButton):
        if button.text():
            assert button.toolTip(), button.text()
    for form in dock.findChildren(QFormLayout):
        for row in range(form.rowCount()):
            field = form.itemAt(row, QFormLayout.ItemRole.FieldRole)
            if field is not None and field.widget() is not None and not isinstance(field.widget(), QLabel):
                assert field.widget().toolTip()


def test_opening_the_dock_loads_nothing_heavy():
    code = (
        "import sys, napari_medseg.desk.review_dock;"
        "print([m for m in ('torch', 'monai', 'SimpleITK', 'cc3d') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
