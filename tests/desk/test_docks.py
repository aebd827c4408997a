"""Real docks in a real window, used as a person uses them: by mouse and keys."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from napari.layers import Labels, Layer
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox, QFileDialog, QLineEdit, QWidget

from napari_medseg.bundles import user_bundles
from napari_medseg.bundles.checksums import write_sums
from napari_medseg.case import Geometry, LabelTable, MedicalImage, Modality, Segmentation
from napari_medseg.desk.layers import image_layers, labels_layer, segmentation
from napari_medseg.desk.regions import SLICE
from tests.threshold_bundle import write_threshold_bundle

PLUGIN = "napari-medseg"


@pytest.fixture
def open_dock(make_napari_viewer, own_models):
    """A shown viewer with an image and one dock."""

    def make(name, *images):
        viewer = make_napari_viewer(show=True)
        for image in images:
            viewer.add_layer(Layer.create(*image_layers(image)[0]))
        _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, name)
        return viewer, dock

    return make


def click(qtbot, button):
    # a check box reacts where its mark and text are, at the left
    spot = QPoint(8, button.height() // 2) if button.isCheckable() else button.rect().center()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=spot)


def run(qtbot, dock, timeout=90_000):
    click(qtbot, dock.run_bar.run)
    qtbot.waitUntil(lambda: not dock.run_bar.busy, timeout=timeout)


# -- Case ------------------------------------------------------------------------------------------


def test_case_dock_describes_the_selected_image(qtbot, open_dock, slide, volume):
    viewer, dock = open_dock("Case", slide, volume)
    viewer.layers.selection.active = viewer.layers["head"]
    rows = {dock.facts.item(r, 0).text(): dock.facts.item(r, 1).text() for r in range(dock.facts.rowCount())}
    assert rows["Spacing"] == "2 × 1.5 × 1 mm"
    viewer.layers.selection.active = viewer.layers["slide"]
    assert dock.facts.item(2, 1).text() == "0.5 × 0.5 µm"
    assert not dock.windows.isEnabled()


def test_window_preset_changes_contrast_and_picture(qtbot, open_dock, volume):
    from dataclasses import replace

    ct = replace(volume, modality=Modality.CT, intensity="HU", name="ct")
    viewer, dock = open_dock("Case", ct)
    viewer.dims.set_point(0, 6.0)
    before = viewer.screenshot(canvas_only=True, flash=False)
    dock.windows.setFocus()
    dock.windows.setCurrentIndex(0)
    # down to Brain and Lung by keyboard
    qtbot.keyClick(dock.windows, Qt.Key.Key_Down)
    qtbot.keyClick(dock.windows, Qt.Key.Key_Down)
    dock.windows.activated.emit(dock.windows.currentIndex())
    assert dock.windows.currentText() == "Lung"
    assert tuple(viewer.layers["ct"].contrast_limits) == (-1350, 150)
    after = viewer.screenshot(canvas_only=True, flash=False)
    # 0 HU is black in the soft-tissue window's lower part and nearly white in the lung window
    assert after[..., :3].mean() > before[..., :3].mean() + 20


def test_scale_bar_toggle(qtbot, open_dock, slide):
    from napari_medseg.desk.case_dock import scale_bar_of

    viewer, dock = open_dock("Case", slide)
    click(qtbot, dock.scale_bar)
    assert scale_bar_of(viewer).visible


def test_oblique_series_warns(qtbot, open_dock):
    angle = np.radians(22)
    affine = np.eye(4)[:, [2, 1, 0, 3]]
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine[:3, :3] = turn @ affine[:3, :3]
    image = MedicalImage((np.zeros((4, 5, 6)),), "zyx", Geometry((4, 5, 6), affine, "mm", "patient"))
    _, dock = open_dock("Case", image)
    assert "askew by 22°" in dock.warnings.text()
    assert dock.warnings.isVisibleTo(dock)


# -- Segment ---------------------------------------------------------------------------------------


def test_run_by_clicking_gives_named_labels_in_the_right_place(qtbot, open_dock, slide):
    viewer, dock = open_dock("Segment", slide)
    dock.models.tick("he_nuclei", on=False)
    dock.models.tick("bright2d")
    run(qtbot, dock)
    assert not dock.message.is_error, dock.message.text()
    labels = viewer.layers["bright2d"]
    image = viewer.layers["slide"]
    assert labels.data[:, 64:].all() and not labels.data[:, :64].any()
    np.testing.assert_allclose(labels.data_to_world((3, 70)), image.data_to_world((3, 70)))
    assert [str(u) for u in labels.units] == ["micrometer"] * 2
    assert dock.found.item(0, 0).text() == "bright"
    # 96 x 64 pixels of a quarter of a square micrometre
    assert dock.found.item(0, 1).text() == "1536 µm²"
    made = segmentation(labels)
    step = made.provenance.steps[0]
    assert (step.action, step.details["model"]["id"]) == ("segment", "bright2d")
    # the name under the cursor stands in napari's status bar
    viewer.layers.selection.active = labels
    viewer.cursor.position = tuple(labels.data_to_world((10, 100)))
    status = labels.get_status(viewer.cursor.position, world=True)
    assert "structure: bright" in status["value"]


def test_volume_labels_lie_on_the_bright_block_of_the_turned_volume(qtbot, open_dock, volume):
    viewer, dock = open_dock("Segment", volume)
    dock.models.tick("mr_hippocampus", on=False)
    dock.models.tick("bright3d")
    run(qtbot, dock)
    assert not dock.message.is_error, dock.message.text()
    image, labels = viewer.layers["head"], viewer.layers["bright3d"]
    np.testing.assert_array_equal(np.asarray(labels.data) > 0, image.data > 100)
    np.testing.assert_allclose(labels.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3)))
    assert segmentation(labels).geometry.is_close(volume.geometry)


def test_only_the_current_slice(qtbot, open_dock, volume):
    viewer, dock = open_dock("Segment", volume)
    dock.models.tick("mr_hippocampus", on=False)
    dock.models.tick("bright3d")
    viewer.dims.set_point(0, 6.0)
    dock.region.setCurrentText(SLICE)
    run(qtbot, dock)
    made = segmentation(viewer.layers["bright3d"])
    where = np.argwhere(made.data)
    # 6 mm to inferior is plane 12 of the file's second axis
    assert set(where[:, 1]) == {12}
    assert len(where) == 4 * 8


def test_two_models_give_two_layers(qtbot, open_dock, slide, bundles):
    viewer, dock = open_dock("Segment", slide)
    dock.models.tick("he_nuclei")
    dock.models.tick("bright2d")
    run(qtbot, dock)
    assert {"he_nuclei", "bright2d"} <= {layer.name for layer in viewer.layers}
    assert isinstance(viewer.layers["he_nuclei"], Labels)


def test_wrong_model_is_one_sentence_and_the_dock_works_on(qtbot, open_dock, slide):
    viewer, dock = open_dock("Segment", slide)
    click(qtbot, dock.models.every)
    for entry in list(dock.models.ticked):
        dock.models.tick(entry.id, on=False)
    dock.models.tick("mr_hippocampus")
    run(qtbot, dock)
    assert dock.message.is_error
    text = dock.message.text()
    assert "mr_hippocampus" in text and "Traceback" not in text and text.count("\n") == 0
    assert len(viewer.layers) == 1
    assert dock.run_bar.run.isEnabled() and not dock.run_bar.stop.isEnabled()


def test_nothing_ticked_says_what_to_do(qtbot, open_dock, slide):
    _, dock = open_dock("Segment", slide)
    for entry in list(dock.models.ticked):
        dock.models.tick(entry.id, on=False)
    click(qtbot, dock.run_bar.run)
    assert dock.message.text() == "There is nothing to run yet. Choose a model: tick one in the list."


def _slow(open_dock):
    pixels = np.random.default_rng(0).integers(60, 200, (4096, 4096, 3), dtype=np.uint8)
    big = MedicalImage((pixels,), "yxc", Geometry.from_spacing((4096, 4096), None), Modality.SM, "stain RGB", "big")
    viewer, dock = open_dock("Segment", big)
    return viewer, dock


def test_cancel_stops_within_a_tile_and_keeps_nothing(qtbot, open_dock):
    viewer, dock = _slow(open_dock)
    dock.models.tick("he_nuclei")
    click(qtbot, dock.run_bar.run)
    qtbot.waitUntil(lambda: dock.run_bar.bar.value() >= 4, timeout=90_000)
    assert "left" in dock.run_bar.words.text()
    progress = dock._work.job.progress
    before = progress.status.done
    click(qtbot, dock.run_bar.stop)
    qtbot.waitUntil(lambda: not dock.run_bar.busy, timeout=60_000)
    # one batch of four tiles may be under way
    assert progress.status.done <= before + 8
    assert dock.message.text() == "Cancelled. No labels were kept."
    assert len(viewer.layers) == 1
    assert dock.run_bar.run.isEnabled()


def test_closing_the_dock_cancels(qtbot, open_dock):
    viewer, dock = _slow(open_dock)
    dock.models.tick("he_nuclei")
    click(qtbot, dock.run_bar.run)
    work = dock._work
    qtbot.waitUntil(lambda: dock.run_bar.bar.value() >= 4, timeout=90_000)
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not work.running, timeout=60_000)
    assert work.job.state == "cancelled"
    viewer.add_shapes(name="later")


def test_device_reason_is_shown_without_loading_torch_here(qtbot, open_dock, slide):
    _, dock = open_dock("Segment", slide)
    qtbot.waitUntil(lambda: dock.device.count() > 1, timeout=90_000)
    assert dock.device.itemText(dock.device.count() - 1) == "cpu"
    assert "GPU" in dock.reason.text()


# -- Export ----------------------------------------------------------------------------------------


def test_a_model_is_added_by_its_folder_and_ticked(open_dock, slide, qtbot, tmp_path, monkeypatch):
    source = tmp_path / "theirs"
    write_threshold_bundle(source, spatial_dims=2, channels=3, level=99.5, modality="SM")
    write_sums(source)
    _, dock = open_dock("Segment", slide)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a: str(source))
    try:
        qtbot.mouseClick(dock.add, Qt.MouseButton.LeftButton)
        assert not dock.add.isEnabled()
        qtbot.waitUntil(dock.add.isEnabled, timeout=60_000)
        assert "theirs" in [e.id for e in dock.models.ticked]
        assert dock.message.text() == "theirs was added to your models and is ticked."
        qtbot.mouseClick(dock.add, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(dock.add.isEnabled, timeout=60_000)
        assert "theirs: already exists" in dock.message.text()
    finally:
        shutil.rmtree(user_bundles() / "theirs", ignore_errors=True)


@pytest.fixture
def labelled(open_dock, volume):
    viewer, dock = open_dock("Export", volume)
    ids = (volume.levels[0] > 100).astype(np.uint8)
    made = Segmentation(ids, volume.geometry, LabelTable.from_names(["lesion"]), name="lesions")
    viewer.add_layer(Layer.create(*labels_layer(made, volume)))
    return viewer, dock


def type_path(qtbot, dock, path):
    dock.path.clear()
    qtbot.keyClicks(dock.path, str(path))


def test_export_by_clicking_is_read_by_ome_zarr_itself(qtbot, labelled, volume, tmp_path):
    _viewer, dock = labelled
    assert dock.path.text().endswith("lesions.zarr")
    click(qtbot, dock.with_image)
    type_path(qtbot, dock, tmp_path / "out.zarr")
    run(qtbot, dock)
    assert dock.message.text() == "Written and verified: out.zarr"
    assert dock.message.toolTip() == str(tmp_path / "out.zarr")
    nodes = [n for n in Reader(parse_url(tmp_path / "out.zarr" / "labels" / "lesions"))() if n.data]
    # the reader also lists the image that the labels belong to
    node = next(n for n in nodes if "lesions" in str(n.zarr))
    np.testing.assert_array_equal(np.asarray(node.data[0]), volume.levels[0] > 100)
    scale = node.metadata["coordinateTransformations"][0][0]["scale"]
    assert scale == pytest.approx([2.0, 1.5, 1.0])
    image = next(n for n in Reader(parse_url(tmp_path / "out.zarr"))() if n.data)
    np.testing.assert_array_equal(np.asarray(image.data[0]), volume.levels[0])
    attributes = json.loads((tmp_path / "out.zarr" / "labels" / "lesions" / "zarr.json").read_text())["attributes"]
    assert [s["action"] for s in attributes["medseg"]["provenance"]["steps"]] == ["export"]


def test_painted_labels_say_so_in_the_nifti_that_nibabel_reads(qtbot, labelled, volume, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    viewer, dock = labelled
    layer = viewer.layers["lesions"]
    world = layer.data_to_world((3, 3, 3))
    layer.paint((3, 3, 3), 1)
    dock.formats.setCurrentIndex(1)
    assert not dock.with_image.isEnabled()
    type_path(qtbot, dock, tmp_path / "out.nii.gz")
    run(qtbot, dock)
    assert not dock.message.is_error, dock.message.text()
    written = nibabel.load(tmp_path / "out.nii.gz")
    right, anterior, superior = -world[2], -world[1], -world[0]
    index = np.linalg.inv(written.affine) @ [right, anterior, superior, 1]
    assert written.get_fdata()[tuple(np.round(index[:3]).astype(int))] == 1


def test_what_is_there_is_replaced_only_when_ticked(qtbot, labelled, tmp_path):
    _, dock = labelled
    target = tmp_path / "there.zarr"
    type_path(qtbot, dock, target)
    run(qtbot, dock)
    run(qtbot, dock)
    assert dock.message.is_error
    assert "there.zarr already exists" in dock.message.text()
    click(qtbot, dock.replace)
    run(qtbot, dock)
    assert dock.message.text().startswith("Written and verified")


def test_a_name_without_a_known_ending_is_refused(qtbot, labelled, tmp_path):
    _, dock = labelled
    type_path(qtbot, dock, tmp_path / "labels.doc")
    click(qtbot, dock.run_bar.run)
    assert "labels.doc" in dock.message.text() and ".nii" in dock.message.text()


# -- all docks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Case", "Segment", "Compare", "Review", "Export"])
def test_every_control_is_reached_by_tab_and_explained(qtbot, open_dock, slide, name):
    _viewer, dock = open_dock(name, slide)
    controls = [
        w
        for kind in (QAbstractButton, QComboBox, QLineEdit)
        for w in dock.findChildren(kind)
        if w.isVisibleTo(dock) and w.isEnabled() and not isinstance(w.parentWidget(), QComboBox)
    ]
    assert controls
    unexplained = [w for w in controls if not w.toolTip()]
    assert not unexplained
    # without a window manager no window is active, so walk the chain that the Tab key follows
    reached: set[QWidget] = set()
    control = dock.layers
    while control not in reached:
        reached.add(control)
        control = control.nextInFocusChain()
    assert set(controls) <= reached
    assert all(w.focusPolicy() & Qt.FocusPolicy.TabFocus for w in controls)


@pytest.mark.parametrize("name", ["Case", "Segment", "Compare", "Review", "Export"])
def test_docks_fit_a_small_window(qtbot, open_dock, slide, name):
    viewer, dock = open_dock(name, slide)
    viewer.window._qt_window.resize(1280, 800)
    qtbot.wait(50)
    assert dock.widget().minimumSizeHint().width() <= dock.viewport().width()
    for button in dock.findChildren(QAbstractButton):
        if button.isVisible() and button.text():
            assert button.width() >= button.fontMetrics().horizontalAdvance(button.text().replace("&", ""))


@pytest.mark.parametrize("name", ["Case", "Segment", "Compare", "Review", "Export"])
def test_a_dock_loads_nothing_heavy(name):
    code = f"""
