"""Make the guide's pictures from the real window, one for each family of images.

Run with ``python docs/make_pictures.py``; without a display it uses one that nobody sees.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Layer

from napari_medseg.desk.demo import open_docks, picture, run_to_end, settle, show_sized
from napari_medseg.desk.layers import image_layers, record_of
from napari_medseg.desk.linked import open_linked_views
from napari_medseg.desk.offscreen import needs_virtual_display, virtual_display

# world positions (right, anterior, superior) in mm of two corners around it in the MNI152 frame
LEFT_HIPPOCAMPUS = ((-43.0, -46.0, -30.0), (-8.0, 4.0, 5.0))
PICTURES = Path(__file__).parent / "pictures"


@contextmanager
def window(sample: str, front: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The napari window with a sample and the docks, `front` in front."""
    import napari

    viewer = napari.Viewer(show=False)
    show_sized(viewer)
    viewer.open_sample("napari-medseg", sample)
    docks = open_docks(viewer, front)
    yield viewer, docks
    viewer.close()


def histopathology() -> None:
    """The nucleus model on immunohistochemistry."""
    with window("histology", "Segment") as (viewer, docks):
        run_to_end(docks["Segment"])
        viewer.camera.zoom *= 1.5
        picture(viewer, PICTURES / "histopathology.png")


def ct() -> None:
    """A head CT in the brain window, with what the file says about it."""
    with window("head_ct", "Case") as (viewer, docks):
        docks["Case"].choose_window("Brain")
        docks["Case"].scale_bar.setChecked(True)
        picture(viewer, PICTURES / "ct.png")


def mri() -> None:
    """The hippocampus model on the part of the MNI152 brain that it was made for, shown on the whole brain."""
    with left_hippocampus("mr_hippocampus") as (viewer, labels):
        both = np.minimum(*((labels.data == k).sum((1, 2)) for k in (1, 2)))
        viewer.dims.set_point(0, labels.data_to_world((int(both.argmax()), 0, 0))[0])
        viewer.camera.zoom *= 1.3
        picture(viewer, PICTURES / "mri.png")


@contextmanager
def left_hippocampus(*models: str) -> Iterator[tuple[Any, Any]]:
    """The MNI152 brain, the part of it around the left hippocampus, and the labels of `models` on that part."""
    with window("mni152_brain", "Segment") as (viewer, docks):
        whole = record_of(viewer.layers[0]).image
        near, far = LEFT_HIPPOCAMPUS
        corners = np.sort(whole.geometry.world_to_index([near, far]), axis=0).round().astype(int)
        region = tuple(slice(int(a), int(b)) for a, b in corners.T)
        cut = replace(
            whole, levels=(whole.levels[0][region],), geometry=whole.geometry.crop(region), name="left hippocampus"
        )
        viewer.add_layer(Layer.create(*image_layers(cut)[0]))
        viewer.layers[1].contrast_limits = viewer.layers[0].contrast_limits
        segment = docks["Segment"]
        only(segment, models)
        run_to_end(segment)
        yield viewer, viewer.layers.selection.active


def only(segment: Any, models: Iterable[str]) -> None:
    """Tick `models` and no others."""
    segment.models.every.setChecked(True)
    for entry in segment.models.ticked:
        segment.models.tick(entry.id, on=False)
    for model in models:
        segment.models.tick(model)


def endoscopy() -> None:
    """A generated clip with its frames."""
    with window("generated_endoscopy", "Case") as (viewer, docks):
        viewer.dims.set_point(0, viewer.dims.range[0].stop / 2)
        docks["Case"].scale_bar.setChecked(False)
        picture(viewer, PICTURES / "endoscopy.png")


@contextmanager
def compared(viewer: Any, reference: str) -> Iterator[Any]:
    """The Compare dock, with all other labels scored against `reference` and the errors of the first shown alone."""
    frame, compare = viewer.window.add_plugin_dock_widget("napari-medseg", "Compare", tabify=True)
    frame.setWindowTitle("Compare")
    settle(viewer)
    frame.raise_()
    compare.reference.choose(viewer.layers[reference])
    wait_for(compare, compare.compare)
    compare.errors.show_map()
    for layer in viewer.layers:
        layer.visible = isinstance(layer, Image) or layer is viewer.layers[-1]
    yield compare


