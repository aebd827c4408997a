"""Generated phantoms of near-infrared fluorescence frames of tumour surgery, each with the tumours' true outlines.

They stand in for frames with outlines, which nobody publishes under a licence that lets weights be shared. Their
appearance follows what is described by Hou, Zou and Wang, "Tumor Segmentation in Intraoperative Fluorescence Images
Based on Transfer Learning and Convolutional Neural Networks", Surgical Innovation (2024): grey frames, one large
target or many small ones, on tissue that glows too. They are no images of patients, and nothing that is measured on
them says how a model does in surgery.

A frame comes about in the order in which light goes:

1. Sources. Tissue glows faintly and unevenly (autofluorescence). Tumours with wavy outlines glow more, mottled, less
   in their core, and less towards the side on which they lie deeper. Off-target tissue that took up dye glows as well:
   a broad region with a soft border, and vessels. The labels are the tumours' outlines, whatever is seen of them.
2. The lamp lights the middle of the frame best (vignetting).
3. Scattering: a share of the light leaves the tissue elsewhere, so tumours bleed beyond their outlines.
4. Reflections of the lamp pass the filter as small bright spots.
5. The lens blurs; the sensor adds stray light, shot noise and read-out noise, saturates, and stores 8 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError

Field = npt.NDArray[np.float64]
Range = tuple[float, float]

_SMALLEST = 32


@dataclass(frozen=True)
class PhantomRanges:
    """Lowest and highest value of all that is drawn for a frame, evenly if nothing else is said.

    Lengths are shares of the frame's shorter side; brightness is 1 where the sensor saturates at exposure 1.

    Parameters
    ----------
    tumours
        How many. 0 gives frames with off-target tissue only.
    radius
        Of a tumour, evenly in its logarithm; n tumours have at most the highest value divided by the root of n.
    waviness
        How far an outline goes in and out, as a share of the radius.
    elongation
        Longer by shorter axis of a tumour.
    uptake
        Brightness that a tumour adds to the tissue.
    dimming
        Share of it that is lost at the side where the tumour lies deepest.
    core
        Share of it that is lost in the middle.
    mottle
        Standard deviation of a tumour's brightness, as a share.
    background
        Brightness of tissue.
    texture
        Standard deviation of tissue's brightness, as a share.
    organ
        Brightness that a broad off-target region adds.
    vessels
        How many.
    vessel_uptake
        Brightness that vessels add.
    vignette
        Share of the light that is lost in the farthest corner.
    glow, glow_reach
        Share of the light that is scattered, and the standard deviation of how far.
    spots
        How many reflections.
    blur
        Standard deviation of the lens's blur.
    exposure
        Factor of all light.
    stray_light
        Brightness that is added everywhere.
    photons
        Photons at brightness 1; shot noise has the variance brightness / photons. Evenly in its logarithm.
    read_noise
        Standard deviation of the read-out noise, in brightness.
    """

    tumours: tuple[int, int] = (0, 7)
    radius: Range = (0.03, 0.24)
    waviness: Range = (0.0, 0.25)
    elongation: Range = (1.0, 1.8)
    uptake: Range = (0.3, 0.9)
    dimming: Range = (0.0, 0.6)
    core: Range = (0.0, 0.5)
    mottle: Range = (0.0, 0.25)
    background: Range = (0.03, 0.2)
    texture: Range = (0.1, 0.5)
    organ: Range = (0.0, 0.35)
    vessels: tuple[int, int] = (0, 3)
    vessel_uptake: Range = (0.05, 0.4)
    vignette: Range = (0.1, 0.5)
    glow: Range = (0.1, 0.45)
    glow_reach: Range = (0.02, 0.06)
    spots: tuple[int, int] = (0, 8)
    blur: Range = (0.003, 0.01)
    exposure: Range = (0.6, 1.3)
    stray_light: Range = (0.0, 0.06)
    photons: Range = (150.0, 1500.0)
    read_noise: Range = (0.004, 0.02)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            low, high = getattr(self, field.name)
            if not 0 <= low <= high:
                raise InputError(f"{field.name} is {(low, high)}; two values from 0, the lower one first, are expected")
        for name in ("radius", "elongation", "photons"):
            if getattr(self, name)[0] <= 0:
                raise InputError(f"{name} begins at {getattr(self, name)[0]}; values above 0 are expected")


ORDINARY = PhantomRanges()
# everything that makes a tumour hard to tell lies beyond what ORDINARY holds, all of it at once
HARDER = dataclasses.replace(
    ORDINARY,
    uptake=(0.2, 0.3),
    dimming=(0.6, 0.75),
    organ=(0.35, 0.5),
    vignette=(0.5, 0.65),
    glow=(0.45, 0.55),
    blur=(0.01, 0.014),
    photons=(70.0, 150.0),
    read_noise=(0.02, 0.03),
)
RANGES = {"ordinary": ORDINARY, "harder": HARDER}


@dataclass(frozen=True)
class Phantom:
    """A frame: `image` uint8 ``(y, x)``, and `label` uint8 ``(y, x)``, 1 in a tumour."""

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]


def fluorescence_phantom(
    seed: int, size: Sequence[int] = (256, 256), ranges: PhantomRanges | str = ORDINARY
) -> Phantom:
    """Generate one frame; the same seed, size and ranges give the same frame.

    Parameters
    ----------
    seed
        From 0.
    size
        Height and width in pixels.
    ranges
        What to draw from, or its name: ``"ordinary"`` or ``"harder"``.

    Returns
    -------
    Phantom

    Raises
    ------
    InputError
        The size or the ranges cannot be used.
    """
    from scipy.ndimage import gaussian_filter

    if len(size) != 2 or min(size) < _SMALLEST:
        raise InputError(f"the size is {tuple(size)}; height and width of {_SMALLEST} pixels or more are expected")
    draw = _Draw(seed, (int(size[0]), int(size[1])), ranges_of(ranges))
    tissue = draw.value("background") * np.maximum(0.0, 1 + draw.value("texture") * draw.smooth(6))
    tumours, label = _tumours(draw)
    light = (tissue + _off_target(draw) + tumours) * _lamp(draw)
    share, reach = draw.value("glow"), draw.value("glow_reach") * draw.side
    light = (1 - share) * light + share * gaussian_filter(light, reach, mode="nearest", truncate=3.0)
    light = np.maximum(light, _spots(draw))
    light = gaussian_filter(light, draw.value("blur") * draw.side, mode="nearest")
    return Phantom(_sensor(draw, light), label.astype(np.uint8))


def ranges_of(ranges: PhantomRanges | str) -> PhantomRanges:
    """The ranges of a name, or those given; `InputError` where there are none of that name."""
    if isinstance(ranges, PhantomRanges):
        return ranges
    if ranges not in RANGES:
        raise InputError(f"there are no ranges {ranges!r}; there are {', '.join(RANGES)}")
    return RANGES[ranges]


class _Draw:
    """Random values of one frame."""

    def __init__(self, seed: int, size: tuple[int, int], ranges: PhantomRanges) -> None:
        self.random, self.size, self.side, self.ranges = np.random.default_rng(seed), size, min(size), ranges
        self.y, self.x = np.mgrid[: size[0], : size[1]].astype(np.float64)

    def value(self, name: str) -> float:
        return float(self.random.uniform(*getattr(self.ranges, name)))

    def logarithmic(self, low: float, high: float) -> float:
        # infinitely many photons are none of the noise
        return float(np.exp(self.random.uniform(np.log(low), np.log(high)))) if low < high else low

    def count(self, name: str) -> int:
        low, high = getattr(self.ranges, name)
        return int(self.random.integers(low, high + 1))

    def place(self, margin: float) -> tuple[float, float]:
        """A point at least this share of the side away from the frame's edge; y, x."""
        inside = [self.random.uniform(margin * self.side, n - margin * self.side) for n in self.size]
        return inside[0], inside[1]

    def smooth(self, cells: int) -> Field:
        """An uneven field with mean 0 and standard deviation 1, made of bumps side / `cells` apart."""
        counts = [round(cells * n / self.side) + 3 for n in self.size]
        heights = self.random.normal(size=counts)
        # by rows and columns: a Gaussian bump is the product of two
        along = [_bumps(n, self.side / cells, count) for n, count in zip(self.size, counts, strict=True)]
        field = along[0] @ heights @ along[1].T
        return np.asarray((field - field.mean()) / field.std())

    def blob(self, at: tuple[float, float], radius: float) -> tuple[Field, Field]:
        """Distance from the centre as a share of the outline's (below 1: inside), and place from side to side (±1)."""
        stretch = np.sqrt(self.value("elongation"))
        turn, across = self.random.uniform(0, 2 * np.pi, 2)
        dy, dx = (self.y - at[0]) / radius, (self.x - at[1]) / radius
        v = (np.cos(turn) * dy - np.sin(turn) * dx) * stretch
        u = (np.sin(turn) * dy + np.cos(turn) * dx) / stretch
        orders = np.arange(2, 7)
        heights = self.random.normal(size=orders.size) / orders
        phases = self.random.uniform(0, 2 * np.pi, orders.size)
        angles = np.linspace(-np.pi, np.pi, 721)
        waves = np.cos(np.outer(angles, orders) + phases) @ heights
        outline = 1 + self.value("waviness") * waves / np.abs(waves).max()
        return np.hypot(v, u) / np.interp(np.arctan2(v, u), angles, outline), np.cos(across) * v + np.sin(across) * u


