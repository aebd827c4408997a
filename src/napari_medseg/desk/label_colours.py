"""A label table as napari shows it: colours on the canvas, names in the status bar."""

from __future__ import annotations

import numpy as np
from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap

from napari_medseg.case import LabelTable
from napari_medseg.case.labels import palette_colour

_INSTANCE_COLOURS = 40


def colormap_of(table: LabelTable) -> CyclicLabelColormap | DirectLabelColormap:
    """Colours of the table: one for each class, or a cycle through the palette for objects."""
    if table.instances or not len(table):
        colours = [[0.0, 0.0, 0.0, 0.0]]
        colours += [[*(v / 255 for v in palette_colour(k)), 1.0] for k in range(1, _INSTANCE_COLOURS + 1)]
        return CyclicLabelColormap(colors=np.array(colours, dtype=np.float32))
    direct = {label.id: np.array([*(v / 255 for v in label.colour), 1.0], dtype=np.float32) for label in table}
    # ids that the table does not list are grey rather than invisible
    direct[None] = np.array([0.6, 0.6, 0.6, 1.0], dtype=np.float32)  # type: ignore[index]
    direct[0] = np.zeros(4, dtype=np.float32)
    return DirectLabelColormap(color_dict=direct)


def names_of(table: LabelTable, count: int = 0) -> dict[str, list[int] | list[str]]:
    """The table that napari reads to name the label under the cursor.

    Parameters
    ----------
    count
        For instances, the number of objects: ids run from 1 to `count`.
    """
    ids = list(range(1, count + 1)) if table.instances else [label.id for label in table]
    return {"index": [0, *ids], "structure": [table.name(i) for i in (0, *ids)]}
