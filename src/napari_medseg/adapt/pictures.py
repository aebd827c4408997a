"""Augmented batches of labelled pictures: colour or grey images with a mask or class labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_medseg.adapt.scores import dice
from napari_medseg.case import InputError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]


class PictureReader:
    """Reads a picture and its labels from files that Pillow opens.

    Parameters
    ----------
    channels
        3 for red, green, blue; 1 for grey.
    classes
        Class of each value of the label image; values that are not named are background. Without, every value
        above `above` is class 1.
    above
        See `classes`; 127 for masks of 0 and 255 that were stored with losses.
    size
        Height and width to bring pictures to, with antialiasing; labels by the nearest pixel. As they are without.
    """

    def __init__(
        self,
        channels: int = 3,
        classes: Mapping[str, int] | None = None,
        above: int = 0,
        size: Sequence[int] | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise InputError(f"pictures have 1 or 3 channels; given was {channels}")
        self.channels, self.above = channels, above
        self.classes = None if classes is None else {int(k): int(v) for k, v in classes.items()}
        self.size = None if size is None else (int(size[1]), int(size[0]))

    def __call__(self, image: str | Path, label: str | Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Pixels ``(c, y, x)``, 0 to 255, and classes ``(y, x)``.

        Raises
        ------
        InputError
            The two have different sizes.
        """
        from PIL import Image

        with Image.open(image) as file:
            picture = file.convert("RGB" if self.channels == 3 else "L")
        with Image.open(label) as file:
            # 1-bit masks become 0 and 255
            mask = file.convert("L") if file.mode in ("1", "RGB", "RGBA") else file.copy()
        if picture.size != mask.size:
            raise InputError(f"{Path(label).name} is {mask.size} while its image is {picture.size}; one grid is needed")
        if self.size is not None:
            picture = picture.resize(self.size, Image.Resampling.BICUBIC)
            mask = mask.resize(self.size, Image.Resampling.NEAREST)
        pixels = np.asarray(picture).reshape(picture.height, picture.width, self.channels)
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), self._classes_of(np.asarray(mask))

    def _classes_of(self, values: Array) -> npt.NDArray[np.uint8]:
        if self.classes is None:
            return (values > self.above).astype(np.uint8)
        found = np.zeros(values.shape, np.uint8)
        for value, label in self.classes.items():
            found[values == value] = label
        return found


