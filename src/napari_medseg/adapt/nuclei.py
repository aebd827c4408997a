"""What nuclei in stained tissue need for training: maps to learn, crops, stain augmentation, loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]

# Rows: optical density of haematoxylin, eosin and residual in red, green, blue
# (Ruifrok and Johnston, Anal Quant Cytol Histol 23:291, 2001).
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=np.float32)


def nucleus_maps(instances: Array) -> npt.NDArray[np.float32]:
    """Turn instance labels into the maps that a network learns.

    Parameters
    ----------
    instances
        Integer labels (y, x), 0 is background.

    Returns
    -------
    float32 (3, y, x)
        Foreground (0 or 1); distance to the nucleus's edge divided by its largest value in that nucleus (0 to 1);
        contact (1 where two nuclei lie within 2 pixels).
    """
    from scipy import ndimage

    labels = np.ascontiguousarray(instances, dtype=np.int32)
    foreground = labels > 0
    core = foreground.copy()
    for axis in (0, 1):
        ahead = [slice(None), slice(None)]
        behind = [slice(None), slice(None)]
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        differs = labels[tuple(ahead)] != labels[tuple(behind)]
        core[tuple(ahead)] &= ~differs
        core[tuple(behind)] &= ~differs
    if core.all() and foreground.all():
        distance = np.ones(labels.shape, np.float32)
    else:
        distance = np.where(foreground, ndimage.distance_transform_edt(core) + 1.0, 0.0).astype(np.float32)
    peak = np.ones(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(peak, labels.ravel(), distance.ravel())
    distance /= peak[labels]
    big = np.iinfo(np.int32).max
    highest = ndimage.maximum_filter(labels, size=5)
    lowest = ndimage.minimum_filter(np.where(foreground, labels, big), size=5)
    contact = (highest != lowest) & (lowest != big)
    return np.stack([foreground.astype(np.float32), distance, contact.astype(np.float32)])


def split_touching(mask: Array, min_distance: float = 3.0) -> npt.NDArray[np.int32]:
    """Make instances of a binary nucleus mask by cutting at its waists.

    Used where a data set has no instances; the cut is a guess and the card says so.

    Parameters
    ----------
    mask
        Nonzero is nucleus (y, x).
    min_distance
        Radius in pixels below which a bulge is no nucleus of its own.

    Returns
    -------
    int32 (y, x)
    """
    from scipy import ndimage
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    inside = np.asarray(mask) > 0
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 1.0)
    peaks = h_maxima(distance, 1.0).astype(bool) & (distance >= min_distance)
    pieces, _ = ndimage.label(inside)
    # a piece too small for a peak stays one nucleus
    has_peak = np.unique(pieces[peaks & inside])
    peaks |= inside & ~np.isin(pieces, has_peak)
    seeds, _ = ndimage.label(peaks, structure=np.ones((3, 3)))
    cut: npt.NDArray[np.int32] = watershed(-distance, seeds, mask=inside).astype(np.int32)
    return cut


class StainAugment:
    """Vary stain, scanner and focus of a red-green-blue image.

    Parameters
    ----------
    stain
        Largest relative change of each stain's strength after colour deconvolution.
    transfer
        Chance of pulling the optical density's mean and spread towards those of another image.
    colour
        Spread of a random colour mixing matrix around identity.
    scanner
        How far brightness, contrast and gamma move, and how often focus and noise change; 1 is a lot.
    seed
        Seed of the random numbers.
    """

    def __init__(
        self, stain: float = 0.45, transfer: float = 0.35, colour: float = 0.06, scanner: float = 1.0, seed: int = 0
    ) -> None:
        self.stain, self.transfer, self.colour, self.scanner = stain, transfer, colour, scanner
        self.random = np.random.default_rng([seed, 1])
        self._inverse = np.linalg.inv(_STAINS)

    def __call__(self, image: Array, other: tuple[Array, Array] | None = None) -> npt.NDArray[np.float32]:
        """Augment `image` (float32 (3, y, x), 0 to 1); `other` is the optical density's mean and spread to turn to."""
        from scipy import ndimage

        draw = self.random
        shape = image.shape
        density = -np.log(np.clip(image.reshape(3, -1).T, 1 / 255, 1.0), dtype=np.float32)
        if other is not None and draw.random() < self.transfer:
            mean, spread = density.mean(0), density.std(0) + 0.02
            weight = draw.uniform(0.3, 1.0)
            density += weight * ((density - mean) / spread * other[1] + other[0] - density)
        if draw.random() < 0.8:
            strength = draw.uniform(1 - self.stain, 1 + self.stain, 3)
            offset = draw.uniform(-0.08, 0.08, 3)
            density = ((density @ self._inverse) * strength + offset) @ _STAINS
        pixels = np.exp(-np.clip(density, 0.0, 6.0))
        if draw.random() < 0.5:
            pixels = pixels @ (np.eye(3) + draw.normal(0.0, self.colour, (3, 3)))
        if draw.random() < 0.1 * self.scanner:
            pixels = pixels + draw.uniform(0.3, 1.0) * (pixels.mean(1, keepdims=True) - pixels)
        if draw.random() < 0.7:
            middle = pixels.mean()
            contrast = draw.uniform(1 - 0.3 * self.scanner, 1 + 0.3 * self.scanner)
            pixels = (pixels - middle) * contrast + middle + draw.uniform(-0.12 * self.scanner, 0.12 * self.scanner)
        pixels = np.clip(pixels, 0.0, 1.0)
        if draw.random() < 0.5:
            pixels = pixels ** np.exp(draw.uniform(-0.4 * self.scanner, 0.4 * self.scanner))
        changed = np.ascontiguousarray(pixels.T, dtype=np.float32).reshape(shape)
        if draw.random() < 0.25 * self.scanner:
            sigma = draw.uniform(0.3, 1.5)
            changed = ndimage.gaussian_filter(changed, (0, sigma, sigma))
        if draw.random() < 0.3 * self.scanner:
            changed = changed + draw.normal(0.0, draw.uniform(0.005, 0.04), shape).astype(np.float32)
        return np.clip(changed, 0.0, 1.0).astype(np.float32)