def comparison() -> None:
    """Errors of a method without training, taking the nucleus model as reference, with scores and legend."""
    with window("histology", "Segment") as (viewer, docks):
        only(docks["Segment"], ("he_nuclei", "classical_watershed_dark"))
        run_to_end(docks["Segment"])
        with compared(viewer, "he_nuclei"):
            viewer.camera.zoom *= 1.5
            picture(viewer, PICTURES / "compare.png")


def comparison_ct() -> None:
    """Two methods without training on a head CT: where they differ."""
    with window("head_ct", "Segment") as (viewer, docks):
        only(docks["Segment"], ("classical_otsu_bright", "classical_chan_vese"))
        run_to_end(docks["Segment"])
        with compared(viewer, "classical_otsu_bright"):
            picture(viewer, PICTURES / "compare_ct.png")


def comparison_3d() -> None:
    """Two hippocampus models in three dimensions: where the second differs from the first."""
    models = ("mr_hippocampus", "mr_hippocampus_swin")
    with left_hippocampus(*models) as (viewer, _), compared(viewer, models[0]):
        for layer in list(viewer.layers)[:-1]:
            layer.visible = False
        viewer.dims.ndisplay = 3
        viewer.reset_view()
        viewer.camera.angles = (0, 20, 60)
        viewer.camera.center = tuple(viewer.layers["left hippocampus"].extent.world.mean(0))
        viewer.camera.zoom *= 5
        picture(viewer, PICTURES / "compare_3d.png")


def linked_views() -> None:
    """Three candidates over the same picture."""
    from imageio.v3 import imwrite

    with window("histology", "Segment") as (viewer, docks):
        models = ("he_nuclei", "he_glands", "classical_watershed_dark")
        only(docks["Segment"], models)
        run_to_end(docks["Segment"])
        views = open_linked_views(viewer, viewer.layers["IHC histology"], [viewer.layers[m] for m in models])
        settle(viewer)
        grabbed = views.window.grab().toImage()
        grabbed = grabbed.convertToFormat(grabbed.Format.Format_RGB888)
        size = (grabbed.height(), grabbed.bytesPerLine())
        rows = np.frombuffer(grabbed.constBits().asstring(size[0] * size[1]), np.uint8).reshape(size)
        imwrite(PICTURES / "linked_views.png", rows[:, : 3 * grabbed.width()].reshape(size[0], grabbed.width(), 3))
        views.close()


def review() -> None:
    """The queue of errors, with the largest in view."""
    with window("histology", "Segment") as (viewer, docks):
        only(docks["Segment"], ("he_nuclei", "classical_watershed_dark"))
        run_to_end(docks["Segment"])
        frame, dock = viewer.window.add_plugin_dock_widget("napari-medseg", "Review", tabify=True)
        frame.setWindowTitle("Review")
        settle(viewer)
        frame.raise_()
        candidate, reference = viewer.layers["classical_watershed_dark"], viewer.layers["he_nuclei"]
        wait_for(dock, lambda: dock.show_pair(candidate, reference))
        dock.next()
        picture(viewer, PICTURES / "review.png")


def wait_for(dock: Any, begin: Callable[[], Any]) -> None:
    """Begin something in a dock with a run bar and wait until it has ended, with the window alive meanwhile."""
    from qtpy.QtWidgets import QApplication

    begin()
    end = time.monotonic() + 300
    while dock.run_bar.busy and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def main(names: list[str]) -> None:
    """Make the pictures called `names`, or all."""
    from napari_medseg.desk.child import shared_worker

    PICTURES.mkdir(exist_ok=True)
    makers: tuple[Callable[[], None], ...] = (
        histopathology,
        endoscopy,
        mri,
        ct,
        comparison,
        comparison_ct,
        comparison_3d,
        linked_views,
        review,
    )
    with virtual_display() if needs_virtual_display() else nullcontext():
        for make in makers:
            if not names or make.__name__ in names:
                make()
    shared_worker().close()


if __name__ == "__main__":
    main(sys.argv[1:])
