"""A job whose news arrive in the window's own thread."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_medseg.case import MedsegError
from napari_medseg.desk import pauses
from napari_medseg.jobs import Job, JobState, Status

_GRACE_SECONDS = 10.0


class Work(QObject):
    """Runs one callable as a `Job`.

    Signals are emitted on the job's thread and delivered by Qt in the window's: slots must be methods of
    objects that live there. The object keeps itself alive until the job has ended, whatever closes meanwhile.
    """

    status = Signal(object)
    done = Signal(object)
    failed = Signal(str)
    cancelled = Signal(str)
    _ended = Signal()

    _running: set[Work] = set()  # noqa: RUF012 - shared on purpose

    def __init__(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.job: Job[Any] = Job(work, *args, listener=self._tell, finished=self._finish, **kwargs)
        self._ended.connect(self._release)

    def start(self) -> Work:
        """Start and return at once."""
        Work._running.add(self)
        pauses.begin()
        self.job.start()
        return self

    def cancel(self) -> None:
        """Ask the work to stop; `cancelled` follows when it has."""
        self.job.cancel()

    @property
    def running(self) -> bool:
        """Whether the work has not ended yet."""
        return self.job.state in (JobState.WAITING, JobState.RUNNING)

    def _tell(self, status: Status) -> None:
        self.status.emit(status)

    def _finish(self, job: Job[Any]) -> None:
        if job.state is JobState.DONE:
            self.done.emit(job.result)
        elif job.state is JobState.CANCELLED:
            self.cancelled.emit(str(job.reason or "Cancelled."))
        else:
            self.failed.emit(sentence(job.error))
        self._ended.emit()

    def _release(self) -> None:
        pauses.end()
        Work._running.discard(self)


@atexit.register
def _end_all() -> None:
    """Stop what still runs before Qt is taken down: a signal sent after that would crash the program."""
    running = list(Work._running)
    for work in running:
        work.blockSignals(True)
        work.cancel()
    for work in running:
        with suppress(TimeoutError):
            work.job.wait(_GRACE_SECONDS)


def sentence(error: BaseException | None) -> str:
    """An error as one plain sentence; errors that are not ours also print their traceback for a report."""
    if isinstance(error, MedsegError):
        return str(error)
    import traceback

    traceback.print_exception(error)
    return f"Something unexpected went wrong ({type(error).__name__}: {error}); the terminal shows the details."
