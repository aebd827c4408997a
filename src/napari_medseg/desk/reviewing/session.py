"""One review that is going on: decisions, edits that change its regions, and keeping it with the labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_medseg.case import InputError
from napari_medseg.desk.pieces.work import Work
from napari_medseg.desk.reviewing.edits import Edits
from napari_medseg.desk.reviewing.finding import Found, bring_up_to_date, keep
from napari_medseg.desk.reviewing.paced_work import PacedWork
from napari_medseg.desk.reviewing.pair import Box
from napari_medseg.evaluate.review import ReviewItem, ReviewQueue, State


class ReviewSession(QObject):
    """Holds the queue and keeps it true.

    Attributes
    ----------
    queue
        The review of the labels as they are now.
    path
        Where it is kept; ``None`` while the labels are in memory only.
    updated
        Emitted when an edit changed the regions.
    kept
        Emitted when something about the keeping changed.
    failed
        Emitted with a sentence.
    replaced
        Emitted when the candidate's layer got another array.
    """

    updated = Signal()
    kept = Signal()
    failed = Signal(str)
    replaced = Signal()

    _saving: set[ReviewSession] = set()  # noqa: RUF012 - shared on purpose: a review outlives its dock while it is written

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found
        self.queue = found.queue
        self.path = found.path
        # what belongs to the labels as they are on disk, which edits do not change
        self._on_disk = found.queue
        self._overwrite = found.question.anew
        self._decided: list[tuple[int, State, str]] = []
        self._boxes: list[Box] = []
        self._update: Work | None = None
        self._dirty = False
        layer = found.question.candidate
        self._edits = Edits(layer) if isinstance(layer.data, np.ndarray) else None
        if self._edits is not None:
            self._edits.settled.connect(self._on_edits)
            self._edits.replaced.connect(self.replaced)

    @property
    def edited(self) -> bool:
        """Whether the labels differ from those on disk."""
        return self.path is not None and self.queue.candidate != self._on_disk.candidate

    @property
    def updating(self) -> bool:
        """Whether regions are being looked for after an edit."""
        return self._update is not None

    def item(self, number: int) -> ReviewItem | None:
        """The region of that number, ``None`` if there is none."""
        with suppress(InputError):
            return self.queue.item(number)
        return None

    def decide(self, number: int, state: State, note: str) -> ReviewItem:
        """Decide about a region and keep the decision."""
        self.queue = self.queue.decided(number, state, note)
        self._decided.append((number, state, note))
        self._on_disk = _with_decision(self._on_disk, number, state, note)
        self.save()
        return self.queue.item(number)

    def counted(self) -> tuple[int, int]:
        """How many regions are decided, and how many there are."""
        counts = self.queue.counts()
        total = sum(counts.values())
        return total - counts[State.OPEN], total

    def moved_to(self, path: Path, written: ReviewQueue) -> None:
        """Keep the review at `path` from now on, where `written` and its labels were just written."""
        self.path, self._on_disk, self._overwrite = path, written, True
        for decision in self._decided:
            self._on_disk = _with_decision(self._on_disk, *decision)
        self.kept.emit()
        self.save()

    def end(self) -> None:
        """Stop following the layer; what is being written is written."""
        if self._edits is not None:
            self._edits.end()
        if self._update is not None:
            self._update.cancel()
        self.blockSignals(True)

    # -- edits --------------------------------------------------------------------------------------

    def _on_edits(self, boxes: Sequence[Box]) -> None:
        self._boxes.extend(boxes)
        if self._update is None:
            self._start_update()

    def _start_update(self) -> None:
        boxes, self._boxes = self._boxes, []
        self._decided = []
        work = PacedWork(bring_up_to_date, self.found, self.queue, boxes)
        work.done.connect(self._take_update)
        work.failed.connect(self._say_update_failed)
        work.cancelled.connect(self._rest)
        self._update = work
        work.start()

    def _take_update(self, queue: ReviewQueue) -> None:
        # what was decided while regions were looked for
        for decision in self._decided:
            queue = _with_decision(queue, *decision)
        self.queue = queue
        if queue.candidate == self._on_disk.candidate or self.path is None:
            self._on_disk = queue
        self._rest()
        self.updated.emit()
        self.kept.emit()

    def _say_update_failed(self, words: str) -> None:
        self._rest()
        self.failed.emit(words)

    def _rest(self, *_: Any) -> None:
        self._update = None
        if self._boxes:
            self._start_update()

    # -- keeping ------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the review in the background; does nothing for labels in memory."""
        if self.path is None:
            return
        if self in ReviewSession._saving:
            self._dirty = True
            return
        ReviewSession._saving.add(self)
        self._dirty = False
        work = Work(keep, self._on_disk, self.path, self._overwrite)
        work.done.connect(self._on_saved)
        work.failed.connect(self._on_not_saved)
        work.start()

    def _on_saved(self, path: Path) -> None:
        ReviewSession._saving.discard(self)
        self._overwrite = True
        if self._dirty:
            self.save()
        else:
            self.kept.emit()

    def _on_not_saved(self, words: str) -> None:
        ReviewSession._saving.discard(self)
        self.failed.emit(words)


def _with_decision(queue: ReviewQueue, number: int, state: State, note: str) -> ReviewQueue:
    """The queue with that decision, if it has that region."""
    if any(item.id == number for item in queue.items):
        return queue.decided(number, state, note)
    return queue
