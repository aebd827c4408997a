"""Bundles whose code the user agreed to run, by the hash of all their files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from napari_medseg.case import InputError

_HASH = re.compile(r"[0-9a-f]{64}")


def trust_file() -> Path:
    """The file that remembers trusted bundles, in the user's configuration folder."""
    import platformdirs

    return Path(platformdirs.user_config_dir("napari-medseg", appauthor=False)) / "trusted_bundles.json"


def trusted_bundles() -> set[str]:
    """Hashes of the bundles the user trusts (see `napari_medseg.bundles.checksums.bundle_sha256`)."""
    path = trust_file()
    if not path.is_file():
        return set()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {str(h) for h in stored["trusted"] if _HASH.fullmatch(str(h))}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; delete it and trust your bundles again") from error


def trust_bundle(sha256: str) -> None:
    """Remember that the user trusts the bundle with this hash."""
    if not _HASH.fullmatch(sha256):
        raise InputError(f"{sha256!r} is not a SHA-256; 64 hexadecimal digits are expected")
    _store(trusted_bundles() | {sha256})


def distrust_bundle(sha256: str) -> None:
    """Forget a bundle; nothing happens if it was not trusted."""
    _store(trusted_bundles() - {sha256})


def _store(hashes: set[str]) -> None:
    path = trust_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"trusted": sorted(hashes)}, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
