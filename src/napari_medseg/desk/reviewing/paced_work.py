"""Work of very many small steps."""

from __future__ import annotations

import time
from typing import Any

from napari_medseg.desk.pieces.work import Work
from napari_medseg.jobs import Status

_SECONDS_BETWEEN = 0.05


class PacedWork(Work):
    """Work that tells how far it is some times a second: thousands of steps would keep the window busy listening."""

    def __init__(self, work: Any, *args: Any, **kwargs: Any) -> None:
        self._told = 0.0
        super().__init__(work, *args, **kwargs)

    def _tell(self, status: Status) -> None:
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN or not 0 < status.done < status.total:
            self._told = now
            super()._tell(status)
