"""Stop with one sentence when this Python cannot make the environment."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this very file runs under older ones
    sys.exit(
        f"napari-medseg needs Python 3.11 or newer, and this is {sys.version.split()[0]}; "
        "run make PYTHON=python3.12, say."
    )
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("This Python lacks venv; on Debian or Ubuntu run apt-get install python3-venv.")