import sys, napari
viewer = napari.Viewer(show=False)
viewer.window.add_plugin_dock_widget("napari-medseg", "{name}")
print(*[m for m in ("torch", "monai", "SimpleITK") if m in sys.modules])
viewer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_removed_layers_leave_the_pickers(qtbot, open_dock, slide, volume):
    viewer, dock = open_dock("Case", slide, volume)
    viewer.layers.remove("head")
    assert [dock.layers.itemText(k) for k in range(dock.layers.count())] == ["slide"]
    viewer.layers.clear()
    assert dock.layers.layer is None
    assert "Open Sample" in dock.warnings.text()


def test_labels_too_large_for_memory_are_shown_from_disk_and_exported(qtbot, open_dock, volume, tmp_path, monkeypatch):
    from napari_medseg.desk import layers
    from napari_medseg.io import open_segmentation

    monkeypatch.setattr(layers, "IN_MEMORY_BYTES", 0)
    viewer, dock = open_dock("Segment", volume)
    dock.models.tick("mr_hippocampus", on=False)
    dock.models.tick("bright3d")
    run(qtbot, dock)
    labels = viewer.layers["bright3d"]
    assert not isinstance(labels.data, np.ndarray)
    assert not labels.editable
    assert "cannot be painted on" in dock.message.text()
    _, export = viewer.window.add_plugin_dock_widget(PLUGIN, "Export")
    type_path(qtbot, export, tmp_path / "large.nii.gz")
    run(qtbot, export)
    assert export.message.text().startswith("Written and verified"), export.message.text()
    back = open_segmentation(tmp_path / "large.nii.gz")
    assert back.extents()[1].voxels == 4 * 5 * 8


