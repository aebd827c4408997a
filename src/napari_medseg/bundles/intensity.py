"""Intensity steps of a bundle's preprocessing, so that every tile of an image gets the same treatment.

A step that looks at the whole image (minimum, percentile, mean) is measured once; the numbers found are then
applied to each tile. The formulas are those of the MONAI transforms of the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_medseg.case import InputError

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """``(v - subtract) / divide * multiply + add`` for each channel, then clipped to ``low`` ... ``high``.

    `subtract`, `divide`: one number a channel. `nonzero`: leave zeros as they are.
    """

    subtract: tuple[float, ...]
    divide: tuple[float, ...]
    multiply: float = 1.0
    add: float = 0.0
    low: float | None = None
    high: float | None = None
    nonzero: bool = False

    def apply(self, values: Values) -> Values:
        """The step on values (channel, ...)."""
        shape = (-1,) + (1,) * (values.ndim - 1)
        changed = values - np.array(self.subtract, np.float32).reshape(shape)
        changed /= np.array(self.divide, np.float32).reshape(shape)
        if self.multiply != 1.0:
            changed *= np.float32(self.multiply)
        if self.add != 0.0:
            changed += np.float32(self.add)
        if self.low is not None or self.high is not None:
            np.clip(changed, self.low, self.high, out=changed)
        return np.where(values != 0, changed, values) if self.nonzero else changed


@dataclass(frozen=True)
class Clip:
    """Limit each channel to its own ``low`` ... ``high``."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def apply(self, values: Values) -> Values:
        """The step on values (channel, ...)."""
        shape = (-1,) + (1,) * (values.ndim - 1)
        low = np.array(self.low, np.float32).reshape(shape)
        high = np.array(self.high, np.float32).reshape(shape)
        return np.clip(values, low, high)


@dataclass(frozen=True)
class Threshold:
    """Keep values above (or below) a threshold and set the others to `fill`."""

    threshold: float
    above: bool
    fill: float

    def apply(self, values: Values) -> Values:
        """The step on values (channel, ...)."""
        keep = values > self.threshold if self.above else values < self.threshold
        return np.where(keep, values, np.float32(self.fill)).astype(np.float32)


Measured = Linear | Clip | Threshold


@dataclass(frozen=True)
class Statistics:
    """The steps of a plan with their numbers filled in for one image."""

    steps: tuple[Measured, ...]