class PictureBatches:
    """Endless batches of crops that are turned, mirrored, zoomed, and changed in colour.

    Parameters
    ----------
    records
        Rows with ``image`` and ``label``.
    read
        Reads a row's files.
    crop
        Height and width of a crop in pixels; what lies beyond the picture is mirrored.
    batch_size
        Crops a batch.
    scale
        Range of the zoom.
    turn
        Largest rotation in degrees.
    mirror
        Which axes may be mirrored: ``"yx"``, ``"x"`` or ``""``.
    foreground
        Chance that a crop's centre is a labelled pixel.
    colour
        How far brightness, contrast, saturation, tint and gamma move: 0 not at all, 1 a lot.
    blur
        Chance of a change of focus, and of noise.
    seed
        Seed of the random numbers.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, str]],
        read: PictureReader,
        crop: Sequence[int],
        batch_size: int = 8,
        scale: Sequence[float] = (0.8, 1.3),
        turn: float = 180.0,
        mirror: str = "yx",
        foreground: float = 0.5,
        colour: float = 0.5,
        blur: float = 0.2,
        seed: int = 0,
    ) -> None:
        import torch

        if not records:
            raise InputError("there are no records to learn from")
        self.crop, self.batch_size = (int(crop[0]), int(crop[1])), batch_size
        self.scale, self.turn, self.mirror = (float(scale[0]), float(scale[1])), turn, mirror
        self.foreground, self.colour, self.blur = foreground, colour, blur
        self.random = np.random.default_rng(seed)
        pairs = [read(r["image"], r["label"]) for r in records]
        self.images = [torch.from_numpy(image) for image, _ in pairs]
        self.labels = [torch.from_numpy(label) for _, label in pairs]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield ``image`` float32 ``(b, c, y, x)`` in 0-1 and ``label`` int64 ``(b, 1, y, x)``.

        Every picture comes once before one comes again.
        """
        import torch

        order: list[int] = []
        while True:
            pairs = []
            for _ in range(self.batch_size):
                order = order or list(self.random.permutation(len(self.images)))
                pairs.append(self._pair(int(order.pop())))
            yield {"image": torch.stack([p[0] for p in pairs]), "label": torch.stack([p[1] for p in pairs])}

    def _pair(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        from torch.nn.functional import grid_sample

        image, label = self.images[index], self.labels[index]
        grid = self._grid(label.numpy())
        crop = grid_sample(image[None].float() / 255, grid, "bilinear", "reflection", align_corners=False)[0]
        classes = grid_sample(label[None, None].float(), grid, "nearest", "reflection", align_corners=False)[0]
        return self._recolour(crop), classes.long()

    def _grid(self, label: Array) -> torch.Tensor:
        """Where to sample, as ``grid_sample``'s coordinates ``(1, y, x, 2)``."""
        import torch

        draw, (height, width) = self.random, label.shape
        angle = np.deg2rad(draw.uniform(-self.turn, self.turn))
        zoom = np.exp(draw.uniform(*np.log(self.scale)))
        stretch = np.exp(draw.uniform(-0.08, 0.08))
        signs = [-1 if axis in self.mirror and draw.random() < 0.5 else 1 for axis in "yx"]
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turned @ np.diag([signs[0] * stretch / zoom, signs[1] / (stretch * zoom)])
        centre = self._centre(label, zoom)
        lines = [np.arange(n) - (n - 1) / 2 for n in self.crop]
        yx = np.stack(np.meshgrid(*lines, indexing="ij"), -1) @ matrix.T + centre
        scaled = np.stack([(2 * yx[..., 1] + 1) / width - 1, (2 * yx[..., 0] + 1) / height - 1], -1)
        return torch.from_numpy(scaled.astype(np.float32))[None]

    def _centre(self, label: Array, zoom: float) -> list[float]:
        """Pixel on which a crop is centred; as much of the crop lies inside as fits, up to an eighth of its side."""
        draw, marked = self.random, np.flatnonzero(label)
        if marked.size and draw.random() < self.foreground:
            wanted = [float(v) for v in np.unravel_index(int(marked[draw.integers(marked.size)]), label.shape)]
        else:
            wanted = [draw.uniform(0, n) for n in label.shape]
        centre = []
        for at, side, size in zip(wanted, self.crop, label.shape, strict=True):
            half, slack = side / zoom / 2, side / zoom / 8
            low, high = half - slack, size - half + slack
            centre.append(float(np.clip(at, low, high)) if low < high else (size - 1) / 2)
        return centre

    def _recolour(self, crop: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn.functional import interpolate

        draw, much = self.random, self.colour
        if much and draw.random() < 0.8:
            grey, mean = crop.mean(0, keepdim=True), crop.mean()
            crop = grey + (crop - grey) * draw.uniform(1 - 0.6 * much, 1 + 0.6 * much)
            crop = mean + (crop - mean) * draw.uniform(1 - 0.5 * much, 1 + 0.5 * much)
            tint = torch.from_numpy(draw.uniform(1 - 0.2 * much, 1 + 0.2 * much, len(crop)).astype(np.float32))
            crop = crop * tint[:, None, None] + draw.uniform(-0.2 * much, 0.2 * much)
            crop = crop.clamp(0, 1) ** float(np.exp(draw.uniform(-0.6 * much, 0.6 * much)))
        if draw.random() < self.blur:
            small = [max(8, round(n * draw.uniform(0.35, 0.9))) for n in self.crop]
            low = interpolate(crop[None], small, mode="bilinear", antialias=True, align_corners=False)
            crop = interpolate(low, self.crop, mode="bilinear", align_corners=False)[0]
        if draw.random() < self.blur:
            noise = draw.normal(0.0, draw.uniform(0.005, 0.05), tuple(crop.shape)).astype(np.float32)
            crop = crop + torch.from_numpy(noise)
        return crop.clamp(0, 1)


class PictureScore:
    """Mean Dice of a network over whole pictures, of each class and of all.

    Parameters
    ----------
    records, read
        As for `PictureBatches`.
    classes
        Classes that count.
    multiple
        Pictures are mirrored at the far edges up to a multiple of this many pixels.
    """

    def __init__(
        self, records: Sequence[Mapping[str, str]], read: PictureReader, classes: Sequence[int], multiple: int = 32
    ) -> None:
        self.pairs = [read(r["image"], r["label"]) for r in records]
        self.classes, self.multiple = list(classes), multiple

    def __call__(self, network: torch.nn.Module) -> dict[str, float]:
        """Score `network`, whose largest map wins; keys ``dice`` (mean of the classes) and ``dice_<class>``."""
        import torch

        scores = []
        for pixels, reference in self.pairs:
            height, width = reference.shape
            beyond = [(0, 0), (0, -height % self.multiple), (0, -width % self.multiple)]
            whole = np.pad(pixels, beyond, mode="reflect").astype(np.float32) / 255
            with torch.inference_mode():
                found = network(torch.from_numpy(whole)[None])[0].argmax(0).numpy()[:height, :width]
            scores.append([dice(found == c, reference == c) for c in self.classes])
        mean = np.mean(scores, axis=0)
        single = {f"dice_{c}": round(float(v), 4) for c, v in zip(self.classes, mean, strict=True)}
        return {"dice": round(float(mean.mean()), 4)} | single
