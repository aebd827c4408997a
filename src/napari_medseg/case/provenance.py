"""Who made a segmentation and what was done to it since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Step:
    """One thing that happened to the labels.

    `action` is a word (``"segment"``, ``"edit"``, ``"import"``, ``"export"``); `at` is UTC in ISO 8601;
    `details` holds plain JSON values: for a model run its id, weight hash, licence, device, precision
    and tile plan; never patient identifiers or paths.
    """

    action: str
    at: str
    details: Mapping[str, Any]

    @classmethod
    def now(cls, action: str, **details: Any) -> Step:
        """A step that happens now."""
        return cls(action, datetime.now(UTC).isoformat(timespec="seconds"), details)


@dataclass(frozen=True)
class Provenance:
    """The history of a segmentation: the image it was made on, then every step in order."""

    image_sha256: str | None = None
    steps: tuple[Step, ...] = ()

    def with_step(self, step: Step) -> Provenance:
        """The same history with one more step."""
        return replace(self, steps=(*self.steps, step))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "image_sha256": self.image_sha256,
            "steps": [{"action": s.action, "at": s.at, "details": dict(s.details)} for s in self.steps],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Provenance:
        """The reverse of `to_dict`."""
        steps = tuple(Step(str(s["action"]), str(s["at"]), dict(s["details"])) for s in record["steps"])
        return cls(record.get("image_sha256"), steps)