@dataclass(frozen=True)
class IntensityStep:
    """One step: the transform's name without the final ``d``, its arguments, whether it looks at the image."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def needs_image(self) -> bool:
        """Whether its numbers depend on the whole image."""
        if self.name == "NormalizeIntensity":
            return self.arguments.get("subtrahend") is None or self.arguments.get("divisor") is None
        if self.name == "ScaleIntensity":
            return self.arguments.get("minv", 0.0) is not None or self.arguments.get("maxv", 1.0) is not None
        return self.name in ("ScaleIntensityRangePercentiles", "ClipIntensityPercentiles")


@dataclass(frozen=True)
class IntensityPlan:
    """The ordered intensity steps of a bundle."""

    steps: tuple[IntensityStep, ...] = ()

    @property
    def needs_statistics(self) -> bool:
        """Whether `statistics` must see the image before `apply`."""
        return any(step.needs_image for step in self.steps)

    def statistics(self, sample: npt.NDArray[Any]) -> Statistics:
        """Measure what the steps need.

        Parameters
        ----------
        sample
            The whole image, or an even sample of it, (channel, ...).

        Returns
        -------
        Statistics
            To be handed to `apply` with every tile of this image.
        """
        values = np.asarray(sample, dtype=np.float32)
        measured = []
        for position, step in enumerate(self.steps):
            measured.append(_MEASURES[step.name](step.arguments, values))
            if any(later.needs_image for later in self.steps[position + 1 :]):
                values = measured[-1].apply(values)
        return Statistics(tuple(measured))

    def apply(self, tile: npt.NDArray[Any], statistics: Statistics | None = None) -> Values:
        """Apply the steps to a tile (channel, ...); `statistics` may be left out where the plan needs none."""
        values = np.asarray(tile, dtype=np.float32)
        if statistics is None:
            if self.needs_statistics:
                raise InputError("this model's intensity steps need statistics of the whole image, and none were given")
            statistics = self.statistics(np.zeros((values.shape[0], 1), np.float32))
        for step in statistics.steps:
            values = step.apply(values)
        return np.asarray(values, dtype=np.float32)


def intensity_step(name: str, arguments: Mapping[str, Any]) -> IntensityStep:
    """Make a step of a MONAI transform's name (without the final ``d``) and its arguments.

    Raises
    ------
    InputError
        An argument is not supported.
    """
    known = _ARGUMENTS[name]
    ignored = {"keys", "dtype", "allow_missing_keys"}
    for key, value in arguments.items():
        if key in ignored:
            continue
        if key not in known:
            raise InputError(f"{name} has the argument {key} = {value!r}; supported are {', '.join(sorted(known))}")
        numbers = value if key in _LISTS and isinstance(value, list) else [value]
        if not all(isinstance(v, int | float | None) for v in numbers):
            raise InputError(f"{name} has {key} = {value!r}; a number is expected")
    if arguments.get("sharpness_factor") is not None:
        raise InputError(f"{name} with a sharpness_factor is not supported; leave it out to clip hard")
    if name == "ClipIntensityPercentiles" and None in (arguments.get("lower"), arguments.get("upper")):
        raise InputError("ClipIntensityPercentiles needs both lower and upper")
    missing = {k for k in _NEEDED.get(name, ()) if arguments.get(k) is None}
    if missing:
        raise InputError(f"{name} lacks the argument {sorted(missing)[0]}")
    return IntensityStep(name, {k: v for k, v in arguments.items() if k in known})


def _scale_range(arguments: Mapping[str, Any], values: Values) -> Measured:
    count = len(values)
    return _range(
        (float(arguments["a_min"]),) * count,
        (float(arguments["a_max"]),) * count,
        arguments.get("b_min"),
        arguments.get("b_max"),
        bool(arguments.get("clip", False)),
    )


def _range(
    a_min: Sequence[float], a_max: Sequence[float], b_min: float | None, b_max: float | None, clip: bool
) -> Linear:
    spread = tuple(high - low for low, high in zip(a_min, a_max, strict=True))
    flat = all(s == 0 for s in spread)
    # MONAI only shifts an image without any spread
    divide = tuple(s if s != 0 else 1.0 for s in spread)
    if flat:
        return Linear(tuple(a_min), divide, add=float(b_min or 0.0))
    if b_min is None or b_max is None:
        return Linear(tuple(a_min), divide, low=b_min if clip else None, high=b_max if clip else None)
    low, high = (b_min, b_max) if clip else (None, None)
    return Linear(tuple(a_min), divide, multiply=b_max - b_min, add=b_min, low=low, high=high)


def _scale_percentiles(arguments: Mapping[str, Any], values: Values) -> Measured:
    lower, upper = float(arguments["lower"]), float(arguments["upper"])
    b_min, b_max = arguments.get("b_min"), arguments.get("b_max")
    low, high = _percentiles(values, lower, upper, bool(arguments.get("channel_wise", False)))
    if arguments.get("relative", False):
        if b_min is None or b_max is None:
            raise InputError("ScaleIntensityRangePercentiles with relative needs b_min and b_max")
        b_min, b_max = b_min + (b_max - b_min) * lower / 100.0, b_min + (b_max - b_min) * upper / 100.0
    return _range(low, high, b_min, b_max, bool(arguments.get("clip", False)))


def _percentiles(values: Values, lower: float, upper: float, channel_wise: bool) -> tuple[list[float], list[float]]:
    rows = values.reshape(len(values), -1) if channel_wise else values.reshape(1, -1)
    found = np.percentile(rows, (lower, upper), axis=1)
    repeat = 1 if channel_wise else len(values)
    return [float(v) for v in found[0]] * repeat, [float(v) for v in found[1]] * repeat


def _clip_percentiles(arguments: Mapping[str, Any], values: Values) -> Measured:
    low, high = _percentiles(
        values, float(arguments["lower"]), float(arguments["upper"]), bool(arguments.get("channel_wise", False))
    )
    return Clip(tuple(low), tuple(high))


def _normalise(arguments: Mapping[str, Any], values: Values) -> Measured:
    count = len(values)
    nonzero = bool(arguments.get("nonzero", False))
    rows = values.reshape(count, -1)
    parts = list(rows) if arguments.get("channel_wise", False) else [rows.ravel()]
    given: dict[str, list[float]] = {}
    for key, measure in (("subtrahend", np.mean), ("divisor", np.std)):
        if arguments.get(key) is not None:
            numbers = np.atleast_1d(np.asarray(arguments[key], dtype=np.float64)).tolist()
        else:
            kept = [part[part != 0] if nonzero else part for part in parts]
            numbers = [float(measure(p, dtype=np.float64)) if p.size else float(key == "divisor") for p in kept]
        if len(numbers) not in (1, count):
            raise InputError(f"NormalizeIntensity has {len(numbers)} values of {key} for {count} channels")
        given[key] = numbers * (count if len(numbers) == 1 else 1)
    divide = tuple(v if v != 0 else 1.0 for v in given["divisor"])
    return Linear(tuple(given["subtrahend"]), divide, nonzero=nonzero)


def _scale(arguments: Mapping[str, Any], values: Values) -> Measured:
    count = len(values)
    minv, maxv = arguments.get("minv", 0.0), arguments.get("maxv", 1.0)
    if minv is None and maxv is None:
        factor = arguments.get("factor")
        return Linear((0.0,) * count, (1.0,) * count, multiply=1.0 + float(factor or 0.0))
    rows = values.reshape(count, -1)
    if not arguments.get("channel_wise", False):
        rows = rows.reshape(1, -1)
    low, high = rows.min(1).tolist(), rows.max(1).tolist()
    repeat = count if len(low) == 1 else 1
    low, high = low * repeat, high * repeat
    divide = tuple(b - a if b != a else 1.0 for a, b in zip(low, high, strict=True))
    if minv is None or maxv is None:
        return Linear(tuple(low), divide)
    return Linear(tuple(low), divide, multiply=float(maxv) - float(minv), add=float(minv))


def _shift(arguments: Mapping[str, Any], values: Values) -> Measured:
    count = len(values)
    return Linear((-float(arguments["offset"]),) * count, (1.0,) * count)


def _threshold(arguments: Mapping[str, Any], values: Values) -> Measured:
    above = bool(arguments.get("above", True))
    return Threshold(float(arguments["threshold"]), above, float(arguments.get("cval", 0.0)))


_MEASURES: dict[str, Callable[[Mapping[str, Any], Values], Measured]] = {
    "ClipIntensityPercentiles": _clip_percentiles,
    "NormalizeIntensity": _normalise,
    "ScaleIntensity": _scale,
    "ScaleIntensityRange": _scale_range,
    "ScaleIntensityRangePercentiles": _scale_percentiles,
    "ShiftIntensity": _shift,
    "ThresholdIntensity": _threshold,
}
_ARGUMENTS: dict[str, frozenset[str]] = {
    "ClipIntensityPercentiles": frozenset({"lower", "upper", "channel_wise", "sharpness_factor"}),
    "NormalizeIntensity": frozenset({"subtrahend", "divisor", "nonzero", "channel_wise"}),
    "ScaleIntensity": frozenset({"minv", "maxv", "factor", "channel_wise"}),
    "ScaleIntensityRange": frozenset({"a_min", "a_max", "b_min", "b_max", "clip"}),
    "ScaleIntensityRangePercentiles": frozenset(
        {"lower", "upper", "b_min", "b_max", "clip", "relative", "channel_wise"}
    ),
    "ShiftIntensity": frozenset({"offset"}),
    "ThresholdIntensity": frozenset({"threshold", "above", "cval"}),
}
_LISTS = frozenset({"subtrahend", "divisor"})
_NEEDED: dict[str, frozenset[str]] = {
    "ScaleIntensityRange": frozenset({"a_min", "a_max"}),
    "ScaleIntensityRangePercentiles": frozenset({"lower", "upper"}),
    "ShiftIntensity": frozenset({"offset"}),
    "ThresholdIntensity": frozenset({"threshold"}),
}
SUPPORTED = tuple(sorted(_MEASURES))