def _bumps(size: int, distance: float, count: int) -> Field:
    """Heights at each of `size` pixels of `count` bumps, the first one before the first pixel."""
    places = (np.arange(size)[:, None] + 0.5) / distance + 1 - np.arange(count)
    return np.asarray(np.exp(-0.5 * (places / 0.6) ** 2))


def _tumours(draw: _Draw) -> tuple[Field, npt.NDArray[np.bool_]]:
    """Light of the tumours, and where they are."""
    light, label = np.zeros(draw.size), np.zeros(draw.size, bool)
    many = draw.count("tumours")
    low, high = draw.ranges.radius
    mottled = 1 + draw.value("mottle") * draw.smooth(24)
    for _ in range(many):
        radius = draw.logarithmic(low, max(low, high / np.sqrt(many)))
        share, side = draw.blob(draw.place(0.1), radius * draw.side)
        deep = 1 - draw.value("dimming") * np.clip((1 + side) / 2, 0, 1)
        hollow = 1 - draw.value("core") * np.exp(-((share / 0.5) ** 2))
        inside = share < 1
        glow = draw.value("uptake") * deep * hollow * np.maximum(0.0, mottled)
        light, label = np.maximum(light, np.where(inside, glow, 0.0)), label | inside
    return light, label


def _off_target(draw: _Draw) -> Field:
    """Light of tissue that took up dye and is no tumour."""
    from PIL import Image, ImageDraw
    from scipy.ndimage import gaussian_filter

    share, _ = draw.blob(draw.place(0.0), draw.random.uniform(0.25, 0.6) * draw.side)
    softness = draw.random.uniform(0.1, 0.3)
    light = draw.value("organ") / (1 + np.exp(np.minimum((share - 1) / softness, 50.0)))
    for _ in range(draw.count("vessels")):
        ends = [draw.place(-0.1) for _ in range(3)]
        t = np.linspace(0, 1, 40)[:, None]
        curve = (1 - t) ** 2 * np.array(ends[0]) + 2 * t * (1 - t) * np.array(ends[1]) + t**2 * np.array(ends[2])
        picture = Image.new("L", (draw.size[1], draw.size[0]))
        width = max(1, round(draw.random.uniform(0.008, 0.025) * draw.side))
        ImageDraw.Draw(picture).line([(x, y) for y, x in curve.tolist()], fill=255, width=width, joint="curve")
        line = gaussian_filter(np.asarray(picture, np.float64) / 255, 0.3 * width)
        light = np.maximum(light, draw.value("vessel_uptake") * line)
    return np.asarray(light)


