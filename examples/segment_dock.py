"""Show the Segment dock alone on a built-in sample."""

import napari

viewer = napari.Viewer()
viewer.open_sample("napari-medseg", "histology")
viewer.window.add_plugin_dock_widget("napari-medseg", "Segment")

napari.run()
