"""The Compare dock in a real window: choose, compare, read, sort, copy, look at errors, correct them."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from napari.layers import Image, Layer
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QFileDialog,
    QLabel,
    QListWidget,
    QTableView,
    QWidget,
)
from scipy.ndimage import distance_transform_edt

from napari_medseg.case import Geometry, LabelTable, Provenance, Segmentation, Step
from napari_medseg.desk.compare_dock import CompareDock
from napari_medseg.desk.comparing import error_maps, scoring
from napari_medseg.desk.comparing.error_maps import MapKind, MapOrder, is_map, map_of
from napari_medseg.desk.layers import image_layers, labels_layer
from napari_medseg.desk.review_dock import ReviewDock
from napari_medseg.evaluate.errors import ERROR_TABLE, Category
from napari_medseg.evaluate.scoring.score import score

CELLS = LabelTable.from_names(["kidney", "tumour"])


@pytest.fixture
def open_compare(make_napari_viewer, own_models):
    """A shown viewer with an image, labels on it, and the dock."""

    def make(image, *labels):
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1200, 900)
        if image is not None:
            viewer.add_layer(Layer.create(*image_layers(image)[0]))
        for one in labels:
            viewer.add_layer(Layer.create(*labels_layer(one, image)))
        dock = CompareDock(viewer)
        viewer.window.add_dock_widget(dock, name="Compare", area="right")
        return viewer, dock

    return make


@pytest.fixture
def flat(slide):
    """A slide's reference with two labels, a candidate that is off by 8 columns, and a better one."""
    right = np.zeros((96, 128), np.uint8)
    right[20:60, 20:60] = 1
    right[70:90, 80:100] = 2
    off = np.zeros_like(right)
    off[20:60, 28:68] = 1
    off[70:90, 80:100] = 1
    near = right.copy()
    near[20, 20:60] = 0
    ran = Provenance().with_step(
        Step.now(
            "segment",
            model={"id": "near_model", "version": "1"},
            seconds=2.5,
            peak_memory=500_000_000,
            device="cpu",
            backend="torch",
            precision="float32",
        )
    )
    return [
        Segmentation(right, slide.geometry, CELLS, name="reference"),
        Segmentation(off, slide.geometry, CELLS, name="off"),
        Segmentation(near, slide.geometry, CELLS, ran, name="near"),
    ]


def click(qtbot, button):
    spot = QPoint(8, button.height() // 2) if button.isCheckable() else button.rect().center()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=spot)


def run(qtbot, dock, timeout=90_000):
    click(qtbot, dock.run_bar.run)
    qtbot.waitUntil(lambda: not dock.run_bar.busy, timeout=timeout)
    qtbot.wait(1)


def focus(qtbot, viewer, widget):
    """The window has the keyboard, and in it `widget`."""
    window = viewer.window._qt_window
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow, timeout=5000)
    widget.setFocus()


def choose_reference(dock, name):
    dock.reference.setCurrentIndex(dock.reference.findText(name))


def table_of(dock):
    """The table as it is shown: heads of rows, and what stands under each heading."""
    model = dock.scores.table.model()
    across, down = Qt.Orientation.Horizontal, Qt.Orientation.Vertical
    headings = [model.headerData(c, across).replace("\n", " ") for c in range(model.columnCount())]
    return {
        tuple(model.headerData(r, down).split("\n")): {
            heading: model.index(r, c).data() for c, heading in enumerate(headings)
        }
        for r in range(model.rowCount())
    }


def cell(dock, row, heading):
    model = dock.scores.table.model()
    rows = [model.headerData(r, Qt.Orientation.Vertical) for r in range(model.rowCount())]
    columns = [model.headerData(c, Qt.Orientation.Horizontal).replace("\n", " ") for c in range(model.columnCount())]
    return model.index(rows.index("\n".join(row)), columns.index(heading))


# -- comparing -------------------------------------------------------------------------------------


