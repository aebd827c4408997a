"""A display that nobody sees, for machines without a screen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from napari_medseg.case import InputError

_STARTUP_SECONDS = 20.0


def needs_virtual_display() -> bool:
    """Whether this machine shows no windows: Linux without a display."""
    return sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextmanager
def virtual_display(width: int = 1280, height: int = 800) -> Iterator[str]:
    """Windows opened inside go to an X server without a screen; yields the display's name.

    Raises
    ------
    InputError
        If the X server is not installed or does not start.
    """
    binary = shutil.which("Xvfb")
    if binary is None:
        raise InputError(
            "There is no display and Xvfb is not installed; "
            "install it with: apt-get install -y --no-install-recommends xvfb libxcb-icccm4 libxcb-keysyms1"
        )
    read_end, write_end = os.pipe()
    # with -displayfd the server picks a free number itself and says so when it is ready
    server = subprocess.Popen(
        [binary, "-displayfd", str(write_end), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"],
        pass_fds=(write_end,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    before = {name: os.environ.get(name) for name in ("DISPLAY", "QT_QPA_PLATFORM", "WAYLAND_DISPLAY")}
    try:
        with os.fdopen(read_end) as said:
            number = said.readline().strip()
        if not number:
            raise InputError(f"Xvfb did not start (exit status {server.wait(_STARTUP_SECONDS)}); is /tmp writable?")
        os.environ["DISPLAY"] = f":{number}"
        os.environ.pop("WAYLAND_DISPLAY", None)
        os.environ["QT_QPA_PLATFORM"] = "xcb"
        yield os.environ["DISPLAY"]
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.terminate()
        server.wait()
