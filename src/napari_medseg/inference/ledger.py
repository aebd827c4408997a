"""What became of every tile of a run, kept beside the labels while they grow.

The ledger is a text file of one JSON object a line. The first line says what is being computed; a run is resumed
only if it says the same again. Every further line is written, and forced to the disk, once a unit's labels lie in
the store, with their checksum: after a kill, a power cut or a full disk nothing counts as done that is not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_medseg.case import InputError, MedsegError, OtherRunError

# what a person may read of a difference, by the first key that differs
_WORDS = {
    "image": "another image",
    "model": "another model",
    "options": "other options",
    "compute": "another device, precision or backend",
    "software": "other versions of the software",
}


@dataclass(frozen=True)
class UnitRecord:
    """One unit whose labels are stored.

    Parameters
    ----------
    done, skipped
        Tiles that were computed, and tiles left out because they hold no tissue.
    checksum
        CRC-32 of the unit's labels.
    objects
        Number of objects of an instance model.
    """

    done: int
    skipped: int
    checksum: int
    objects: int = 0


class Ledger:
    """The ledger of one run.

    Parameters
    ----------
    path
        The file.
    header
        What is being computed, JSON values.
    records
        The units that are done.
    ladder
        What was done when memory ran out.
    """

    def __init__(
        self, path: Path, header: Mapping[str, Any], records: dict[int, UnitRecord], ladder: list[str]
    ) -> None:
        self.path, self.header = path, header
        self.records, self.ladder = records, ladder
        self.failed: dict[int, str] = {}

    @classmethod
    def start(cls, path: Path, header: Mapping[str, Any]) -> Ledger:
        """A new ledger."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger = cls(path, _plain(header), {}, [])
        path.unlink(missing_ok=True)
        ledger._append(ledger.header)
        return ledger

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The ledger that a run left behind.

        Raises
        ------
        InputError
            If there is none, or its first line is damaged.
        """
        try:
            lines = path.read_bytes().split(b"\n")
            header = json.loads(lines[0])
        except (OSError, ValueError, IndexError) as error:
            raise InputError("The unfinished run lost its ledger and cannot be resumed; start it anew.") from error
        ledger = cls(path, header, {}, [])
        whole = len(lines[0]) + 1
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                if entry.get("lost"):
                    ledger.records.pop(int(entry["unit"]), None)
                elif "unit" in entry and "checksum" in entry:
                    record = {k: int(entry[k]) for k in ("done", "skipped", "checksum", "objects")}
                    ledger.records[int(entry["unit"])] = UnitRecord(**record)
                elif "ladder" in entry:
                    ledger.ladder.append(str(entry["ladder"]))
            except (ValueError, KeyError, TypeError):
                # the line that was being written when the process ended
                break
            whole += len(line) + 1
        with path.open("r+b") as stream:
            stream.truncate(min(whole, path.stat().st_size))
        return ledger

    def require_same(self, header: Mapping[str, Any]) -> None:
        """Raise `OtherRunError`, naming the difference, if another run than this is asked for."""
        wanted = _plain(header)
        for key in dict.fromkeys([*self.header, *wanted]):
            mine, theirs = self.header.get(key), wanted.get(key)
            if mine == theirs:
                continue
            said = _WORDS.get(key, key)
            if isinstance(mine, dict) and isinstance(theirs, dict):
                fields = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
                said += f" ({', '.join(fields)})"
            raise OtherRunError(
                f"The unfinished run was made with {said}; ask for the same again, or start anew with --overwrite."
            )

    def add(self, unit: int, record: UnitRecord) -> None:
        """A unit's labels are stored."""
        self._append({"unit": unit, **record.__dict__})
        self.records[unit] = record
        self.failed.pop(unit, None)

    def forget(self, unit: int) -> None:
        """A unit's stored labels are not what was written: it is to be computed again."""
        self._append({"unit": unit, "lost": True})
        self.records.pop(unit, None)

    def fail(self, unit: int, tile: tuple[int, ...], reason: str) -> None:
        """A tile of a unit could not be computed."""
        self.failed[unit] = reason
        self._append({"unit": unit, "failed_tile": list(tile), "reason": reason})

    def climb(self, words: str) -> None:
        """Memory ran out, and this was done about it."""
        self.ladder.append(words)
        self._append({"ladder": words})

    def tiles(self, planned: int) -> dict[str, int]:
        """How many tiles were planned, done, failed and skipped."""
        done = sum(r.done for r in self.records.values())
        skipped = sum(r.skipped for r in self.records.values())
        return {"planned": planned, "done": done, "failed": len(self.failed), "skipped": skipped}

    def require_complete(self, planned: int) -> dict[str, int]:
        """The numbers of `tiles`, once done and skipped tiles are all that were planned.

        Raises
        ------
        MedsegError
            If they are not.
        """
        tiles = self.tiles(planned)
        if tiles["done"] + tiles["skipped"] != planned or tiles["failed"]:
            raise MedsegError(
                f"Of {planned} tiles only {tiles['done']} were computed and {tiles['skipped']} skipped; resume the run."
            )
        return tiles

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("ab") as stream:
            stream.write(json.dumps(entry).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def _plain(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header as it comes back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(header))
    return plain
