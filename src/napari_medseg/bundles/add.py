"""Put a model among the user's own, so that it is listed by its id."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from napari_medseg.bundles.find import is_bundle, list_bundles
from napari_medseg.bundles.load import load_model
from napari_medseg.bundles.model import Model
from napari_medseg.bundles.nnunet import bundle_name, convert_nnunet, results_folder
from napari_medseg.bundles.nnunet.results import CHECKPOINT, the_fold
from napari_medseg.bundles.save import folder as place
from napari_medseg.case import InputError


def add_model(
    path: str | Path,
    *,
    fold: str | None = None,
    orientation: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> Model:
    """Copy a MONAI bundle, or make one of a results folder of nnU-Net v2, into the user's folder of models.

    Parameters
    ----------
    path
        The bundle's folder, the results folder, or one of its folds.
    fold
        Of a results folder with several; each is a model of its own.
    orientation, licence
        As in `napari_medseg.bundles.nnunet.convert_nnunet`, and for results folders only.
    overwrite
        Whether a model of the same name may be replaced.

    Returns
    -------
    Model
        What was added, as read back from its new place.

    Raises
    ------
    InputError
        It is neither, cannot be used, or a model of that id is there.
    RefusedError
        A checksum is wrong, or it would run code.
    """
    source = Path(path).expanduser().resolve()
    found = results_folder(source) if source.is_dir() else None
    if found is not None:
        folder, named = found
        chosen = the_fold(folder, fold or named, CHECKPOINT)
        name = bundle_name(folder, chosen)
        target = place.target_folder(None, name, None)
        return convert_nnunet(
            folder,
            target,
            chosen,
            orientation=None if orientation is None else tuple(orientation.upper()),
            licence=licence or "not stated",
            overwrite=overwrite,
        )
    if fold or orientation or licence:
        raise InputError("A fold, an orientation and a licence are stated for results folders of nnU-Net only.")
    if not is_bundle(source):
        raise InputError(
            f"{source.name} is neither a MONAI bundle nor a results folder of nnU-Net v2: it has no "
            "configs/metadata.json and no plans.json with dataset.json."
        )
    return _copied(source, overwrite)


def _copied(source: Path, overwrite: bool) -> Model:
    model = load_model(source, trust=set())
    target = place.target_folder(None, model.card.id, None)
    taken = next((e for e in list_bundles() if e.id == model.card.id and e.path.resolve() != target), None)
    if taken is not None:
        raise InputError(f"{model.card.id} is also the id of a model in {taken.source}; it is there already.")
    place.require_free(target, overwrite)
    link = next((p for p in sorted(source.rglob("*")) if p.is_symlink()), None)
    if link is not None:
        raise InputError(f"{source.name} holds the link {link.relative_to(source)}; copy the file itself in its place.")
    with place.staged(target) as written:
        shutil.copytree(source, written)
        model = load_model(written, trust=set())
        place.publish(written, target, overwrite)
    weights = target / model.weights.relative_to(model.path)
    return dataclasses.replace(model, path=target, weights=weights, source="user folder")
