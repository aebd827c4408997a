"""A run on other processes: here, or on the nodes of a cluster, by Dask.

The process that was started plans, keeps the ledger and settles. It cuts what is pending into jobs and gives every
worker one at a time; a worker opens image, model and store by itself, computes its units, stores their labels and
reports their records. A job whose worker dies is given to another one by Dask, and gives the same bytes there.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from napari_medseg.case import CancelledError, InputError
from napari_medseg.inference.cluster.job import Outcome, Spec, compute_units
from napari_medseg.inference.cluster.turns import Roster, Turns, cut, distributed
from napari_medseg.inference.compute.prepare import Compute
from napari_medseg.inference.work import Failed, Finished, Work
from napari_medseg.io.ome_zarr import LabelFrame
from napari_medseg.jobs import Progress

_PATIENCE = 60.0
_TO_CONNECT = 30.0
# Dask has workers give freed memory back at once, and every tile fetches it from the system again: twice the system
# time on the nuclei model. Pieces up to 32 MB, the most glibc allows, are kept instead.
_ALLOCATOR = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": str(1 << 29),
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": str(1 << 25),
}
_POLL = 0.2
# a cluster whose size nobody told may grow while it computes
_FEWEST_EXPECTED = 4

Adopt = Callable[[int, Any, Exception | None], None]


class DaskWorkers:
    """The workers of a Dask cluster.

    Use `local` or `connect`, as a context manager: leaving it ends what `local` started. Everyone who can reach a
    scheduler can run programs as the user who started it; on networks that others share, use ``tls://``.

    Parameters
    ----------
    client
        Of the cluster (``distributed.Client``).
    threads
        Threads of a job; as many as the worker has when ``None``.
    patience
        Seconds to wait for a worker while there is none.
    closing
        What to end with it.
    """

    def __init__(
        self, client: Any, *, threads: int | None = None, patience: float = _PATIENCE, closing: ExitStack | None = None
    ) -> None:
        self.client = client
        self._threads, self._patience = threads, patience
        self._closing = closing or ExitStack()

    @classmethod
    def connect(cls, address: str, *, patience: float = _PATIENCE) -> DaskWorkers:
        """The workers of the cluster whose scheduler listens at `address`, such as ``tcp://node1:8786``.

        Only this address is contacted. For ``tls://`` certificates are those of Dask's configuration.

        Raises
        ------
        InputError
            If Dask is not installed, or no scheduler answers there.
        """
        package = distributed()
        with ExitStack() as stack:
            try:
                client = stack.enter_context(
                    package.Client(address, timeout=min(patience, _TO_CONNECT), set_as_default=False)
                )
            except (OSError, ValueError, TypeError) as error:
                raise InputError(
                    f"No Dask scheduler answers at {address}; start one with 'dask scheduler' and give the address "
                    "that it prints."
                ) from error
            return cls(client, patience=patience, closing=stack.pop_all())

    @classmethod
    def local(cls, number: int, *, threads: int | None = None) -> DaskWorkers:
        """`number` processes on this machine.

        Parameters
        ----------
        threads
            Threads of each; an equal share of the cores when ``None``.

        Raises
        ------
        InputError
            If Dask is not installed, or `number` is not positive.
        """
        if number < 1:
            raise InputError(f"{number} workers cannot compute; accepted are 1 and more.")
        package = distributed()
        import dask.config
        from dask.system import CPU_COUNT

        threads = threads or max(1, CPU_COUNT // number)
        with ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix="medseg-dask-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with dask.config.set(_ALLOCATOR):
                cluster = package.LocalCluster(
                    n_workers=number,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                    # what a run may take is decided by its layout
                    memory_limit=0,
                    local_directory=folder,
                    preload="napari_medseg.inference.cluster.workers",
                    env={"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
                    security=_security(package),
                )
            stack.enter_context(cluster)
            client = stack.enter_context(package.Client(cluster, set_as_default=False))
            return cls(client, threads=threads, closing=stack.pop_all())

    def __enter__(self) -> DaskWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; end what `local` started."""
        self._closing.close()

    def compute(
        self,
        work: Work,
        units: Sequence[int],
        compute: Compute,
        store: Path,
        frame: LabelFrame,
        *,
        progress: Progress,
        finished: Finished,
        failed: Failed,
        said: Callable[[str], None] | None = None,
    ) -> None:
        """Have the units computed and stored; `finished` and `failed` are told of each.

        Parameters
        ----------
        work, compute, store, frame
            As they are here; workers make their own from the files.
        units
            Numbers of the units that are pending.
        progress
            Advances by the tiles that a job computed when it ends.
        finished, failed
            Called on this thread.
        said
            Told what workers did when memory ran out.

        Raises
        ------
        InputError
            If image or model lie in no files, or a worker finds others under their paths.
        MedsegError
            The first error of a worker, once the others have stopped; or the cluster is lost.
        CancelledError
            Once all workers have stopped, each within a batch; what they finished is told before.
        """
        spec = Spec.of(work, compute, store, frame)
        every = work.partition.units

        def adopt(_: int, outcome: Outcome | None, error: Exception | None) -> None:
            raised: Exception | None = error
            if outcome is not None:
                if said is not None:
                    for words in outcome.said:
                        said(words)
                for number, record in outcome.records:
                    try:
                        finished(every[number], record)
                        progress.advance(record.done)
                    except CancelledError as cancelled:
                        # the other records are true all the same
                        raised = raised or cancelled
                if outcome.error is not None:
                    raised = outcome.error
                    if outcome.failed is not None:
                        number, start = outcome.failed
                        failed(every[number], start, outcome.error)
            if raised is not None:
                raise raised

        workers = max(_FEWEST_EXPECTED, self.count(progress)) if self._threads is None else self.count(progress)
        jobs = [(spec, runs) for runs in cut(work, units, workers)]
        self.run(compute_units, jobs, adopt, progress=progress)

    def count(self, progress: Progress | None = None) -> int:
        """How many workers there are, once there is one.

        Raises
        ------
        MedsegError
            If none comes.
        """
        roster = Roster(self.client, self._patience)
        while not (workers := roster.addresses()):
            time.sleep(_POLL)
            if progress is not None:
                progress.check()
        return len(workers)

    def run(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], adopt: Adopt, *, progress: Progress
    ) -> None:
        """Have ``function(*job, stop=..., threads=...)`` called for every job, one at a time on each worker.

        Parameters
        ----------
        function
            Of a module that workers can import. `stop` names the event that asks it to end early, see
            `napari_medseg.inference.cluster.job.Watch`.
        adopt
            Told the job's index and what it returned, or the error that kept it from returning. When it
            raises, the other jobs are asked to stop, and what they return is still adopted.

        Raises
        ------
        CancelledError
            On request, once the jobs that were running have ended.
        MedsegError
            If the cluster is lost; and whatever `adopt` raises.
        """
        trouble: BaseException | None = None
        roster = Roster(self.client, self._patience)
        with Turns(roster, function, jobs, threads=self._threads) as turns:
            while turns.going:
                try:
                    if trouble is None:
                        progress.check()
                    done = turns.take(_POLL)
                    if done is not None:
                        adopt(*done)
                except BaseException as error:
                    # raised below, once no worker writes any more
                    if trouble is not None and not isinstance(error, Exception):
                        raise
                    if trouble is None:
                        trouble = error
                        turns.stop()
        if trouble is not None:
            raise trouble


def dask_setup(worker: Any) -> None:
    """Make a worker of `DaskWorkers.local` leave Ctrl-C to the process that it works for."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _security(package: Any) -> Any:
    """Certificates for this cluster alone, so that nobody else on this machine can use it, where they can be made."""
    return package.Security.temporary() if find_spec("cryptography") is not None else None
