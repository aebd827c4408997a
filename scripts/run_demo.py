"""The main job of ``make demo``: in a window, or off screen into build/demo without a display."""

import os
import sys

from napari_medseg.cli import main

on_screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
main(["demo"] if on_screen else ["demo", "--headless", "build/demo"])
