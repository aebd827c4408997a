"""One of the label images that are compared, and what its history says of the run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from napari_medseg.case import Provenance, Segmentation


@dataclass(frozen=True)
class RunFacts:
    """How labels were made; ``None`` where their history does not say.

    Parameters
    ----------
    model, version, weights_sha256, licence
        The model, and the licence of its weights.
    device, backend, precision
        What computed.
    seconds
        Time of the run.
    peak_memory, peak_device_memory
        In bytes: of the process that computed, and on its device.
    changes
        Actions since, for instance ``("edit",)``: the labels are then no longer what the model gave.
    """

    model: str | None = None
    version: str | None = None
    weights_sha256: str | None = None
    licence: str | None = None
    device: str | None = None
    backend: str | None = None
    precision: str | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    peak_device_memory: int | None = None
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, provenance: Provenance) -> RunFacts:
        """What a history says of its last run of a model."""
        steps = provenance.steps
        last = next((k for k in reversed(range(len(steps))) if steps[k].action == "segment"), None)
        if last is None:
            return cls(changes=tuple(step.action for step in steps))
        details = steps[last].details
        model: Any = details.get("model")
        named: Mapping[str, Any] = model if isinstance(model, Mapping) else {}
        since = tuple(step.action for step in steps[last + 1 :] if step.action not in ("export", "import"))
        return cls(
            model=named.get("id"),
            version=named.get("version"),
            weights_sha256=named.get("weights_sha256"),
            licence=named.get("licence"),
            changes=since,
            **{
                key: details.get(key)
                for key in ("device", "backend", "precision", "seconds", "peak_memory", "peak_device_memory")
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: time in seconds, memory in bytes; what is not known is left out."""
        return {k: list(v) if k == "changes" else v for k, v in asdict(self).items() if v not in (None, ())}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A label image that is compared.

    Parameters
    ----------
    name
        What it is called in tables and pictures; unlike every other candidate's.
    segmentation
        Its labels.
    run
        How they were made; read from their history when left out.
    """

    name: str
    segmentation: Segmentation
    run: RunFacts = field(default=RunFacts())

    def __post_init__(self) -> None:
        if self.run == RunFacts():
            object.__setattr__(self, "run", RunFacts.of(self.segmentation.provenance))
