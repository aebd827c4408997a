"""The folder of a bundle: what its files are called, where it may lie, and how it gets there whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from napari_medseg.bundles.checksums import SUMS, read_sums, write_sums
from napari_medseg.bundles.find import is_bundle, user_bundles
from napari_medseg.bundles.save.description import PLAIN_NAME
from napari_medseg.case import InputError, RefusedError
from napari_medseg.io.writing import require_folder

if TYPE_CHECKING:
    import torch

WEIGHTS, INFERENCE, METADATA = "models/model.safetensors", "configs/inference.json", "configs/metadata.json"
TRAINING, README, LICENCE = "configs/train.json", "docs/README.md", "LICENSE"
_ASIDE = "replaced bundle"
_CACHES = frozenset({"__pycache__", ".DS_Store"})


def target_folder(folder: str | Path | None, bundle_id: str, within: str | Path | None) -> Path:
    """The folder to write, with links in its path followed; the user's own one of that id for ``None``.

    Raises
    ------
    InputError
        It cannot be called so, or its parent is not there.
    RefusedError
        It is a link, or lies outside `within`.
    """
    if folder is None:
        user_bundles().mkdir(parents=True, exist_ok=True)
        folder = user_bundles() / bundle_id
    given = Path(folder).expanduser()
    if not PLAIN_NAME.fullmatch(given.name):
        raise InputError(f"A bundle cannot be called {given.name!r}; up to 100 letters, digits and . _ - are accepted.")
    target = given.parent.resolve() / given.name
    if target.is_symlink():
        raise RefusedError(f"{target.name} is a link to another place, and nothing is written through it.")
    if within is not None and not target.parent.is_relative_to(Path(within).expanduser().resolve()):
        raise RefusedError(f"{folder} lies outside {Path(within).name}, where bundles are to be written.")
    require_folder(target)
    return target


def require_free(target: Path, overwrite: bool) -> None:
    """Raise `InputError` where something is there that may not be replaced."""
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"{target.name}: already exists; choose another name or allow overwriting.")
    if not target.is_dir() or not is_bundle(target):
        raise InputError(f"{target.name}: is no bundle and is never replaced; choose another name.")
    found = {p.relative_to(target).as_posix() for p in target.rglob("*") if not p.is_dir() or p.is_symlink()}
    foreign = sorted(n for n in found - set(read_sums(target)) - {SUMS} if not _CACHES & set(n.split("/")))
    if foreign:
        raise InputError(f"{target.name}: holds {foreign[0]}, which {SUMS} does not name; move it elsewhere first.")


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder of the same name to write to, one level deeper, where nobody looks for bundles."""
    try:
        outer = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except PermissionError as error:
        raise InputError(f"{target.name}: no permission to write here; choose another folder.") from error
    try:
        yield outer / target.name
    finally:
        # a bundle that could be neither replaced nor put back is still in there
        if target.exists() or not (outer / _ASIDE).exists():
            shutil.rmtree(outer)


def write_files(folder: Path, files: Mapping[str, str], stored: Mapping[str, torch.Tensor]) -> None:
    """Write texts, by their path in the bundle, then weights and ``SHA256SUMS``."""
    from safetensors.torch import save_file

    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / WEIGHTS).parent.mkdir()
    save_file(dict(stored), folder / WEIGHTS)
    write_sums(folder)


def publish(written: Path, target: Path, overwrite: bool) -> None:
    """Give a whole bundle its name; what had it before is put back where that fails."""
    require_free(target, overwrite)
    aside = written.parent / _ASIDE
    replaced = target.exists()
    if replaced:
        target.rename(aside)
    try:
        written.rename(target)
    except BaseException:
        if replaced:
            aside.rename(target)
        raise