def test_the_table_holds_the_scores_of_evaluate(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    assert [layer.name for layer in dock.candidates.layers] == ["near", "off"]
    run(qtbot, dock)
    assert not dock.message.is_error, dock.message.text()
    # 1600 pixels off by 8 of 40 columns, and 400 that are label 2: 2 * 1280 / (1600 + 2000)
    shown = table_of(dock)
    assert shown["kidney", "off"]["Dice"] == "0.7111"
    assert shown["kidney", "near"]["Dice"] == "★ 0.9873"
    for name, own in (("off", flat[1]), ("near", flat[2])):
        wanted = score(own, flat[0])
        for row in wanted.rows:
            for column in wanted.columns():
                sheet_row = next(r for r in dock.scores.model.sheet.rows if (r.label, r.candidate) == (row.name, name))
                k = [c.key for c in dock.scores.model.sheet.columns].index(column.key)
                if column.metric.key in row.values:
                    assert sheet_row.cells[k].value == pytest.approx(row.values[column.metric.key], nan_ok=True)
    assert "HD95 [um]" in shown["kidney", "off"]
    assert dock.message.text().endswith("near, off.")


def test_what_is_best_is_bold_and_starred_and_what_is_undefined_says_why(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    best = cell(dock, ("kidney", "near"), "Dice")
    assert best.data(Qt.ItemDataRole.FontRole).bold() and best.data().startswith("★")
    assert cell(dock, ("kidney", "off"), "Dice").data(Qt.ItemDataRole.FontRole) is None
    # off has no pixel of the tumour: no precision, and infinitely far
    precision = cell(dock, ("tumour", "off"), "Precision")
    assert precision.data() == "–"
    assert "candidate is empty" in precision.data(Qt.ItemDataRole.ToolTipRole)
    assert cell(dock, ("tumour", "off"), "HD95 [um]").data() == "∞"
    model = dock.scores.table.model()
    tip = model.headerData(0, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)
    assert "2 |C and R|" in tip and "Empty masks: 1 where both are empty" in tip and "Higher is better" in tip


def test_time_memory_and_device_stand_beside_the_scores(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    near = table_of(dock)["kidney", "near"]
    assert (near["Time [s]"], near["Peak memory [MB]"], near["Computed by"]) == ("2.5", "500", "cpu, torch, float32")
    unknown = cell(dock, ("kidney", "off"), "Time [s]")
    assert unknown.data() == "–" and "history" in unknown.data(Qt.ItemDataRole.ToolTipRole)


def test_columns_are_chosen_in_the_menu_and_stay_chosen(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    assert "IoU" not in table_of(dock)["kidney", "off"]
    next(a for a in dock.scores.columns.menu().actions() if a.text() == "IoU").trigger()
    next(a for a in dock.scores.columns.menu().actions() if a.text() == "Dice").trigger()
    run(qtbot, dock)
    shown = table_of(dock)["kidney", "off"]
    # 1280 / 2320
    assert shown["IoU"] == "0.5517" and "Dice" not in shown


def test_sorting_by_mouse_and_by_keys_leaves_the_undefined_last(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    table = dock.scores.table
    first = list(table_of(dock))
    column = cell(dock, ("tumour", "off"), "Precision").column()
    header = table.horizontalHeader()
    table.scrollTo(table.model().index(0, column))
    spot = QPoint(header.sectionViewportPosition(column) + header.sectionSize(column) // 2, header.height() // 2)

    def precisions():
        return [row["Precision"].removeprefix("★ ") for row in table_of(dock).values()]

    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=spot)
    once = precisions()
    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=spot)
    twice = precisions()
    numbers = sorted(v for v in once if v != "–")
    assert {tuple(once), tuple(twice)} == {(*numbers, "–"), (*reversed(numbers), "–")}
    table.setCurrentIndex(table.model().index(0, cell(dock, ("kidney", "off"), "Dice").column()))
    qtbot.keyClick(table, Qt.Key.Key_Down, Qt.KeyboardModifier.ControlModifier)
    falling = [float(row["Dice"].removeprefix("★ ")) for row in table_of(dock).values()]
    assert falling == sorted(falling, reverse=True) and falling[0] != falling[-1]
    qtbot.keyClick(table, Qt.Key.Key_0, Qt.KeyboardModifier.ControlModifier)
    assert list(table_of(dock)) == first


def test_copying_the_selection_and_the_whole_table(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    table = dock.scores.table
    at = cell(dock, ("kidney", "near"), "Dice")
    table.setCurrentIndex(at)
    qtbot.keyClick(table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text() == "label\tcandidate\tDice\nkidney\tnear\t0.9873\n"
    click(qtbot, dock.scores.copy)
    lines = [line.split("\t") for line in QGuiApplication.clipboard().text().splitlines()]
    assert len(lines) == 1 + len(table_of(dock)) and len({len(line) for line in lines}) == 1
    assert lines[0][:3] == ["label", "candidate", "Dice"]


def test_csv_holds_every_metric_with_all_digits(qtbot, open_compare, slide, flat, tmp_path, monkeypatch):
    _, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    target = tmp_path / "scores.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    click(qtbot, dock.scores.save)
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    row = next(r for r in rows if (r["label"], r["candidate"]) == ("kidney", "off"))
    assert float(row["dice"]) == 2 * 1280 / 3600
    assert float(row["iou"]) == 1280 / 2320
    assert row["id"] == "1" and row["time_s"] == "nan"
    lost = next(r for r in rows if (r["label"], r["candidate"]) == ("tumour", "off"))
    assert lost["hd95_um"] == "inf" and "hd95_um: infinite: the candidate is empty" in lost["reasons"]


def test_without_a_reference_candidates_are_compared_with_each_other(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, *flat)
    run(qtbot, dock)
    shown = table_of(dock)
    assert shown["kidney", "reference"]["Dice with off"] == "0.7111"
    assert shown["kidney", "off"]["Dice with reference"] == "0.7111"
    assert shown["kidney", "off"]["Dice with off"] == ""
    # both with the reference and with near: (2560 / 3600 + 2 * 1248 / 3560) / 2
    assert float(shown["kidney", "off"]["Mean with others"]) == pytest.approx((2560 / 3600 + 2496 / 3560) / 2, abs=1e-4)
    assert "no scores without a reference" in dock.message.text()


def test_nothing_to_compare_is_said(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide)
    assert "There are no labels to compare" in dock.message.text()
    viewer.add_layer(Layer.create(*labels_layer(flat[0], slide)))
    run(qtbot, dock)
    assert dock.message.text() == "There is nothing to compare: choose a reference, or tick two candidates."
    assert dock.message.is_error and not dock.scores.isVisibleTo(dock)


@pytest.mark.slow
def test_models_are_run_first_and_their_labels_stay(qtbot, open_compare, slide):
    right = (slide.levels[0][..., 0] > 100).astype(np.uint8)
    reference = Segmentation(right, slide.geometry, LabelTable.from_names(["bright"]), name="reference")
    viewer, dock = open_compare(slide, reference)
    choose_reference(dock, "reference")
    assert not dock.models.isVisibleTo(dock)
    click(qtbot, dock.with_models)
    for entry in list(dock.models.ticked):
        dock.models.tick(entry.id, on=False)
    dock.models.tick("bright2d")
    run(qtbot, dock, timeout=400_000)
    assert not dock.message.is_error, dock.message.text()
    row = table_of(dock)["bright", "bright2d"]
    assert row["Dice"] == "1.0000"
    assert float(row["Time [s]"]) > 0 and float(row["Peak memory [MB]"]) > 0 and "cpu" in row["Computed by"]
    assert "bright2d" in viewer.layers and not dock.with_models.isChecked()
    assert [layer.name for layer in dock.candidates.ticked] == ["bright2d"]
    # run again, its labels get a name of their own
    dock.candidates.tick(viewer.layers["bright2d"])
    click(qtbot, dock.with_models)
    for entry in list(dock.models.ticked):
        dock.models.tick(entry.id, on=False)
    dock.models.tick("bright2d")
    run(qtbot, dock, timeout=400_000)
    assert {candidate for _, candidate in table_of(dock)} == {"bright2d", "bright2d [1]"}
    assert "bright2d [1]" in viewer.layers


# -- other grids -----------------------------------------------------------------------------------


def test_another_grid_is_said_in_one_sentence_and_brought_on_by_a_button(qtbot, open_compare, volume):
    fine = (volume.levels[0] > 100).astype(np.uint8)
    reference = Segmentation(fine, volume.geometry, LabelTable.from_names(["lesion"]), name="reference")
    coarse = Segmentation(
        np.repeat(fine, 2, axis=2),
        volume.geometry.scaled((1, 1, 0.5), (20, 24, 56)),
        LabelTable.from_names(["lesion"]),
        name="fine x",
    )
    viewer, dock = open_compare(volume, reference, coarse)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    text = dock.message.text()
    assert dock.message.is_error and "fine x (" in text and "shape" in text and "another grid than head" in text
    assert "--" not in text and "\n" not in text
    assert dock.compared is None and not dock.scores.isVisibleTo(dock)
    before = viewer.layers["fine x"].data.copy()
    click(qtbot, dock.bring)
    qtbot.waitUntil(lambda: not dock.run_bar.busy)
    qtbot.wait(1)
    assert dock.message.text() == "New: fine x on head. Press Compare."
    np.testing.assert_array_equal(viewer.layers["fine x"].data, before)
    moved = viewer.layers["fine x on head"]
    np.testing.assert_array_equal(moved.data, viewer.layers["reference"].data)
    np.testing.assert_allclose(moved.data_to_world((1, 2, 3)), viewer.layers["head"].data_to_world((1, 2, 3)))
    assert [layer.name for layer in dock.candidates.ticked] == ["fine x on head"]
    run(qtbot, dock)
    assert table_of(dock)["lesion", "fine x on head"]["Dice"] == "1.0000"


def test_a_grid_that_cannot_be_brought_on_offers_no_button(qtbot, open_compare, volume):
    plane = Segmentation(
        np.ones((24, 28), np.uint8), Geometry.from_spacing((24, 28), (1, 1), "mm"), CELLS, name="picture"
    )
    other = Segmentation((volume.levels[0] > 0).astype(np.uint8), volume.geometry, CELLS, name="reference")
    _, dock = open_compare(volume, other, plane)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    assert "one is flat and the other a volume" in dock.message.text()
    assert not dock.bring.isVisibleTo(dock)


# -- error maps ------------------------------------------------------------------------------------


def colour_at(viewer, layer, index):
    """Colour of the canvas where the layer has this (row, column)."""
    viewer.window._qt_window.repaint()
    picture = viewer.screenshot(canvas_only=True, flash=False)
    world = np.asarray(layer.data_to_world(index))[list(viewer.dims.displayed)]
    centre = np.asarray(viewer.camera.center[-2:])
    at = (world - centre) * viewer.camera.zoom
    scale = picture.shape[0] / viewer.window._qt_viewer.canvas.native.height()
    row, column = np.round(at * scale + np.asarray(picture.shape[:2]) / 2).astype(int)
    return picture[row, column, :3].astype(int)


def show_map(qtbot, dock, kind):
    dock.errors.kind.setCurrentIndex(list(MapKind).index(kind))
    click(qtbot, dock.errors.button)


def test_error_colours_are_on_the_canvas_and_shares_in_the_legend(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    dock.candidates.tick(viewer.layers["near"], False)
    for name in ("slide", "reference", "off", "near"):
        viewer.layers[name].visible = False
    show_map(qtbot, dock, MapKind.ERRORS)
    shown = viewer.layers["errors of off"]
    shown.opacity = 1
    qtbot.waitUntil(lambda: dock.errors.legend.lines[0][2] != "…")
    assert len([layer for layer in viewer.layers if is_map(layer)]) == 1
    np.testing.assert_allclose(shown.data_to_world((3, 4)), viewer.layers["off"].data_to_world((3, 4)))
    # the legend has made room for itself
    qtbot.wait(200)
    viewer.reset_view()
    qtbot.wait(100)
    for index, category in (
        ((40, 40), Category.AGREEMENT),
        ((40, 64), Category.FALSE_POSITIVE),
        ((40, 24), Category.FALSE_NEGATIVE),
        ((80, 90), Category.WRONG_CLASS),
    ):
        np.testing.assert_allclose(colour_at(viewer, shown, index), ERROR_TABLE.colour(category), atol=6)
    assert colour_at(viewer, shown, (5, 5)).max() < 10
    # foreground of either: 1600 + 320 + 400 pixels
    qtbot.waitUntil(lambda: dock.errors.legend.lines[0][2] != "…")
    assert [(name, share) for _, name, share in dock.errors.legend.lines] == [
        ("agreement", "55.2 %"),
        ("false positive", "13.8 %"),
        ("false negative", "13.8 %"),
        ("wrong class", "17.2 %"),
    ]
    words = [label.text() for label in dock.errors.legend.findChildren(QLabel)]
    assert "false positive" in words and "13.8 %" in words


def test_painting_a_correction_changes_map_and_shares(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    dock.errors.candidate.choose(viewer.layers["off"])
    for name in ("slide", "reference", "off", "near"):
        viewer.layers[name].visible = False
    viewer.layers.selection.active = viewer.layers["off"]
    show_map(qtbot, dock, MapKind.ERRORS)
    shown = viewer.layers["errors of off"]
    shown.opacity = 1
    # the layer that is worked on stays selected
    assert viewer.layers.selection.active is viewer.layers["off"]
    viewer.reset_view()
    qtbot.wait(100)
    np.testing.assert_allclose(colour_at(viewer, shown, (40, 24)), ERROR_TABLE.colour(Category.FALSE_NEGATIVE), atol=6)
    qtbot.waitUntil(lambda: dock.errors.legend.lines[0][2] != "…")
    layer = viewer.layers["off"]
    layer.brush_size = 5
    layer.paint((40, 24), 1)
    qtbot.waitUntil(
        lambda: np.abs(colour_at(viewer, shown, (40, 24)) - ERROR_TABLE.colour(Category.AGREEMENT)).max() <= 6
    )
    before = dock.errors.legend.lines[2][2]
    qtbot.waitUntil(lambda: dock.errors.legend.lines[2][2] != before)
    assert dock.notes.is_error and "off was changed since" in dock.notes.text()
    # new data altogether is followed too
    layer.data = np.asarray(viewer.layers["reference"].data).copy()
    qtbot.waitUntil(lambda: dock.errors.legend.lines[0][2] == "100.0 %")
    assert set(np.unique(np.asarray(shown.data))) == {Category.BACKGROUND, Category.AGREEMENT}


def test_one_label_the_difference_and_disagreement(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    dock.errors.candidate.choose(viewer.layers["off"])
    dock.errors.label.setCurrentText("tumour")
    show_map(qtbot, dock, MapKind.ERRORS)
    one = np.asarray(viewer.layers["errors of off (tumour)"].data)
    assert one[80, 90] == Category.FALSE_NEGATIVE and one[40, 64] == Category.BACKGROUND
    dock.errors.label.setCurrentIndex(0)
    dock.errors.kind.setCurrentIndex(list(MapKind).index(MapKind.DIFFERENCE))
    dock.errors.candidate.choose(viewer.layers["near"])
    dock.errors.against.choose(viewer.layers["off"])
    click(qtbot, dock.errors.button)
    two = viewer.layers["near against off"]
    assert np.asarray(two.data)[40, 24] == Category.FALSE_POSITIVE
    assert [name for _, name, _ in dock.errors.legend.lines][1:3] == ["only near", "only off"]
    show_map(qtbot, dock, MapKind.DISAGREEMENT)
    votes = viewer.layers["disagreement"]
    assert isinstance(votes, Image) and np.asarray(votes.data)[40, 24] == 0.5
    assert np.asarray(votes.data)[40, 40] == 0
    show_map(qtbot, dock, MapKind.ENTROPY)
    assert np.asarray(viewer.layers["vote entropy"].data)[40, 24] == pytest.approx(1.0)
    # maps are no candidates, and the image is still the slide
    assert [layer.name for layer in dock.candidates.layers] == ["near", "off"]
    assert dock.layers.layer is viewer.layers["slide"]


def test_boundary_distance_lies_on_a_turned_volume_in_millimetres(qtbot, open_compare, volume):
    right = (volume.levels[0] > 100).astype(np.uint8)
    off = np.roll(right, 2, axis=2)
    table = LabelTable.from_names(["lesion"])
    viewer, dock = open_compare(
        volume,
        Segmentation(right, volume.geometry, table, name="reference"),
        Segmentation(off, volume.geometry, table, name="off"),
    )
    choose_reference(dock, "reference")
    show_map(qtbot, dock, MapKind.DISTANCE)
    shown, layer = viewer.layers["boundary distance of off"], viewer.layers["off"]
    np.testing.assert_allclose(shown.data_to_world((1, 2, 3)), layer.data_to_world((1, 2, 3)))
    assert [str(u) for u in shown.units] == [str(u) for u in layer.units]
    found = np.asarray(shown.data)
    wrong = np.asarray(layer.data) != np.asarray(viewer.layers["reference"].data)
    np.testing.assert_array_equal(found != 0, wrong)
    # exact distances in mm, by scipy
    truth = np.asarray(viewer.layers["reference"].data) > 0
    outside, inside = (distance_transform_edt(mask, sampling=layer.scale) for mask in (~truth, truth))
    np.testing.assert_allclose(found, np.where(wrong, np.where(truth, -inside, outside), 0), atol=1e-5)
    assert found.max() == 2.0
    assert (found[np.asarray(layer.data) > 0][found[np.asarray(layer.data) > 0] != 0] > 0).all()
    words = [label.text() for label in dock.errors.legend.findChildren(QLabel)]
    assert any("mm" in word and "too much" in word for word in words)


def test_a_map_computes_nothing_but_what_is_looked_at(open_compare, monkeypatch):
    viewer, _ = open_compare(None)
    big = np.zeros((64, 200, 200), np.uint8)
    layers = [viewer.add_labels(big, name="a"), viewer.add_labels(np.ones_like(big), name="b")]
    read = []
    genuine = error_maps.ErrorCategories._read
    monkeypatch.setattr(
        error_maps.ErrorCategories, "_read", lambda self, region: read.append(region) or genuine(self, region)
    )
    layer = map_of(MapOrder(MapKind.ERRORS, tuple(layers)))
    viewer.add_layer(layer)
    viewer.dims.set_point(0, 30)
    planes = {(r[0].start, r[0].stop) for r in read}
    assert (30, 31) in planes and all(stop - start == 1 for start, stop in planes) and len(planes) <= 3


def test_pyramids_keep_their_levels(open_compare):
    viewer, _ = open_compare(None)
    fine = np.zeros((512, 512), np.uint8)
    fine[:256] = 1
    other = np.roll(fine, 64, axis=0)
    layers = [viewer.add_labels([a, a[::2, ::2], a[::4, ::4]], name=n) for a, n in ((other, "a"), (fine, "b"))]
    layer = map_of(MapOrder(MapKind.ERRORS, tuple(layers)))
    assert [tuple(level.shape) for level in layer.data] == [(512, 512), (256, 256), (128, 128)]
    assert np.asarray(layer.data[2])[68, 5] == Category.FALSE_POSITIVE


def test_a_map_without_what_it_needs_says_so(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, flat[1])
    show_map(qtbot, dock, MapKind.ERRORS)
    assert "choose one" in dock.message.text() and dock.message.is_error
    show_map(qtbot, dock, MapKind.DISAGREEMENT)
    assert "two candidates" in dock.message.text()


# -- what can go wrong -----------------------------------------------------------------------------


@pytest.fixture
def held(monkeypatch):
    """A comparison that waits until it is told to stop."""
    import time

    def wait(candidates, reference, options=None, *, progress):
        progress.begin(1000, "counting labels")
        for _ in range(1000):
            time.sleep(0.02)
            progress.advance()

    monkeypatch.setattr(scoring, "compare", wait)


def test_cancel_by_escape(qtbot, open_compare, slide, flat, held):
    viewer, dock = open_compare(slide, *flat)
    click(qtbot, dock.run_bar.run)
    qtbot.waitUntil(lambda: dock.run_bar.bar.value() > 2)
    focus(qtbot, viewer, dock.candidates)
    qtbot.keyClick(dock.candidates, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: not dock.run_bar.busy)
    qtbot.wait(1)
    assert dock.message.text() == "Cancelled. Nothing was compared."
    assert dock.compared is None and dock.run_bar.run.isEnabled()


def test_closing_the_dock_while_it_works(qtbot, open_compare, slide, flat, held):
    viewer, dock = open_compare(slide, *flat)
    click(qtbot, dock.run_bar.run)
    qtbot.waitUntil(lambda: dock.run_bar.bar.value() > 2)
    work = dock._work
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not work.running)
    assert work.job.state == "cancelled"
    viewer.layers.remove("off")
    viewer.layers["near"].paint((3, 3), 1)
    viewer.add_labels(np.zeros((4, 4), np.uint8))


def test_layers_that_are_deleted_leave_the_choices(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    show_map(qtbot, dock, MapKind.ERRORS)
    run(qtbot, dock)
    viewer.layers.remove("reference")
    assert dock.reference.layer is None
    assert [layer.name for layer in dock.candidates.ticked] == ["near", "off"]
    assert not dock.errors.legend.isVisibleTo(dock)
    viewer.layers.remove("off")
    run(qtbot, dock)
    assert "nothing to compare" in dock.message.text()
    viewer.layers.clear()
    assert dock.candidates.layers == [] and dock.layers.layer is None
    run(qtbot, dock)


def test_a_layer_that_is_deleted_while_it_is_compared(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    click(qtbot, dock.run_bar.run)
    viewer.layers.remove("off")
    qtbot.waitUntil(lambda: not dock.run_bar.busy)
    qtbot.wait(1)
    assert table_of(dock)["kidney", "off"]["Dice"] == "0.7111"


# -- report, plots, other docks --------------------------------------------------------------------


def test_report_is_written_into_the_folder(qtbot, open_compare, slide, flat, tmp_path, monkeypatch):
    viewer, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    assert not dock.report.isEnabled()
    run(qtbot, dock)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(tmp_path))
    click(qtbot, dock.report)
    qtbot.waitUntil(lambda: not dock.run_bar.busy, timeout=60_000)
    qtbot.wait(1)
    assert dock.message.text().startswith("Written: report.html"), dock.message.text()
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["ranking"] == ["near", "off"]
    assert record["candidates"][1]["scores"]["labels"][0]["metrics"]["dice"] == pytest.approx(0.98734, abs=1e-4) or (
        record["candidates"][0]["scores"]["labels"][0]["metrics"]["dice"] == pytest.approx(0.98734, abs=1e-4)
    )
    click(qtbot, dock.report)
    qtbot.waitUntil(lambda: not dock.run_bar.busy, timeout=60_000)
    qtbot.wait(1)
    assert "already exists" in dock.message.text() and dock.message.is_error
    # labels that were changed are not what was scored
    viewer.layers["off"].paint((40, 24), 1)
    click(qtbot, dock.report)
    assert "Press Compare again" in dock.message.text()


def test_plots_are_drawn_when_they_are_asked_for(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    assert dock.plots.canvas is None
    dock.plots.kind.setCurrentIndex(1)
    qtbot.waitUntil(lambda: dock.plots.canvas is not None and dock.plots.canvas.isVisible(), timeout=30_000)
    axes = dock.plots.canvas.figure.axes[0]
    assert axes.get_xlabel() == "Dice"
    assert sorted(round(bar.get_width(), 4) for bar in axes.patches)[-1] == 1.0
    assert 0.7111 in [round(bar.get_width(), 4) for bar in axes.patches]
    # the column that is selected is the one that is drawn
    dock.scores.table.setCurrentIndex(cell(dock, ("kidney", "off"), "HD95 [um]"))
    assert dock.plots.canvas.figure.axes[0].get_xlabel().startswith("HD95 [um]")
    dock.plots.kind.setCurrentIndex(2)
    lines = dock.plots.canvas.figure.axes[0].get_lines()
    marks = {(float(x), float(y)) for line in lines[:2] for x, y in zip(*line.get_data(), strict=True)}
    # 1600 and 2000 pixels of a quarter of a square micrometre
    assert (400.0, 500.0) in marks
    dock.plots.kind.setCurrentIndex(3)
    assert "no layer of probabilities" in dock.message.text()
    layer = viewer.layers["reference"]
    viewer.add_image(
        np.where(np.asarray(layer.data) > 0, 0.9, 0.2).astype(np.float32), name="probability", contrast_limits=(0, 1)
    )
    dock.plots.draw()
    qtbot.waitUntil(lambda: dock.plots.canvas.isVisible(), timeout=30_000)
    curve = dock.plots.canvas.figure.axes[0].get_lines()[1]
    np.testing.assert_allclose(np.transpose(curve.get_data()), [[0.2, 0.0], [0.9, 1.0]], atol=1e-6)


@pytest.mark.slow
def test_linked_views_open_on_the_ticked_candidates(qtbot, open_compare, slide, flat):
    from napari_medseg.desk.linked import LinkedViews

    viewer, dock = open_compare(slide, *flat)
    before = set(LinkedViews._open)
    click(qtbot, dock.linked)
    (views,) = set(LinkedViews._open) - before
    assert views.arrangement.numbers and len(views.mirrors) == 3
    views.close()
    dock.candidates.tick(viewer.layers["near"], False)
    dock.candidates.tick(viewer.layers["off"], False)
    click(qtbot, dock.linked)
    assert dock.message.is_error and "2" in dock.message.text()


@pytest.mark.slow
def test_review_is_handed_candidate_and_reference(qtbot, open_compare, slide, flat, monkeypatch):
    viewer, dock = open_compare(slide, *flat)
    click(qtbot, dock.review)
    assert "choose a reference" in dock.message.text()
    choose_reference(dock, "reference")
    dock.errors.candidate.choose(viewer.layers["off"])
    # the dock of the same name that the manifest lists
    review = ReviewDock(viewer)
    opened = []

    def add(plugin, name):
        opened.append((plugin, name))
        return viewer.window.add_dock_widget(review, name=name), review

    monkeypatch.setattr(viewer.window, "add_plugin_dock_widget", add, raising=False)
    click(qtbot, dock.review)
    assert opened == [("napari-medseg", "Review")]
    assert (review.candidate.layer.name, review.reference.layer.name) == ("off", "reference")
    qtbot.waitUntil(lambda: review.session is not None, timeout=60_000)
    viewer.window.remove_dock_widget(review)


def test_an_installation_without_a_review_dock_says_so(qtbot, open_compare, slide, flat, monkeypatch):
    viewer, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")

    def add(plugin, name):
        raise KeyError(name)

    monkeypatch.setattr(viewer.window, "add_plugin_dock_widget", add, raising=False)
    click(qtbot, dock.review)
    assert "The Review dock is not part" in dock.message.text() and dock.message.is_error


# -- the dock as a whole ---------------------------------------------------------------------------


def test_every_control_is_reached_by_tab_and_explained(qtbot, open_compare, slide, flat):
    _, dock = open_compare(slide, *flat)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    kinds = (QAbstractButton, QComboBox, QListWidget, QTableView)
    controls = [
        w
        for kind in kinds
        for w in dock.findChildren(kind)
        if w.isVisibleTo(dock) and w.isEnabled() and not isinstance(w.parentWidget(), QComboBox | QTableView)
    ]
    assert len(controls) > 14
    assert [w for w in controls if not w.toolTip()] == []
    reached: set[QWidget] = set()
    control = dock.layers
    while control not in reached:
        reached.add(control)
        control = control.nextInFocusChain()
    assert set(controls) <= reached


def test_mnemonics_are_unique(open_compare, slide):
    _, dock = open_compare(slide)
    words = [w.text() for kind in (QAbstractButton, QLabel) for w in dock.findChildren(kind)]
    letters = [w[w.index("&") + 1].lower() for w in words if "&" in w.replace("&&", "")]
    assert len(letters) > 14 and len(letters) == len(set(letters)), sorted(letters)
    # napari's own: copy and save a screenshot
    assert not {"c", "s"} & set(letters)


def test_a_comparison_by_the_keyboard_alone(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide, *flat)
    focus(qtbot, viewer, dock.candidates)

    def press(key, modifier=Qt.KeyboardModifier.NoModifier):
        qtbot.keyClick(QApplication.focusWidget(), key, modifier)

    press(Qt.Key.Key_R, Qt.KeyboardModifier.AltModifier)
    assert QApplication.focusWidget() is dock.reference
    dock.reference.setCurrentIndex(0)
    press(Qt.Key.Key_End)
    assert dock.reference.layer is viewer.layers["reference"]
    press(Qt.Key.Key_D, Qt.KeyboardModifier.AltModifier)
    press(Qt.Key.Key_Home)
    press(Qt.Key.Key_Space)
    assert [layer.name for layer in dock.candidates.ticked] == ["off"]
    press(Qt.Key.Key_A, Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: dock.compared is not None, timeout=30_000)
    press(Qt.Key.Key_M, Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: "errors of off" in viewer.layers)
    press(Qt.Key.Key_Y, Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: QGuiApplication.clipboard().text().startswith("label\tcandidate\tDice"))


def test_the_dock_fits_a_small_window(qtbot, open_compare, slide, flat):
    viewer, dock = open_compare(slide, *flat)
    viewer.window._qt_window.resize(1280, 800)
    choose_reference(dock, "reference")
    run(qtbot, dock)
    qtbot.wait(50)
    assert dock.widget().minimumSizeHint().width() <= dock.viewport().width()
    for button in dock.findChildren(QAbstractButton):
        if button.isVisible() and button.text():
            assert button.width() >= button.fontMetrics().horizontalAdvance(button.text().replace("&", ""))


def test_opening_the_dock_loads_nothing_heavy():
    code = """
import sys, napari
viewer = napari.Viewer(show=False)
before = {m.split(".")[0] for m in sys.modules}
from napari_medseg.desk.compare_dock import CompareDock
viewer.window.add_dock_widget(CompareDock(viewer))
heavy = {"torch", "monai", "matplotlib", "SimpleITK", "cc3d", "edt"}
print(*sorted(heavy & {m.split(".")[0] for m in sys.modules} - before), "|", *sorted(heavy & before))
viewer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().startswith("|"), done.stdout
