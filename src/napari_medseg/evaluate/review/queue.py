"""The review queue: every error region with what a person decided about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, cast

from napari_medseg.case import InputError
from napari_medseg.evaluate.pairs import check_label_arrays
from napari_medseg.evaluate.review.fingerprint import Contents
from napari_medseg.evaluate.review.objects import ObjectTable
from napari_medseg.evaluate.review.ranking import Order, ranked
from napari_medseg.evaluate.review.region import ErrorRegion, RegionRules
from napari_medseg.evaluate.review.regions import find_regions, numbered, require_map
from napari_medseg.jobs import Progress


class State(StrEnum):
    """What was decided about a region."""

    OPEN = "open"
    ACCEPTED = "accepted"
    FIXED = "fixed"
    IGNORED = "ignored"


@dataclass(frozen=True)
class ReviewItem:
    """One region and what was decided about it.

    Parameters
    ----------
    region
        The region as it is, or as it was last if it is gone.
    state
        What was decided. A region that an edit made vanish is fixed.
    note
        What a person wrote about it.
    gone
        Whether an edit made the region vanish or part of another.
    into
        Number of the region that it became part of.
    before
        The state it had before it was gone.
    """

    region: ErrorRegion
    state: State = State.OPEN
    note: str = ""
    gone: bool = False
    into: int | None = None
    before: State | None = None

    @property
    def id(self) -> int:
        """Number of the region."""
        return self.region.id

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "region": self.region.to_dict(),
            "state": str(self.state),
            "note": self.note,
            "gone": self.gone,
            "into": self.into,
            "before": None if self.before is None else str(self.before),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ReviewItem:
        """The reverse of `to_dict`; ``ValueError``, ``KeyError`` or ``TypeError`` on a record that is not one."""
        return cls(
            ErrorRegion.from_dict(record["region"]),
            State(record["state"]),
            str(record["note"]),
            bool(record["gone"]),
            None if record["into"] is None else int(record["into"]),
            None if record["before"] is None else State(record["before"]),
        )


@dataclass(frozen=True)
class ReviewQueue:
    """All regions of one candidate against one reference. Every change makes a new queue.

    After an edit `update_review` brings it up to date.

    Parameters
    ----------
    rules
        How regions are found.
    items
        Regions in the order of their numbers, those that are gone included.
    candidate, reference
        Checksums of the labels that the regions were found in.
    table
        Objects and what they have in common, where objects are reviewed.
    """

    rules: RegionRules
    items: tuple[ReviewItem, ...]
    candidate: Contents
    reference: Contents
    table: ObjectTable | None = field(default=None, compare=False, repr=False)

    @classmethod
    def start(
        cls,
        candidate: Any,
        reference: Any,
        rules: RegionRules,
        *,
        uncertainty: Any = None,
        progress: Progress | None = None,
    ) -> ReviewQueue:
        """Find the regions of two label images; all are open.

        Parameters
        ----------
        candidate, reference
            Integer arrays of one shape.
        rules
            How regions are found, `RegionRules.of`.
        uncertainty
            Array of the same shape, for the mean uncertainty of each region.
        progress
            Told about every block and region; can cancel.

        Raises
        ------
        InputError
            If the arrays cannot be compared.
        """
        check_label_arrays(candidate, reference)
        if uncertainty is not None:
            require_map(uncertainty, candidate)
        progress = progress or Progress()
        regions = numbered(find_regions(candidate, reference, rules, uncertainty=uncertainty, progress=progress))
        table = ObjectTable.of(candidate, reference, progress=progress) if rules.instances else None
        items = tuple(ReviewItem(region) for region in regions)
        return cls(rules, items, Contents.of(candidate), Contents.of(reference), table)

    # -- looking ------------------------------------------------------------------------------------

    def item(self, number: int) -> ReviewItem:
        """The region of that number.

        Raises
        ------
        InputError
            If there is none.
        """
        for item in self.items:
            if item.id == number:
                return item
        raise InputError(f"The review has no region {number}; its regions are listed in its table.")

    @property
    def present(self) -> tuple[ReviewItem, ...]:
        """Items whose regions are there, in the order of their numbers."""
        return tuple(item for item in self.items if not item.gone)

    def counts(self) -> dict[State, int]:
        """How many regions are in each state; those that vanished are among the fixed, parts of others in none."""
        counts = dict.fromkeys(State, 0)
        for item in self.items:
            if item.into is None:
                counts[item.state] += 1
        return counts

    def ranked(self, by: Order = "size", weights: Mapping[int, float] | None = None) -> list[ReviewItem]:
        """Items whose regions are there, from the first to look at to the last; see `ranking.ranked`."""
        items = {item.id: item for item in self.present}
        return [items[region.id] for region in ranked((item.region for item in items.values()), by, weights)]

    def next_open(
        self,
        after: int | None = None,
        *,
        by: Order = "size",
        weights: Mapping[int, float] | None = None,
        step: int = 1,
    ) -> ReviewItem | None:
        """The next open region in the ranking behind `after`, going on at the other end.

        Parameters
        ----------
        after
            Number of the region that is looked at; the ranking's beginning (or end, going back) when ``None``.
        by, weights
            As for `ranked`.
        step
            1 for the next, -1 for the previous.

        Returns
        -------
        item
            ``None`` if no region is open; the region itself if it is the only one.
        """
        order = self.ranked(by, weights)[:: 1 if step > 0 else -1]
        numbers = [item.id for item in order]
        first = numbers.index(after) + 1 if after in numbers else 0
        return next((item for item in order[first:] + order[:first] if item.state is State.OPEN), None)

    # -- deciding -----------------------------------------------------------------------------------

    def decided(self, number: int, state: State | str, note: str | None = None) -> ReviewQueue:
        """The queue with a new state of one region, and a new note unless that is ``None``.

        Raises
        ------
        InputError
            If there is no such region or state.
        """
        if state not in list(State):
            raise InputError(f"A region cannot be {state!r}; accepted are {', '.join(State)}.")
        old = self.item(number)
        new = replace(old, state=State(state), note=old.note if note is None else note)
        return replace(self, items=tuple(new if item is old else item for item in self.items))

    # -- keeping ------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON: rules, items, and which labels they belong to."""
        return {
            "rules": self.rules.to_dict(),
            "shape": list(self.candidate.shape),
            "candidate_sha256": self.candidate.digest,
            "reference_sha256": self.reference.digest,
            "items": [item.to_dict() for item in self.items],
        }

    def with_records(self, record: Mapping[str, Any]) -> ReviewQueue:
        """The queue, just started, with the numbers, states and notes that `to_dict` of an earlier one recorded.

        Raises
        ------
        ValueError, KeyError, TypeError
            If the record is not one, or its regions are not those of this queue.
        """
        stored = [ReviewItem.from_dict(entry) for entry in record["items"]]
        here = {_place(item.region): item.region for item in self.items}
        items = []
        for item in stored:
            if not item.gone:
                region = replace(item.region, id=0, runs=here.pop(_place(item.region)).runs)
                item = replace(item, region=replace(region, id=item.id))
            items.append(item)
        if here or len({item.id for item in items}) != len(items):
            raise ValueError("regions are missing in the record, or share a number")
        return replace(self, items=tuple(sorted(items, key=lambda item: item.id)))


def _place(region: ErrorRegion) -> tuple[Any, ...]:
    return cast(tuple[Any, ...], (region.kind, region.voxels, region.box, region.centre))
