"""Jobs of a Dask cluster: how a run is cut into them, and how workers take turns."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from napari_medseg.case import InputError, MedsegError
from napari_medseg.inference.tiles.units import Unit, window_of
from napari_medseg.inference.work import Work

_JOBS_A_WORKER = 4
_MOST_TILES = 512
"""Tiles of a job: progress is told, and the ledger written, when a job ends."""
_MOST_COMPUTED = 1.25
"""Tiles that the pieces of a stream compute, as a multiple of those of the stream."""
_WORTH_HALVING = 0.8
"""Where workers would idle: the longer half of a run must have at most this share of its tiles."""

_LOST = "The Dask scheduler is gone; start the cluster again, then resume the run."

Runs = tuple[tuple[int, ...], ...]


def cut(work: Work, pending: Sequence[int], workers: int) -> list[Runs]:
    """Pending units as jobs of about the same size, some for each worker.

    Units of one column that follow each other are a stream, in which no tile is computed twice. Cutting a stream
    has its price: tiles across the cut are computed on both sides. It is cut into pieces that together compute at
    most a quarter more tiles than it does in one piece. Only where there would be fewer pieces than workers is the
    longest cut further, as long as its halves are much shorter. Small pieces share a job.

    Returns
    -------
    jobs
        Each a few runs of unit numbers, in the order of the units.
    """
    plan = work.task.plan
    known: dict[tuple[int, int, int], int] = {}

    def cost(run: Sequence[Unit]) -> int:
        key = (run[0].column, run[0].band, run[-1].band)
        if key not in known:
            known[key] = max(1, len(plan.within(window_of(run))))
        return known[key]

    streams = list(work.partition.streams(pending))
    wanted = min(_MOST_TILES, sum(cost(s) for s in streams) / (_JOBS_A_WORKER * workers))
    runs = [piece for stream in streams for piece in _pieces(stream, -int(-cost(stream) // wanted), cost)]
    while len(runs) < workers:
        longest = max(range(len(runs)), key=lambda k: cost(runs[k]))
        halves = _evenly(runs[longest], 2)
        if len(halves) < 2 or max(cost(h) for h in halves) > _WORTH_HALVING * cost(runs[longest]):
            break
        runs[longest : longest + 1] = halves
    jobs: list[list[tuple[int, ...]]] = []
    room = 0.0
    for run in runs:
        if cost(run) > room:
            jobs.append([])
            room = wanted
        jobs[-1].append(tuple(u.number for u in run))
        room -= cost(run)
    return [tuple(job) for job in jobs]


def _pieces(stream: Sequence[Unit], number: int, cost: Callable[[Sequence[Unit]], int]) -> list[Sequence[Unit]]:
    """As many pieces as wanted, or fewer if they would compute too many tiles twice."""
    for count in range(min(number, len(stream)), 1, -1):
        pieces = _evenly(stream, count)
        if sum(cost(p) for p in pieces) <= _MOST_COMPUTED * cost(stream):
            return pieces
    return [stream]


def _evenly(run: Sequence[Unit], number: int) -> list[Sequence[Unit]]:
    ends = [round(k * len(run) / number) for k in range(number + 1)]
    return [run[a:b] for a, b in pairwise(ends) if b > a]


class Roster:
    """The workers of a cluster as they come and go.

    Parameters
    ----------
    client
        Of the cluster.
    patience
        Seconds to wait for a worker while there is none.
    """

    def __init__(self, client: Any, patience: float) -> None:
        self.client, self._patience = client, patience
        self._seen = time.monotonic()

    def addresses(self) -> list[str]:
        """All workers there are now.

        Raises
        ------
        MedsegError
            If the scheduler does not answer, or there was no worker for too long.
        """
        try:
            found = list(self.client.nthreads())
        except (OSError, RuntimeError) as error:
            raise MedsegError(_LOST) from error
        now = time.monotonic()
        if found:
            self._seen = now
        elif now > self._seen + self._patience:
            raise MedsegError(
                f"The Dask cluster has had no worker for {self._patience:g} s; start some with 'dask worker' and the "
                "scheduler's address, or allow more patience where they wait in a queue."
            )
        return found


class Turns:
    """Gives each worker of a cluster one job at a time.

    Workers that come later get their turn too; a job whose worker dies goes to another one.

    Parameters
    ----------
    roster
        The workers.
    function, jobs
        What to call with which arguments; and with `stop`, the name of the event that asks it to end early, and
        `threads`.
    """

    def __init__(
        self, roster: Roster, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], *, threads: int | None
    ) -> None:
        self._roster, self._client = roster, roster.client
        self._function, self._threads = function, threads
        self._waiting = deque(enumerate(jobs))
        self._running: dict[Any, int] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._stop = distributed().Event(f"medseg-stop-{uuid.uuid4().hex}", client=self._client)

    def __enter__(self) -> Turns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # only where not even stopping went to its end is anything running
        for future in self._running:
            future.cancel()
        if self._client.status == "running":
            self._stop.clear()

    @property
    def going(self) -> bool:
        """Whether there are jobs that wait or run."""
        return bool(self._waiting or self._running)

    def stop(self) -> None:
        """Give out no more jobs and ask those that run to end."""
        self._waiting.clear()
        if self._running and self._client.status == "running":
            self._stop.set()

    def take(self, seconds: float) -> tuple[int, Any, Exception | None] | None:
        """The next job that ended: its index, what it returned, or the error that kept it from returning.

        ``None`` if none did within `seconds`.

        Raises
        ------
        MedsegError
            If the cluster is lost.
        """
        try:
            self._give_out()
        except MedsegError:
            self._give_up()
            raise
        try:
            future = self._ended.get(timeout=seconds)
        except Empty:
            return None
        index = self._running.pop(future)
        if future.status == "error":
            return index, None, _in_words(future.exception())
        if future.status != "finished":
            self._give_up()
            raise MedsegError(_LOST)
        result = self._result(future)
        # nobody idles while it is adopted; what is wrong with the cluster is told next time
        with suppress(MedsegError):
            self._give_out()
        return index, result, None

    def _give_out(self) -> None:
        # Dask gives a job to the worker that has least to do, which is one that has nothing to do
        free = len(self._roster.addresses()) - len(self._running)
        for index, job in [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]:
            future = self._client.submit(self._function, *job, stop=self._stop.name, threads=self._threads, pure=False)
            self._running[future] = index
            future.add_done_callback(self._ended.put)

    def _result(self, future: Any) -> Any:
        try:
            return future.result()
        except OSError as error:
            self._give_up()
            raise MedsegError(_LOST) from error

    def _give_up(self) -> None:
        """There is nobody left to wait for."""
        self._running.clear()
        self._waiting.clear()


def distributed() -> Any:
    """Dask's package for clusters.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            'Workers need Dask\'s package distributed, which is not installed: pip install "napari-medseg[cluster]"'
        ) from error
    return distributed


def _in_words(error: BaseException) -> Exception:
    """What went wrong with a job outside of what it computes."""
    if isinstance(error, MedsegError):
        return error
    if isinstance(error, distributed().KilledWorker):
        return MedsegError(
            "Several workers died of the same part, most likely for want of memory; "
            "use fewer workers on a machine, or allow less memory with --max-memory."
        )
    if isinstance(error, ImportError):
        return MedsegError(f"A worker lacks a package ({error}); install the same environment on all of them.")
    return MedsegError(f"A worker failed with {type(error).__name__}: {error}.")