def _lamp(draw: _Draw) -> Field:
    """How well each pixel is lit: 1 at a point near the middle, least in the farthest corner."""
    height, width = draw.size
    centre = [(n - 1) * draw.random.uniform(0.35, 0.65) for n in draw.size]
    far = sum(max(c, n - 1 - c) ** 2 for c, n in zip(centre, (height, width), strict=True))
    squared = (draw.y - centre[0]) ** 2 + (draw.x - centre[1]) ** 2
    return np.asarray(1 - draw.value("vignette") * squared / far)


def _spots(draw: _Draw) -> Field:
    """Brightness of reflections; they hide what lies beneath."""
    light = np.zeros(draw.size)
    for _ in range(draw.count("spots")):
        y, x = draw.place(0.0)
        long, short = draw.random.uniform(0.004, 0.018, 2) * draw.side
        turn = draw.random.uniform(0, np.pi)
        v = np.cos(turn) * (draw.y - y) - np.sin(turn) * (draw.x - x)
        u = np.sin(turn) * (draw.y - y) + np.cos(turn) * (draw.x - x)
        inside = (v / short) ** 2 + (u / long) ** 2 < 1
        light[inside] = draw.random.uniform(0.8, 2.0)
    return light


def _sensor(draw: _Draw, light: Field) -> npt.NDArray[np.uint8]:
    photons, values = draw.logarithmic(*draw.ranges.photons), draw.value("exposure") * light + draw.value("stray_light")
    if np.isfinite(photons):
        values = draw.random.poisson(values * photons) / photons
    values = values + draw.value("read_noise") * draw.random.normal(size=draw.size)
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