class NucleiBatches:
    """Endless batches of augmented crops with their maps.

    Parameters
    ----------
    records
        Rows with ``image``, ``label`` and ``stratum`` (see `napari_medseg.adapt.splits.manifest_records`).
        A label image whose only values are 0 and 255 is taken as a binary mask and cut by `split_touching`.
    shares
        Share of crops from each stratum; groups (column `group`) share a stratum's part equally.
    crop
        Side of the square crop in pixels.
    batch_size
        Crops a batch.
    group
        Column of the group.
    scale
        Range of the zoom.
    seed
        Seed of the random numbers.
    augment
        Stain augmentation.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, str]],
        shares: Mapping[str, float],
        crop: int = 224,
        batch_size: int = 6,
        group: str = "group",
        scale: tuple[float, float] = (0.7, 1.6),
        seed: int = 0,
        augment: StainAugment | None = None,
    ) -> None:
        import torch

        unknown = {r["stratum"] for r in records} - set(shares)
        if unknown:
            raise InputError(f"no share of the crops is given for stratum {sorted(unknown)[0]!r}")
        self.crop, self.batch_size, self.scale = crop, batch_size, scale
        self.random = np.random.default_rng([seed, 0])
        self.augment = augment or StainAugment(seed=seed)
        self.images: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []
        self.stains: list[tuple[Array, Array]] = []
        self.weights = _record_weights(records, shares, group)
        for record in records:
            image, instances = read_labelled(record["image"], record["label"])
            density = -np.log(np.clip(image.reshape(-1, 3) / 255.0, 1 / 255, 1.0))
            self.stains.append((density.mean(0), density.std(0)))
            self.images.append(torch.from_numpy(np.moveaxis(image, -1, 0).astype(np.float32) / 255.0)[None])
            # ids stay below 2**24, so float32 holds them exactly through nearest-neighbour sampling
            self.labels.append(torch.from_numpy(instances.astype(np.float32))[None, None])

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield ``image`` float32 (b, 3, y, x) in 0-1 and ``label`` float32 (b, 3, y, x), see `nucleus_maps`."""
        import torch

        while True:
            pairs = [self._crop() for _ in range(self.batch_size)]
            yield {
                "image": torch.from_numpy(np.stack([p[0] for p in pairs])),
                "label": torch.from_numpy(np.stack([p[1] for p in pairs])),
            }

    def _crop(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        from torch.nn.functional import grid_sample

        index = int(self.random.choice(len(self.images), p=self.weights))
        image, labels = self.images[index], self.labels[index]
        grid = self._grid(labels[0, 0].numpy())
        # "reflection" would double nuclei across the edge with a shared id; the crop is kept inside where it fits
        moved = grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
        ids = grid_sample(labels, grid, mode="nearest", padding_mode="reflection", align_corners=True)
        other = self.stains[int(self.random.choice(len(self.images), p=self.weights))]
        return self.augment(moved[0].numpy(), other), nucleus_maps(ids[0, 0].numpy().astype(np.int32))

    def _grid(self, labels: Array) -> torch.Tensor:
        """Where to sample: a turned, mirrored, zoomed, gently warped square, as grid_sample's coordinates."""
        import torch
        from torch.nn.functional import interpolate

        draw = self.random
        height, width = labels.shape
        angle = draw.uniform(0, 2 * np.pi) if draw.random() < 0.5 else draw.integers(4) * np.pi / 2
        zoom = np.exp(draw.uniform(np.log(self.scale[0]), np.log(self.scale[1])))
        aspect = np.exp(draw.uniform(-0.1, 0.1))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.diag([aspect / zoom, (1 if draw.random() < 0.5 else -1) / (aspect * zoom)])
        half = self.crop / 2 / zoom * 0.9
        nuclei = np.flatnonzero(labels)
        if nuclei.size and draw.random() < 0.6:
            y, x = divmod(int(nuclei[draw.integers(nuclei.size)]), width)
        else:
            y, x = draw.uniform(0, height), draw.uniform(0, width)
        centre = [
            np.clip(y, min(half, height / 2), max(height - half, height / 2)),
            np.clip(x, min(half, width / 2), max(width - half, width / 2)),
        ]
        line = np.arange(self.crop) - (self.crop - 1) / 2
        yx = np.stack(np.meshgrid(line, line, indexing="ij"), -1) @ matrix.T + centre
        if draw.random() < 0.5:
            coarse = torch.from_numpy(draw.normal(0.0, draw.uniform(0.5, 4.0), (1, 2, 7, 7)))
            warp = interpolate(coarse, size=(self.crop, self.crop), mode="bicubic", align_corners=True)
            yx = yx + warp[0].permute(1, 2, 0).numpy()
        scaled = np.stack([yx[..., 1] / (width - 1), yx[..., 0] / (height - 1)], -1) * 2 - 1
        return torch.from_numpy(scaled.astype(np.float32))[None]


def read_labelled(image: str, label: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Read an RGB image (y, x, 3) and its nucleus instances (y, x); a 0/255 mask is cut by `split_touching`."""
    from PIL import Image

    with Image.open(image) as file:
        pixels = np.asarray(file.convert("RGB"))
    with Image.open(label) as file:
        labels = np.asarray(file)
    if labels.shape != pixels.shape[:2]:
        raise InputError(f"{label} is {labels.shape} while its image is {pixels.shape[:2]}; one grid is needed")
    if set(np.unique(labels)) <= {0, 255}:
        return pixels, split_touching(labels)
    return pixels, labels.astype(np.int32)


def _record_weights(records: Sequence[Mapping[str, str]], shares: Mapping[str, float], group: str) -> Array:
    """Chance of each record: strata by their shares, groups of a stratum alike, images of a group alike."""
    keys = [(r["stratum"], r.get(group, r["image"])) for r in records]
    weights = []
    for stratum, name in keys:
        groups = {g for s, g in keys if s == stratum}
        weights.append(shares[stratum] / len(groups) / keys.count((stratum, name)))
    total = np.array(weights, dtype=np.float64)
    scaled: Array = total / total.sum()
    return scaled


class NucleiLoss:
    """Loss of the three maps of `nucleus_maps` given logits (b, 3, y, x).

    Foreground: cross-entropy + Dice; distance: squared error, mostly inside nuclei, where it tells them apart;
    contact: weighted cross-entropy + Dice.
    """

    def __init__(self, distance: float = 8.0, contact: float = 1.0, contact_weight: float = 6.0) -> None:
        self.distance, self.contact, self.contact_weight = distance, contact, contact_weight

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean loss of the batch."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        chance = torch.sigmoid(logits)
        foreground = cross_entropy(logits[:, 0], target[:, 0]) + _dice_loss(chance[:, 0], target[:, 0])
        inside = 0.1 + 0.9 * target[:, 0]
        distance = (inside * (chance[:, 1] - target[:, 1]).square()).sum() / inside.sum()
        weight = 1.0 + (self.contact_weight - 1.0) * target[:, 2]
        contact = cross_entropy(logits[:, 2], target[:, 2], weight=weight) + _dice_loss(chance[:, 2], target[:, 2])
        return foreground + self.distance * distance + self.contact * contact


def _dice_loss(chance: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    overlap = (chance * target).sum()
    return 1.0 - (2.0 * overlap + 1.0) / (chance.sum() + target.sum() + 1.0)
