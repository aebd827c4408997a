"""Progress on a terminal: a bar, or a line every few seconds where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from napari_medseg.jobs import Progress, Status

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def shown_progress(quiet: bool) -> Iterator[Progress]:
    """A `Progress` that shows itself on standard error, or not at all when `quiet`."""
    if quiet:
        yield Progress()
    elif sys.stderr.isatty():
        with _bar() as progress:
            yield progress
    else:
        yield Progress(_Lines())


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(status: Status) -> None:
            bar.update(task, description=status.word, completed=status.done, total=status.total)

        yield Progress(show)


class _Lines:
    """One line a phase, then one every few seconds."""

    def __init__(self) -> None:
        self._word = ""
        self._told = 0.0

    def __call__(self, status: Status) -> None:
        now = time.monotonic()
        if status.word == self._word and now - self._told < _SECONDS_BETWEEN_LINES:
            return
        self._word, self._told = status.word, now
        left = "" if status.seconds_left is None else f", about {status.seconds_left:.0f} s left"
        print(f"{status.word}: {status.done} of {status.total}{left}", file=sys.stderr, flush=True)
