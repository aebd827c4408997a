"""The functions that napari.yaml names: readers, writers, samples and menu commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import napari

    from napari_medseg.desk.layers import LayerData

Paths = str | Sequence[str]


def get_reader(path: Paths) -> Callable[[Paths], list[LayerData]] | None:
    """The reader for a file or folder of a kind we know; ``None`` for anything else."""
    from napari_medseg.case import InputError
    from napari_medseg.io.formats import FORMATS, format_of

    first = Path(path if isinstance(path, str) else path[0])
    if any(form.matches(first) for form in FORMATS):
        return read
    try:
        format_of(first)
    except InputError:
        # a folder we cannot use may be another plugin's
        return None
    return read


def read(path: Paths) -> list[LayerData]:
    """Images and labels of one file or folder, or of several, as layer tuples.

    Raises
    ------
    InputError
        One sentence, which napari shows as it is.
    """
    from napari_medseg.desk.layers import image_layers, labels_layer
    from napari_medseg.io import open_images, open_segmentation
    from napari_medseg.io.formats import format_of, says_labels

    paths = [Path(path)] if isinstance(path, str) else [Path(p) for p in path]
    layers: list[LayerData] = []
    for file in paths:
        form = format_of(file)
        if form.module == "ome_zarr":
            from napari_medseg.io.ome_zarr import has_image, label_names, read_segmentation

            names = label_names(file)
            labels_only = bool(names) and not has_image(file)
            images = [] if labels_only else open_images(file)
            for image in images:
                layers.extend(image_layers(image))
            like = images[0] if images else None
            layers.extend(labels_layer(read_segmentation(file / "labels" / name), like) for name in names)
        elif says_labels(file):
            layers.append(labels_layer(open_segmentation(file)))
        else:
            for image in open_images(file):
                layers.extend(image_layers(image))
    return layers


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one labels layer in the format that the file's name asks for; what is there is replaced.

    napari has asked before it calls this.
    """
    import napari
    from napari.layers import Layer

    from napari_medseg.case import Step
    from napari_medseg.desk.exporting import series_of
    from napari_medseg.desk.layers import segmentation
    from napari_medseg.io import write_segmentation
    from napari_medseg.io.formats import label_format

    layer = Layer.create(data, {k: v for k, v in attributes.items() if k != "multiscale"}, "labels")
    viewer = napari.current_viewer()
    labels = segmentation(layer, viewer.layers if viewer else ())
    history = labels.provenance.with_step(Step.now("export", format=label_format(path).name))
    like = series_of(layer, viewer.layers if viewer else ())
    write_segmentation(replace(labels, provenance=history), path, overwrite=True, like=like)
    return [path]


def segment_selected(viewer: napari.Viewer) -> None:
    """Open the Segment dock; it works on the selected layer."""
    viewer.window.add_plugin_dock_widget("napari-medseg", "Segment")


def compare_selected(viewer: napari.Viewer) -> None:
    """Open the Compare dock."""
    viewer.window.add_plugin_dock_widget("napari-medseg", "Compare")


def review_selected(viewer: napari.Viewer) -> None:
    """Open the Review dock."""
    viewer.window.add_plugin_dock_widget("napari-medseg", "Review")


def export_selected(viewer: napari.Viewer) -> None:
    """Open the Export dock; it works on the selected labels."""
    viewer.window.add_plugin_dock_widget("napari-medseg", "Export")


def show_demo(viewer: napari.Viewer) -> None:
    """Open the histology sample with the docks and run the nucleus model on it."""
    from napari_medseg.desk.demo import show_demo as show

    show(viewer)


def _sample(key: str) -> list[LayerData]:
    from napari_medseg.desk.layers import image_layers
    from napari_medseg.samples import open_sample

    return image_layers(open_sample(key))


def sample_histology() -> list[LayerData]:
    """Colon mucosa, immunohistochemistry."""
    return _sample("histology")


def sample_head_ct() -> list[LayerData]:
    """One slice of a head CT."""
    return _sample("head_ct")


def sample_abdominal_mr() -> list[LayerData]:
    """One slice of an abdominal MR."""
    return _sample("abdominal_mr")


def sample_brain_mr() -> list[LayerData]:
    """A low-resolution brain MR."""
    return _sample("brain_mr")


def sample_cardiac_ultrasound() -> list[LayerData]:
    """Thirty frames of cardiac ultrasound."""
    return _sample("cardiac_ultrasound")


def sample_fundus() -> list[LayerData]:
    """A fundus photograph."""
    return _sample("fundus")


def sample_mni152_brain() -> list[LayerData]:
    """The MNI152 average brain."""
    return _sample("mni152_brain")


def sample_generated_endoscopy() -> list[LayerData]:
    """A generated endoscopy clip."""
    return _sample("generated_endoscopy")
