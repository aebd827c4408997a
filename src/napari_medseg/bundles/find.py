"""Where bundles are found, and what each is, without loading any of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from napari_medseg.bundles.card import read_card
from napari_medseg.bundles.checksums import file_sha256, read_sums
from napari_medseg.bundles.config import CONFIG_SUFFIXES, inside, read_config
from napari_medseg.bundles.model import ModelCard
from napari_medseg.case import InputError, MedsegError
from napari_medseg.networks import ARCHITECTURES

ENVIRONMENT = "MEDSEG_BUNDLES"
# a safetensors file without tensors
_EMPTY = 16
_WEIGHTS = ("model.safetensors", "model.pt", "model.pth")


@dataclass(frozen=True)
class BundleEntry:
    """A bundle that was found.

    Parameters
    ----------
    id
        What to call it by; the folder's name where the bundle cannot be read.
    path
        Its folder.
    source
        ``"built-in"``, ``"user folder"`` or the folder it was found in.
    card
        ``None`` where the bundle cannot be read.
    sha256, size
        Of its weights, size in bytes; the hash is the stated one and is verified on loading.
    warning
        What is wrong with it, as one sentence; ``None`` when it can be used.
    """

    id: str
    path: Path
    source: str
    card: ModelCard | None
    sha256: str
    size: int
    warning: str | None = None

    @property
    def learned_nothing(self) -> bool:
        """Whether it holds no weights at all, as a method that only follows rules."""
        return self.card is not None and self.size <= _EMPTY

    @property
    def images(self) -> int:
        """How many images it learned from, as far as its card says."""
        sets = self.card.training_data if self.card is not None else ()
        counts = (record.get("images") for record in sets)
        return sum(n for n in counts if isinstance(n, int))


def user_bundles() -> Path:
    """The folder where a user's own bundles are kept."""
    import platformdirs

    return Path(platformdirs.user_data_dir("napari-medseg", appauthor=False)) / "bundles"


def bundle_folders() -> list[tuple[str, Path]]:
    """Folders that are searched, with the name of each source, in order."""
    folders = [("built-in", Path(str(resources.files("napari_medseg") / "resources" / "bundles")))]
    folders.append(("user folder", user_bundles()))
    extra = [Path(p).expanduser() for p in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if p.strip()]
    return folders + [(str(p), p) for p in extra]


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a MONAI bundle."""
    return any((folder / "configs" / f"metadata{suffix}").is_file() for suffix in CONFIG_SUFFIXES)


def list_bundles() -> list[BundleEntry]:
    """All bundles found, built-in first; one that cannot be read is listed with a warning.

    Within a source those that learned from more images come first, and those that learned nothing last: the first that
    fits an image is what is proposed.

    Of several with one id the first is used by that id; the others carry a warning and can be used by their path.
    """
    entries: list[BundleEntry] = []
    used: dict[str, str] = {}
    for source, folder in _candidates():
        entry = describe(folder, source)
        if entry.warning is None and entry.id in used:
            warning = f"{entry.id} is also the id of a bundle in {used[entry.id]}, which is used; name this one by path"
            entry = BundleEntry(entry.id, entry.path, source, entry.card, entry.sha256, entry.size, warning)
        elif entry.warning is None:
            used[entry.id] = source
        entries.append(entry)
    sources = list(dict.fromkeys(e.source for e in entries))
    return sorted(entries, key=lambda e: (sources.index(e.source), e.learned_nothing, -e.images))


def describe(folder: Path, source: str) -> BundleEntry:
    """What one folder holds; problems become the entry's warning."""
    try:
        card = read_card(read_config(folder, "metadata"), folder.name)
        weights = weights_file(folder)
        sha256 = read_sums(folder).get(weights.relative_to(folder).as_posix()) or file_sha256(weights)
        return BundleEntry(card.id, folder, source, card, sha256, weights.stat().st_size, _missing(folder))
    except (MedsegError, OSError) as error:
        return BundleEntry(folder.name, folder, source, None, "", 0, str(error))


def _missing(folder: Path) -> str | None:
    """What must be installed before the bundle's network can be built."""
    network = read_config(folder, "inference").get("network_def")
    target = network.get("_target_") if isinstance(network, dict) else None
    return next((e.missing for e in ARCHITECTURES.values() if e.target == target and e.missing), None)


def weights_file(folder: Path) -> Path:
    """The file with a bundle's weights: ``models/model.safetensors``, or the same as ``.pt`` or ``.pth``."""
    for name in _WEIGHTS:
        if (folder / "models" / name).is_file():
            inside(folder, f"models/{name}")
            return folder / "models" / name
    raise InputError(f"{folder.name} has no weights; models/model.safetensors or models/model.pt is expected")


def find_bundle(id_or_path: str | Path) -> tuple[Path, str]:
    """Find a bundle by id or by path; a results folder of nnU-Net v2, or one of its folds, counts as one.

    Returns
    -------
    path, str
        Its folder, and where it was found.

    Raises
    ------
    InputError
        There is none; the sentence lists the ids there are.
    """
    text = str(id_or_path)
    known = []
    if os.sep not in text and "/" not in text:
        for entry in list_bundles():
            if entry.id == text and entry.card is not None:
                return entry.path, entry.source
            known.append(entry)
    path = Path(id_or_path).expanduser()
    if is_bundle(path):
        return path.resolve(), str(path.resolve().parent)
    if path.is_dir():
        # converting saves a bundle, and saving one reads it with this module
        from napari_medseg.bundles.nnunet.kept import kept_bundle
        from napari_medseg.bundles.nnunet.results import results_folder

        if results_folder(path.resolve()) is not None:
            return kept_bundle(path), "nnU-Net results"
    if path.exists():
        raise InputError(
            f"{text} is neither a MONAI bundle nor a results folder of nnU-Net v2: it has no configs/metadata.json "
            "and no plans.json with dataset.json."
        )
    broken = next((e for e in known if e.id == text), None)
    if broken is not None:
        raise InputError(f"the bundle {text} cannot be used: {broken.warning}")
    ids = ", ".join(e.id for e in known or list_bundles() if e.warning is None) or "none"
    raise InputError(f"there is no model {text}; found are {ids}, and the path of a bundle folder is accepted too")


def _candidates() -> Iterator[tuple[str, Path]]:
    seen: set[Path] = set()
    for source, folder in bundle_folders():
        if not folder.is_dir():
            continue
        places = [folder] if is_bundle(folder) else sorted(p for p in folder.iterdir() if p.is_dir())
        for place in places:
            if place.resolve() not in seen and (place / "configs").is_dir():
                seen.add(place.resolve())
                yield source, place
