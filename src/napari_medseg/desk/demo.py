"""The whole job once: a real histology picture, the docks, the nucleus model, its labels."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_medseg.case import MedsegError
from napari_medseg.desk.offscreen import needs_virtual_display, virtual_display

if TYPE_CHECKING:
    import napari

    from napari_medseg.desk.segment_dock import SegmentDock

SAMPLE = "histology"
MODEL = "he_nuclei"
SIZE = (1280, 800)
_PLUGIN = "napari-medseg"
_LONGEST_SECONDS = 600.0


def open_docks(viewer: napari.Viewer, front: str = "Segment") -> dict[str, Any]:
    """Case, Segment and Export as tabs on the right, `front` in front."""
    window = viewer.window
    docks: dict[str, Any] = {}
    widgets: dict[str, Any] = {}
    for name in ("Case", "Segment", "Export"):
        docks[name], widget = window.add_plugin_dock_widget(_PLUGIN, name, tabify=bool(docks))
        # the tab would otherwise carry the plugin's name too, and cut both off
        docks[name].setWindowTitle(name)
        widgets[name] = widget
    # a tab comes to the front once the window has laid itself out
    settle(viewer)
    docks[front].raise_()
    settle(viewer, reset_view=True)
    return widgets


def show_demo(viewer: napari.Viewer | None = None) -> napari.Viewer:
    """Open the sample and the docks in `viewer` (a new one by default) and start the model."""
    import napari

    viewer = viewer or napari.Viewer()
    viewer.open_sample(_PLUGIN, SAMPLE)
    segment = open_docks(viewer)["Segment"]
    segment.models.every.setChecked(True)
    segment.models.tick(MODEL)
    segment.run()
    return viewer


def run_demo(headless: Path | None = None) -> dict[str, Any] | None:
    """Show the demo until the window is closed; or do it unseen and leave files in `headless`.

    Returns
    -------
    summary
        What ``summary.json`` holds; ``None`` when a person watched.

    Raises
    ------
    MedsegError
        If the run fails.
    """
    if headless is None:
        import napari

        show_demo()
        napari.run()
        return None
    with virtual_display(*SIZE) if needs_virtual_display() else nullcontext():
        return _run_unseen(headless)


def _run_unseen(folder: Path) -> dict[str, Any]:
    import napari

    from napari_medseg.desk.exporting import Order, export
    from napari_medseg.jobs import Progress

    folder.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=False)
    try:
        show_sized(viewer)
        viewer.open_sample(_PLUGIN, SAMPLE)
        segment = open_docks(viewer)["Segment"]
        segment.models.every.setChecked(True)
        segment.models.tick(MODEL)
        report = run_to_end(segment)
        labels = viewer.layers.selection.active
        store = folder / "labels.zarr"
        order = Order(store, replace_existing=True, with_image=True)
        export(labels, list(viewer.layers), order, progress=Progress())
        picture(viewer, folder / "screenshot.png")
        summary = {
            "image": {"sample": SAMPLE, "shape": [int(n) for n in viewer.layers[0].data.shape]},
            "run": dict(report),
            "files": ["labels.zarr", "screenshot.png", "summary.json"],
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
        return summary
    finally:
        from napari_medseg.desk.child import shared_worker

        viewer.close()
        shared_worker().close()


def run_to_end(segment: SegmentDock) -> dict[str, Any]:
    """Run what is ticked in the dock and wait for its labels, with the window alive meanwhile."""
    from qtpy.QtCore import QEventLoop, QTimer

    results: list[Any] = []
    loop = QEventLoop()
    QTimer.singleShot(int(1000 * _LONGEST_SECONDS), loop.quit)
    segment.run()
    work = segment._work
    if work is None:
        raise MedsegError(segment.message.text())
    work.done.connect(results.append)
    for signal in (work.done, work.failed, work.cancelled):
        signal.connect(loop.quit)
    loop.exec()
    if not results:
        raise MedsegError(segment.message.text() or "The run did not end in time.")
    return dict(results[0][-1].report)


def show_sized(viewer: napari.Viewer) -> None:
    """Show the window in the size of the guide's pictures, whatever size it had last time."""
    viewer.show()
    window = viewer.window._qt_window
    window.showNormal()
    window.resize(*SIZE)
    settle(viewer)


def picture(viewer: napari.Viewer, path: Path) -> None:
    """Save the whole window, docks included, as PNG."""
    from imageio.v3 import imwrite

    settle(viewer)
    imwrite(path, viewer.window.screenshot(canvas_only=False, flash=False))


def settle(viewer: napari.Viewer, reset_view: bool = False) -> None:
    """Let the window lay itself out and draw; fit the picture to it when `reset_view`."""
    from qtpy.QtWidgets import QApplication

    for _ in range(20):
        QApplication.processEvents()
    if reset_view:
        viewer.reset_view()
        settle(viewer)
