"""From a comparison to the queue of its errors, in the Review dock."""

from __future__ import annotations

from typing import Any

from napari.layers import Labels

from napari_medseg.case import MedsegError

_PLUGIN = "napari-medseg"
_DOCK = "Review"


def open_review(viewer: Any, candidate: Labels, reference: Labels) -> Any:
    """Open the Review dock on the errors of `candidate` against `reference`, and return its widget.

    The dock is asked through its method ``show_pair(candidate, reference)``, which takes the two layers.

    Raises
    ------
    MedsegError
        If this installation has no Review dock.
    """
    try:
        _, dock = viewer.window.add_plugin_dock_widget(_PLUGIN, _DOCK)
    except (KeyError, ValueError) as error:
        raise MedsegError("The Review dock is not part of this installation; update napari-medseg.") from error
    dock.show_pair(candidate, reference)
    return dock
