"""``python -m napari_medseg`` is the command line."""

from napari_medseg.cli import main

main()
