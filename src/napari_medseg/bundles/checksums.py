"""SHA-256 of a bundle's files: read, check and write its ``SHA256SUMS``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from napari_medseg.bundles.config import inside
from napari_medseg.case import InputError, RefusedError

SUMS = "SHA256SUMS"
_IGNORED_PARTS = frozenset({"__pycache__", ".git", ".DS_Store", "run"})


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_sums(folder: Path) -> dict[str, str]:
    """Read the hashes that a bundle states, by path inside it; empty without a ``SHA256SUMS`` file."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    sums = {}
    # an unreadable byte becomes a name that is not there
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        digest, _, name = line.partition(" ")
        name = name.strip().removeprefix("*")
        if len(digest) != 64 or not name:
            raise InputError(f"{folder.name}: line {number} of {SUMS} is not '<sha256>  <file>'")
        inside(folder, name)
        sums[name] = digest.lower()
    return sums


def verify(folder: Path, needed: tuple[str, ...]) -> bool:
    """Check every file named in ``SHA256SUMS``.

    Parameters
    ----------
    folder
        The bundle.
    needed
        Files that must be named there, relative to the folder.

    Returns
    -------
    bool
        False when the bundle states no hashes, so that nothing could be checked.

    Raises
    ------
    RefusedError
        A file differs, is missing, or is used without being named.
    """
    sums = read_sums(folder)
    if not sums:
        return False
    for name, expected in sums.items():
        path = inside(folder, name)
        if not path.is_file():
            raise RefusedError(f"{folder.name} is not complete: {name} is named in {SUMS} and is not there")
        found = file_sha256(path)
        if found != expected:
            raise RefusedError(
                f"{folder.name} was changed or damaged: {name} has SHA-256 {found[:12]}..., "
                f"{SUMS} says {expected[:12]}...; get the bundle again"
            )
    for name in needed:
        if name not in sums:
            raise RefusedError(f"{folder.name} cannot be verified: {name} is used and not named in {SUMS}")
    return True


def bundle_files(folder: Path) -> list[Path]:
    """Every file of a bundle that ``SHA256SUMS`` names: all but itself and caches, sorted by path."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != SUMS]
    return sorted(p for p in files if not _IGNORED_PARTS & set(p.relative_to(folder).parts))


def bundle_sha256(folder: Path) -> str:
    """One hash over the names and contents of all files; what the user trusts when trusting a bundle.

    Caches, hidden files and ``SHA256SUMS`` count too: whatever lies in the folder may be run with it.

    Raises
    ------
    RefusedError
        A link leads out of the bundle to a folder, whose files could change unseen.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.is_dir():
            inside(folder, path.relative_to(folder))
            total.update(f"{path.readlink().as_posix()} -> {path.relative_to(folder).as_posix()}\n".encode())
        if not path.is_file():
            continue
        total.update(f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()


def write_sums(folder: Path) -> Path:
    """Write ``SHA256SUMS`` of a bundle's present files."""
    lines = [f"{file_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in bundle_files(folder)]
    path = folder / SUMS
    path.write_text("".join(lines), encoding="utf-8")
    return path
