"""One way to run long work: progress, cancel, and exactly one of result, error or cancelled.

The work itself is a plain function that takes a `Progress` as its last argument and calls
`Progress.advance` (or `Progress.report`) between steps; both raise `CancelledError` once somebody
asked to stop. Nothing here knows about Qt: `desk` polls or subscribes, `cli` prints.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from napari_medseg.case.errors import CancelledError

T = TypeVar("T")


@dataclass(frozen=True)
class Status:
    """A moment of a job: `done` of `total` steps, `seconds_left` when it can be estimated, a word."""

    done: int
    total: int
    seconds: float
    seconds_left: float | None
    word: str

    @property
    def fraction(self) -> float:
        """Share of the work done, 0 to 1."""
        return self.done / self.total if self.total else 0.0


class Progress:
    """What a job tells the outside, and what the outside tells the job.

    Safe to use from several threads. `listener` is called on the working thread at every change.
    """

    def __init__(self, listener: Callable[[Status], None] | None = None) -> None:
        self._listener = listener
        self._cancel = threading.Event()
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._phase_started = self._started
        self._done = 0
        self._done_before = 0
        self._total = 0
        self._word = ""

    def begin(self, total: int, word: str, done: int = 0) -> None:
        """Start a phase of `total` steps named `word`, of which `done` were done before."""
        with self._lock:
            self._done, self._total, self._word = int(done), int(total), word
            self._done_before = int(done)
            self._phase_started = time.monotonic()
        self._tell()

    def advance(self, steps: int = 1) -> None:
        """Count finished steps; raises `CancelledError` when asked to stop."""
        with self._lock:
            self._done += steps
        self._tell()
        self.check()

    def check(self) -> None:
        """Raise `CancelledError` when somebody asked to stop."""
        if self._cancel.is_set():
            raise CancelledError("Cancelled.")

    def cancel(self) -> None:
        """Ask the job to stop at its next step."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to stop."""
        return self._cancel.is_set()

    @property
    def status(self) -> Status:
        """Where the job is now."""
        with self._lock:
            now = time.monotonic()
            spent = now - self._phase_started
            here = self._done - self._done_before
            left = spent / here * (self._total - self._done) if here else None
            return Status(self._done, self._total, now - self._started, left, self._word)

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener(self.status)


class JobState(StrEnum):
    """Where a job stands; the last three are final."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Job(Generic[T]):
    """A callable on a thread of its own.

    ``work(*args, progress, **kwargs)`` runs once; afterwards `state` is final and exactly one of
    `result` and `error` is set, or `reason` when cancelled, which says what stays.
    """

    def __init__(
        self,
        work: Callable[..., T],
        *args: Any,
        listener: Callable[[Status], None] | None = None,
        finished: Callable[[Job[T]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        self._work, self._args, self._kwargs = work, args, kwargs
        self._finished = finished
        self._future: Future[T] = Future()
        self.progress = Progress(listener)
        self.state = JobState.WAITING
        self.result: T | None = None
        self.error: BaseException | None = None
        self.reason: CancelledError | None = None

    def start(self) -> Job[T]:
        """Start on a daemon thread and return at once."""
        threading.Thread(target=self.run, name="medseg-job", daemon=True).start()
        return self

    def run(self) -> None:
        """Do the work on this thread. `finished` is called once, whatever happened."""
        self.state = JobState.RUNNING
        try:
            self.result = self._work(*self._args, progress=self.progress, **self._kwargs)
            self.state = JobState.DONE
        except CancelledError as error:
            self.reason = error
            self.state = JobState.CANCELLED
        except Exception as error:  # noqa: BLE001 - every failure belongs to the caller, who shows it
            self.error = error
            self.state = JobState.FAILED
        finally:
            self._future.set_result(None)  # type: ignore[arg-type]
            if self._finished is not None:
                self._finished(self)

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self.progress.cancel()

    def wait(self, timeout: float | None = None) -> Job[T]:
        """Block until the work has ended; raises ``TimeoutError`` after `timeout` seconds."""
        self._future.result(timeout)
        return self
