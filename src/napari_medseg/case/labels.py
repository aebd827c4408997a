"""Names and colours of label ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

Colour = tuple[int, int, int]

# towards white or black, and how far: eight more colours a turn that still go with the first eight
_TURNS = ((255, 0.0), (255, 0.45), (0, 0.35), (255, 0.7), (0, 0.55))


@dataclass(frozen=True)
class Label:
    """One structure.

    Parameters
    ----------
    id
        The integer in the array, 1 or more; 0 is background and never listed.
    name
        What a person reads.
    colour
        Red, green, blue, 0-255; the palette's colour for this id when not given.
    terminology
        Optional code of the structure, e.g. ``("SCT", "10200004", "Liver")``: scheme, value, meaning.
    """

    id: int
    name: str
    colour: Colour = (-1, -1, -1)
    terminology: tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        if self.id < 1:
            raise ValueError(f"label id {self.id} is not 1 or more; 0 is background")
        if self.colour == (-1, -1, -1):
            object.__setattr__(self, "colour", palette_colour(self.id))
        if len(self.colour) != 3 or not all(0 <= v <= 255 for v in self.colour):
            raise ValueError(f"colour {self.colour} of label {self.id} is not three numbers from 0 to 255")


@dataclass(frozen=True)
class LabelTable:
    """The labels a segmentation may hold, by id.

    `instances` says that every id is one *object* of the single class listed (cell 1, cell 2, ...)
    rather than a class; ids that are not listed then take the class's name and the palette's colour.
    """

    labels: tuple[Label, ...] = ()
    instances: bool = False
    _by_id: Mapping[int, Label] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {label.id: label for label in self.labels}
        if len(by_id) != len(self.labels):
            raise ValueError("two labels share an id")
        if self.instances and len(self.labels) != 1:
            raise ValueError("an instance table names exactly one class")
        object.__setattr__(self, "_by_id", by_id)

    @classmethod
    def from_names(cls, names: Mapping[int, str] | Iterable[str], instances: bool = False) -> LabelTable:
        """From ``{id: name}``, or from names that are numbered 1, 2, ..."""
        items = names.items() if isinstance(names, Mapping) else enumerate(names, start=1)
        return cls(tuple(Label(int(i), str(n)) for i, n in items if int(i) != 0), instances)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label_id: int) -> bool:
        return label_id in self._by_id

    def name(self, label_id: int) -> str:
        """The name shown for `label_id`; ``background`` for 0 and ``label 7`` for an unlisted 7."""
        if label_id == 0:
            return "background"
        if self.instances:
            return f"{self.labels[0].name} {label_id}"
        return self._by_id[label_id].name if label_id in self._by_id else f"label {label_id}"

    def colour(self, label_id: int) -> Colour:
        """Red, green, blue (0-255) of `label_id`; black for background."""
        if label_id == 0:
            return (0, 0, 0)
        if label_id in self._by_id and not self.instances:
            return self._by_id[label_id].colour
        return palette_colour(label_id)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "instances": self.instances,
            "labels": [
                {"id": e.id, "name": e.name, "colour": list(e.colour)}
                | ({"terminology": list(e.terminology)} if e.terminology else {})
                for e in self.labels
            ],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LabelTable:
        """The reverse of `to_dict`; raises ``ValueError`` or ``KeyError`` on a record that is not one."""
        labels = []
        for entry in record["labels"]:
            red, green, blue = (int(v) for v in entry["colour"])
            code = entry.get("terminology")
            terminology = (str(code[0]), str(code[1]), str(code[2])) if code else None
            labels.append(Label(int(entry["id"]), str(entry["name"]), (red, green, blue), terminology))
        return cls(tuple(labels), bool(record["instances"]))


@cache
def _palette() -> tuple[Colour, ...]:
    file = resources.files("napari_medseg") / "resources" / "palettes" / "okabe_ito.json"
    colours = json.loads(file.read_text(encoding="utf-8"))["colours"]
    return tuple((int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for c in colours)


def palette_colour(label_id: int) -> Colour:
    """The colour of `label_id` when nobody chose one: Okabe-Ito first, then lighter and darker turns of it."""
    base = _palette()
    turn, position = divmod(label_id - 1, len(base))
    target, share = _TURNS[turn % len(_TURNS)]
    red, green, blue = (round(v + share * (target - v)) for v in base[position])
    return red, green, blue
