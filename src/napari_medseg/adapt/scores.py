"""Scores while training and for the reference models' cards: Dice and panoptic quality, exact and small."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]


def dice(prediction: Array, reference: Array) -> float:
    """Dice coefficient, 2 |A and B| / (|A| + |B|), of two masks of one shape; 1 when both are empty."""
    a, b = np.asarray(prediction, bool), np.asarray(reference, bool)
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def panoptic_quality(prediction: Array, reference: Array) -> float:
    """Panoptic quality of instance labels (Kirillov et al., CVPR 2019, equation 1).

    Objects match where their intersection over union passes 0.5; the sum of the matches' IoU is divided by
    matches + half the unmatched objects of either side. 1 when both hold no object.
    """
    a, ids_a = _compact(prediction)
    b, ids_b = _compact(reference)
    if ids_a == 0 and ids_b == 0:
        return 1.0
    table = np.bincount(a * (ids_b + 1) + b, minlength=(ids_a + 1) * (ids_b + 1)).reshape(ids_a + 1, ids_b + 1)
    shared = table[1:, 1:]
    union = table.sum(1)[1:, None] + table.sum(0)[None, 1:] - shared
    iou = shared / np.maximum(union, 1)
    matched = iou > 0.5
    hits = int(matched.sum())
    return float(iou[matched].sum() / (hits + 0.5 * (ids_a - hits) + 0.5 * (ids_b - hits)))


def _compact(labels: Array) -> tuple[npt.NDArray[np.int64], int]:
    """Flatten, number the objects 1..n without gaps; returns n too."""
    ids, inverse = np.unique(np.append(np.asarray(labels).ravel(), 0), return_inverse=True)
    return inverse[:-1].astype(np.int64), len(ids) - 1


class NucleiScore:
    """Mean foreground Dice and panoptic quality of a network over records, one forward pass an image.

    Parameters
    ----------
    records
        Rows with ``image``, ``label`` and ``stratum``.
    decoder
        Makes instances of the network's maps.
    multiple
        Images are mirrored at the edge up to a multiple of this many pixels.
    """

    def __init__(self, records: Sequence[Mapping[str, str]], decoder: Any, multiple: int = 32) -> None:
        self.records, self.decoder, self.multiple = records, decoder, multiple

    def __call__(self, network: torch.nn.Module) -> dict[str, float]:
        """Score `network`; keys ``dice``, ``pq``."""
        from napari_medseg.adapt.nuclei import read_labelled

        dices, qualities = [], []
        for record in self.records:
            image, reference = read_labelled(record["image"], record["label"])
            labels = self.decoder.decode(nuclei_maps_of(network, image, self.multiple))
            dices.append(dice(labels > 0, reference > 0))
            qualities.append(panoptic_quality(labels, reference))
        return {"dice": round(float(np.mean(dices)), 4), "pq": round(float(np.mean(qualities)), 4)}


def nuclei_maps_of(network: torch.nn.Module, image: Array, multiple: int = 32) -> npt.NDArray[np.float32]:
    """Run a network on a whole image (y, x, 3) uint8; returns sigmoid maps (3, y, x)."""
    import torch

    height, width = image.shape[:2]
    pad = [(0, -height % multiple), (0, -width % multiple), (0, 0)]
    pixels = np.moveaxis(np.pad(image, pad, mode="reflect"), -1, 0).astype(np.float32) / 255.0
    with torch.inference_mode():
        maps = torch.sigmoid(network(torch.from_numpy(pixels)[None]).float())[0].numpy()
    return np.ascontiguousarray(maps[:, :height, :width])


class VolumeScore:
    """Mean Dice of each class of a 3-D network over records.

    Parameters
    ----------
    records
        Dicts that `preprocessing` accepts.
    preprocessing
        Deterministic transforms that end in ``image`` and ``label``, both (channel, x, y, z).
    inferer
        MONAI inferer.
    classes
        Label ids that count.
    """

    def __init__(
        self, records: Sequence[Any], preprocessing: Callable[[Any], Any], inferer: Any, classes: Sequence[int]
    ) -> None:
        self.cases = [preprocessing(r) for r in records]
        self.inferer, self.classes = inferer, classes

    def __call__(self, network: torch.nn.Module) -> dict[str, float]:
        """Score `network`; keys ``dice`` (mean of the classes) and ``dice_<id>``."""
        import torch

        scores = []
        with torch.inference_mode():
            for case in self.cases:
                output = self.inferer(torch.as_tensor(case["image"])[None].float(), network)[0].argmax(0).numpy()
                reference = np.asarray(case["label"])[0]
                scores.append([dice(output == c, reference == c) for c in self.classes])
        mean = np.mean(scores, axis=0)
        single = {f"dice_{c}": round(float(v), 4) for c, v in zip(self.classes, mean, strict=True)}
        return {"dice": round(float(mean.mean()), 4)} | single
