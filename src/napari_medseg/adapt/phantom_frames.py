"""Generated phantoms as batches to learn from, as frames to score on, and as files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_medseg.adapt.phantoms import ORDINARY, PhantomRanges, fluorescence_phantom, ranges_of
from napari_medseg.adapt.scores import dice

if TYPE_CHECKING:
    import torch


def _scaled(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Least value 0, largest 1, as ``ScaleIntensity`` makes them; ``(1, y, x)``."""
    low, high = float(image.min()), float(image.max())
    return ((image[None].astype(np.float32) - low) / max(1.0, high - low)).astype(np.float32)


class PhantomBatches:
    """Endless batches of frames that never come twice: seeds from `first_seed` on, one after the other.

    Parameters
    ----------
    first_seed, size, ranges
        Of the frames; see `fluorescence_phantom`.
    batch_size
        Frames a batch.
    """

    def __init__(
        self,
        first_seed: int = 0,
        size: Sequence[int] = (256, 256),
        batch_size: int = 8,
        ranges: PhantomRanges | str = ORDINARY,
    ) -> None:
        self.first_seed, self.size, self.batch_size, self.ranges = first_seed, size, batch_size, ranges_of(ranges)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield ``image`` float32 ``(b, 1, y, x)``, each frame from 0 to 1, and ``label`` int64 ``(b, 1, y, x)``."""
        import torch

        seed = self.first_seed
        while True:
            frames = [fluorescence_phantom(seed + k, self.size, self.ranges) for k in range(self.batch_size)]
            seed += self.batch_size
            yield {
                "image": torch.from_numpy(np.stack([_scaled(f.image) for f in frames])),
                "label": torch.from_numpy(np.stack([f.label[None] for f in frames]).astype(np.int64)),
            }


class PhantomScore:
    """Scores of a network over `count` frames from `first_seed` on; see `fluorescence_phantom` for the rest."""

    def __init__(
        self,
        first_seed: int,
        count: int,
        size: Sequence[int] = (256, 256),
        ranges: PhantomRanges | str = ORDINARY,
    ) -> None:
        self.frames = [fluorescence_phantom(first_seed + k, size, ranges) for k in range(count)]

    def __call__(self, network: torch.nn.Module) -> dict[str, float]:
        """Score `network`, whose largest map wins.

        ``dice`` is the mean over the frames with a tumour, ``false_share`` the mean share of the pixels that are
        labelled in frames without; each is left out where there are no such frames.
        """
        import torch

        found: list[float] = []
        false: list[float] = []
        for frame in self.frames:
            with torch.inference_mode():
                labels = network(torch.from_numpy(_scaled(frame.image))[None])[0].argmax(0).numpy()
            if frame.label.any():
                found.append(dice(labels > 0, frame.label > 0))
            else:
                false.append(float((labels > 0).mean()))
        named = {"dice": found, "false_share": false}
        return {name: round(float(np.mean(values)), 4) for name, values in named.items() if values}


def write_phantoms(
    folder: str | Path,
    first_seed: int,
    count: int,
    size: Sequence[int] = (256, 256),
    ranges: PhantomRanges | str = ORDINARY,
) -> Path:
    """Write frames as PNG files with a manifest, the way data sets of real images are laid out.

    Parameters
    ----------
    folder
        Gets ``images``, ``labels`` (0 and 1) and ``manifest.csv``; is made where it is not there.
    first_seed, count, size, ranges
        Which frames; see `fluorescence_phantom`.

    Returns
    -------
    Path
        The manifest, with the columns image, label (relative to it), seed and fg_fraction.
    """
    from PIL import Image

    folder, drawn = Path(folder), ranges_of(ranges)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(first_seed, first_seed + count):
        frame, name = fluorescence_phantom(seed, size, drawn), f"{seed:09d}.png"
        Image.fromarray(frame.image).save(folder / "images" / name)
        Image.fromarray(frame.label).save(folder / "labels" / name)
        rows.append([f"images/{name}", f"labels/{name}", seed, f"{frame.label.mean():.4f}"])
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["image", "label", "seed", "fg_fraction"], *rows])
    return manifest
