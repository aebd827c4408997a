"""Bundles of results folders that were named instead of a bundle: made once and kept in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from napari_medseg.bundles.checksums import file_sha256
from napari_medseg.bundles.nnunet.convert import convert_nnunet
from napari_medseg.bundles.nnunet.results import CHECKPOINT, results_folder, the_fold
from napari_medseg.case import InputError


def kept_bundle(path: str | Path) -> Path:
    """The bundle of a results folder or of one of its folds; it is made where none is kept of exactly these files.

    Raises
    ------
    InputError, RefusedError
        As in `convert_nnunet`.
    """
    import platformdirs

    found = results_folder(Path(path).expanduser().resolve())
    if found is None:
        raise InputError(
            f"{Path(path).name} is no results folder of nnU-Net v2: it has no plans.json and dataset.json."
        )
    folder, fold = found
    fold = the_fold(folder, fold, CHECKPOINT)
    files = (folder / "plans.json", folder / "dataset.json", folder / f"fold_{fold}" / CHECKPOINT)
    key = hashlib.sha256("".join(file_sha256(f) for f in files).encode()).hexdigest()[:16]
    cache = Path(platformdirs.user_cache_dir("napari-medseg", appauthor=False)) / "nnunet" / key
    target = cache / bundle_name(folder, fold)
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        try:
            convert_nnunet(folder, target, fold)
        except InputError:
            # another program may have made it meanwhile
            if not target.is_dir():
                raise
    return target


def bundle_name(folder: Path, fold: str) -> str:
    """What the bundle of a fold is called: data set, configuration and fold."""
    words = (folder.parent.name, folder.name.rpartition("__")[2], f"fold{fold}")
    return "_".join("".join(c if c.isalnum() else "_" for c in word).strip("_") for word in words if word)[:90]
