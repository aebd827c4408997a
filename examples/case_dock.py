"""Show the Case dock alone on a built-in sample."""

import napari

viewer = napari.Viewer()
viewer.open_sample("napari-medseg", "head_ct")
viewer.window.add_plugin_dock_widget("napari-medseg", "Case")

napari.run()
