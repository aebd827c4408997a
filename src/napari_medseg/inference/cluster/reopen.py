"""How another process opens the same image and the same model, and how it knows that they are the same.

What travels is small and plain: paths, numbers, hashes. The process that receives it opens the files by itself and
refuses them if they are not what the sender has.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_medseg.bundles import bundle_sha256, load_model
from napari_medseg.bundles.find import find_bundle, is_bundle
from napari_medseg.bundles.model import Model
from napari_medseg.case import Geometry, InputError, MedicalImage

_GLIMPSE = 256
# where a model was found, and whether it was verified there, changes nothing of what it computes
_NOT_COMPARED = ("card", "path", "weights", "source", "trusted", "verified")


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """An image as its files, and what was said of it since they were opened.

    Parameters
    ----------
    path, number
        What to open, and which of the images in it, from 0.
    shapes, axes, dtype
        Of its levels.
    stated
        The grid that the files state.
    glimpse
        SHA-256 of the middle of the image.
    said
        Grid, modality and the like as they are used, for instance with a spacing that the user gave.
    """

    path: Path
    number: int
    shapes: tuple[tuple[int, ...], ...]
    axes: str
    dtype: str
    stated: Geometry
    glimpse: str
    said: dict[str, Any]

    @classmethod
    def of(cls, image: MedicalImage) -> ImageFiles:
        """How to open `image` again.

        Raises
        ------
        InputError
            If it lies in memory only, or its files no longer hold it.
        """
        if not image.source.paths:
            raise InputError(
                "Other processes compute from files that they can open themselves, and this image lies in memory "
                "only; save it as OME-Zarr, NIfTI or TIFF in a folder that all of them see, and open that."
            )
        alike = [found for found in _again(image) if _looks(found[2]) == _looks(image)]
        alike = [found for found in alike if glimpse(found[2]) == glimpse(image)]
        if len(alike) != 1:
            said = (
                "several images that cannot be told apart"
                if alike
                else "not the image that is open (it was changed, cropped or computed)"
            )
            raise InputError(
                f"{image.source.paths[0].name}: holds {said}, so that other processes cannot open it; "
                "save the image in a file of its own and open that."
            )
        path, number, opened = alike[0]
        said_of_it = {
            "geometry": image.geometry,
            "modality": image.modality,
            "intensity": image.intensity,
            "channels": image.channels,
            "seconds_per_frame": image.seconds_per_frame,
            "objective_power": image.objective_power,
        }
        shapes, axes, dtype = _looks(image)
        return cls(path, number, shapes, axes, dtype, opened.geometry, glimpse(image), said_of_it)

    def open(self) -> MedicalImage:
        """The image, with what was said of it.

        Raises
        ------
        InputError
            If the files are not there, or hold another image.
        """
        from napari_medseg.io import open_images

        images = open_images(self.path)
        other = InputError(
            f"{self.path.name}: holds another image here than where the run was started; "
            "let all workers see the same files under the same path."
        )
        if self.number >= len(images):
            raise other
        image = images[self.number]
        if _looks(image) != (self.shapes, self.axes, self.dtype) or not image.geometry.is_close(self.stated):
            raise other
        if glimpse(image) != self.glimpse:
            raise other
        return replace(image, **self.said)


def _looks(image: MedicalImage) -> tuple[tuple[tuple[int, ...], ...], str, str]:
    return tuple(tuple(int(n) for n in level.shape) for level in image.levels), image.axes, str(image.dtype)


def _again(image: MedicalImage) -> Iterator[tuple[Path, int, MedicalImage]]:
    """Images in the first place that holds one of the same files and shape: the file itself, or the folder."""
    from napari_medseg.io import open_images

    paths = [Path(os.path.abspath(p.expanduser())) for p in image.source.paths]  # noqa: PTH100 - links must stay links
    places = [paths[0]] if len(paths) == 1 else [paths[0], Path(os.path.commonpath(paths))]
    for place in places:
        try:
            images = open_images(place)
        except InputError:
            # one slice of a series may be no image by itself
            if place == places[-1]:
                raise
            continue
        found = [
            (place, number, other)
            for number, other in enumerate(images)
            if {os.path.abspath(p) for p in other.source.paths} == set(map(str, paths)) and other.shape == image.shape  # noqa: PTH100
        ]
        if found:
            yield from found
            return


def glimpse(image: MedicalImage) -> str:
    """SHA-256 of a square in the middle of the image: of the middle plane, and of the middle frame."""
    index = []
    for axis, n in zip(image.axes, image.shape, strict=True):
        length = {"t": 1, "z": 1, "c": n}.get(axis, _GLIMPSE)
        first = max(0, (n - length) // 2)
        index.append(slice(first, min(n, first + length)))
    block = np.ascontiguousarray(np.asarray(image.levels[0][tuple(index)]))
    return hashlib.sha256(block.reshape(-1).view(np.uint8).data).hexdigest()


@dataclass(frozen=True)
class ModelFiles:
    """A model as its bundle's folder.

    Parameters
    ----------
    folder, id
        The bundle; where it does not lie in that folder, one of that id is looked for.
    weights_sha256, bundle_sha256
        Of the file with the weights, and of all files.
    trusted
        Whether the user agreed that code of exactly this bundle may run.
    """

    folder: Path
    id: str
    weights_sha256: str
    bundle_sha256: str
    trusted: bool

    @classmethod
    def of(cls, model: Model) -> ModelFiles:
        """How to load `model` again.

        Raises
        ------
        InputError
            If it is no bundle on disk, or was changed since it was loaded.
        """
        folder = Path(os.path.abspath(model.path))  # noqa: PTH100 - links must stay links
        if not is_bundle(folder):
            raise InputError(
                f"Other processes load model {model.card.id} from its bundle, and it is none; "
                "save it as a MONAI bundle in a folder that all of them see, and load that."
            )
        files = cls(folder, model.card.id, model.sha256, bundle_sha256(folder), model.trusted)
        fresh = files.load()
        changed = [
            f.name
            for f in fields(Model)
            if f.name not in _NOT_COMPARED and getattr(fresh, f.name) != getattr(model, f.name)
        ]
        if changed:
            raise InputError(
                f"Model {model.card.id} was changed after it was loaded ({', '.join(changed)}), which other processes "
                "cannot know; change it in its bundle."
            )
        return files

    def load(self) -> Model:
        """The model.

        Raises
        ------
        InputError
            If the bundle is not there, or its files are other ones.
        RefusedError
            If its checksums are wrong.
        """
        folder = self.folder if is_bundle(self.folder) else find_bundle(self.id)[0]
        if bundle_sha256(folder) != self.bundle_sha256:
            raise InputError(
                f"{self.id}: the bundle is another one here than where the run was started; "
                "put the same files into the same folder everywhere."
            )
        model = load_model(folder, trust={self.bundle_sha256} if self.trusted else set())
        if model.sha256 != self.weights_sha256:
            raise InputError(f"{self.id}: its weights changed since it was loaded; load it again.")
        return model