def test_one_frame_of_a_clip_gives_labels_at_that_frame(qtbot, open_dock):
    clip = np.zeros((5, 32, 40, 3), np.uint8)
    clip[3, :, 20:] = 255
    image = MedicalImage(
        (clip,), "tyxc", Geometry.from_spacing((32, 40), None), Modality.SM, "RGB", "clip", seconds_per_frame=0.5
    )
    viewer, dock = open_dock("Segment", image)
    dock.models.tick("he_nuclei", on=False)
    dock.models.tick("bright2d")
    viewer.dims.set_point(0, 1.5)
    dock.region.setCurrentText(SLICE)
    run(qtbot, dock)
    labels = viewer.layers["bright2d"]
    assert labels.data.shape == (1, 32, 40)
    assert labels.data[0, :, 20:].all() and not labels.data[0, :, :20].any()
    assert labels.data_to_world((0, 0, 0))[0] == 1.5


@pytest.mark.parametrize("script", ["case_dock", "segment_dock", "export_dock"])
def test_examples_show_their_dock(script):
    from pathlib import Path

    file = Path(__file__).resolve().parents[2] / "examples" / f"{script}.py"
    code = file.read_text().replace("napari.run()", "print(*viewer.window.dock_widgets)\nviewer.close()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0].lower() == script.partition("_")[0]


def test_keys_on_the_canvas_open_the_docks(qtbot, open_dock, slide):
    viewer, _ = open_dock("Case", slide)
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.keyClick(canvas, Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier)
    qtbot.waitUntil(lambda: any("Export" in name for name in viewer.window.dock_widgets), timeout=5000)


def test_menu_commands_open_their_docks(open_dock, slide):
    from napari_medseg.plugin import export_selected, segment_selected

    viewer, _ = open_dock("Case", slide)
    segment_selected(viewer)
    export_selected(viewer)
    assert sum("napari-medseg" in name for name in viewer.window.dock_widgets) == 3


def test_closing_the_window_in_the_middle_of_a_run_ends_everything():
    code = """
import sys, time
import napari, numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from napari_medseg.desk.child import shared_worker

viewer = napari.Viewer(show=True)
viewer.add_image(np.zeros((4096, 4096, 3), np.uint8), rgb=True)
_, dock = viewer.window.add_plugin_dock_widget("napari-medseg", "Segment")
dock.models.tick("he_nuclei")
dock.run()

def close_when_busy():
    if dock.run_bar.bar.value() >= 4:
        print(shared_worker().pid, flush=True)
        timer.stop()
        viewer.close()

timer = QTimer()
timer.setInterval(20)
timer.timeout.connect(close_when_busy)
timer.start()
napari.run()
"""
    import psutil

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert not psutil.pid_exists(int(done.stdout.split()[-1]))


def test_dicom_segmentation_refers_to_the_open_series(qtbot, open_dock, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    from napari_medseg.samples import head_ct

    image = head_ct()
    viewer, dock = open_dock("Export", image)
    ids = np.zeros(image.geometry.shape, np.uint8)
    ids[0, 200:240, 180:260] = 1
    made = Segmentation(ids, image.geometry, LabelTable.from_names(["lesion"]), name="lesion")
    viewer.add_layer(Layer.create(*labels_layer(made, image)))
    dock.formats.setCurrentIndex(next(k for k in range(dock.formats.count()) if "DICOM" in dock.formats.itemText(k)))
    type_path(qtbot, dock, tmp_path / "lesion.dcm")
    run(qtbot, dock)
    assert not dock.message.is_error, dock.message.text()
    written = pydicom.dcmread(tmp_path / "lesion.dcm")
    original = pydicom.dcmread(image.source.paths[0])
    assert written.Modality == "SEG"
    assert written.FrameOfReferenceUID == original.FrameOfReferenceUID
    assert written.SegmentSequence[0].SegmentLabel == "lesion"
    assert int(written.pixel_array.sum()) == 40 * 80
