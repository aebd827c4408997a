"""Show the Export dock alone, with labels to write."""

import napari
import numpy as np

viewer = napari.Viewer()
viewer.open_sample("napari-medseg", "histology")
viewer.add_labels((np.asarray(viewer.layers[0].data).mean(-1) < 120).astype(np.uint8), name="dark tissue")
viewer.window.add_plugin_dock_widget("napari-medseg", "Export")

napari.run()
