"""Exported networks and measured decisions, kept on disk between runs. Everything here can be deleted at any time.

Exports that were not used for the longest time go when together they pass 4 GiB.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from napari_medseg import __version__
from napari_medseg.bundles.model import Model

ENVIRONMENT = "MEDSEG_CACHE"
_LARGEST_BYTES = 4 << 30

Key = Mapping[str, Any]
"""What an entry depends on; plain numbers, strings and lists. Another key is another entry."""


def cache_folder() -> Path:
    """Where exports are kept: in the user's cache folder, or in the one that ``MEDSEG_CACHE`` names."""
    named = os.environ.get(ENVIRONMENT, "").strip()
    if named:
        return Path(named).expanduser() / "backends"
    import platformdirs

    return Path(platformdirs.user_cache_dir("napari-medseg", appauthor=False)) / "backends"


@dataclass(frozen=True)
class BackendCache:
    """Exports and decisions in a folder.

    Parameters
    ----------
    folder
        Made when the first entry is kept; ``None`` keeps and finds nothing.
    """

    folder: Path | None

    @classmethod
    def of(cls, model: Model) -> BackendCache:
        """The cache for `model`; one that keeps nothing where the weights have no hash to know them by."""
        known = model.sha256.strip("0") != ""
        return cls(cache_folder() if known else None)

    def files(
        self, kind: str, key: Key, suffixes: tuple[str, ...], make: Callable[[], dict[str, bytes]]
    ) -> tuple[dict[str, bytes], str]:
        """The files of an export by suffix, made by `make` where they are not kept whole, and what happened.

        Returns
        -------
        files, note
            `note` is one sentence where kept files were damaged or could not be kept, else empty.
        """
        if self.folder is None:
            return make(), ""
        path = self.folder / _name(kind, key)
        found, note = _read(path, suffixes)
        if found is not None:
            return found, note
        files = make()
        record = {"key": dict(key), "sha256": {s: hashlib.sha256(content).hexdigest() for s, content in files.items()}}
        try:
            for suffix, content in files.items():
                _write(path.with_name(path.name + suffix), content)
            # last, so that a record never speaks of files that are not there
            _write(path.with_name(path.name + ".json"), json.dumps(record, indent=1).encode())
            _prune(self.folder, keep=path.name)
        except OSError as error:
            note = f"{note} The export could not be kept in {self.folder}: {error.strerror}.".strip()
        return files, note

    def decision(self, key: Key) -> dict[str, Any] | None:
        """What was decided for `key`; ``None`` where nothing readable is kept."""
        if self.folder is None:
            return None
        try:
            record = json.loads((self.folder / f"{_name('decision', key)}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        decided = record.get("decision") if isinstance(record, dict) else None
        return decided if isinstance(decided, dict) else None

    def keep_decision(self, key: Key, decision: Mapping[str, Any]) -> str:
        """Keep what was decided; returns one sentence where that was not possible, else nothing."""
        if self.folder is None:
            return ""
        record = {"key": dict(key), "decision": dict(decision)}
        try:
            _write(self.folder / f"{_name('decision', key)}.json", json.dumps(record, indent=1).encode())
        except OSError as error:
            return f"The measurement could not be kept in {self.folder}: {error.strerror}."
        return ""


def export_key(model: Model, tiles: torch.Tensor, packages: tuple[str, ...]) -> Key:
    """What an export for tiles ``(n, c, *tile)`` depends on; `packages` made it, beside torch and MONAI."""
    return {
        "weights": model.sha256,
        # the same weights can stand in another network
        "network": hashlib.sha256(json.dumps(model.network_def, sort_keys=True, default=str).encode()).hexdigest(),
        "tile": list(tiles.shape[2:]),
        "channels": tiles.shape[1],
        "versions": _versions("torch", "monai", *packages),
    }


def decision_key(model: Model, tiles: torch.Tensor, packages: tuple[str, ...], candidates: list[str]) -> Key:
    """What the fastest of `candidates` depends on."""
    return {
        **export_key(model, tiles, packages),
        "batch": len(tiles),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "candidates": sorted(candidates),
    }


def _versions(*packages: str) -> dict[str, str]:
    found = {"napari-medseg": __version__}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _name(kind: str, key: Key) -> str:
    return f"{kind}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}"


def _read(path: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, bytes] | None, str]:
    """Kept files, read once and checked as read; ``None`` and why where they are not whole."""
    listed = path.with_name(path.name + ".json")
    if not listed.exists():
        return None, ""
    try:
        stated = json.loads(listed.read_text("utf-8"))["sha256"]
        files = {s: path.with_name(path.name + s).read_bytes() for s in suffixes}
        whole = all(hashlib.sha256(files[s]).hexdigest() == stated[s] for s in suffixes)
    except (OSError, ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        return None, "The cached export was damaged and was made again."
    with suppress(OSError):
        # a cache that cannot be written to is good enough to read from
        os.utime(listed)
    return files, ""


def _prune(folder: Path, keep: str) -> None:
    """Delete the exports that were not used for the longest time, until the rest is no larger than allowed."""
    records = [(path.stat().st_mtime, path) for path in folder.glob("*.json") if not path.name.startswith("decision-")]
    room = _LARGEST_BYTES
    for _, record in sorted(records, reverse=True):
        files = [path for path in folder.glob(f"{record.stem}*") if path != record]
        room -= sum(path.stat().st_size for path in files)
        if room < 0 and record.stem != keep:
            # the record first: it never speaks of files that are not there
            for path in (record, *files):
                path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    """Write under another name and rename: nobody ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
