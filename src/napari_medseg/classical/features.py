"""Filter features of every pixel: brightness, edges and texture on several scales."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, log2

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from napari_medseg.case import InputError
from napari_medseg.classical.parameters import MethodParameters
from napari_medseg.classical.pixels import Array, Pixels, channels

# bytes that a slab's features may take; they exist twice while they are put together
_SLAB_BYTES = 256 << 20


class FeatureParameters(MethodParameters):
    """Which filters, and on which scales."""

    intensity: bool = Field(default=True, description="Whether the smoothed image is a feature.")
    edges: bool = Field(default=True, description="Whether the gradient's size is a feature.")
    texture: bool = Field(default=True, description="Whether the Hessian's eigenvalues are features.")
    finest: float = Field(
        default=1.0, ge=0.3, le=64, description="Smallest standard deviation of the Gaussians, in pixels."
    )
    coarsest: float = Field(
        default=8.0, ge=0.3, le=64, description="Largest standard deviation; those between double each time."
    )
    standardise: bool = Field(
        default=False, description="Whether each channel is brought to mean 0 and deviation 1 first, image by image."
    )

    @model_validator(mode="after")
    def _some_features(self) -> FeatureParameters:
        if not (self.intensity or self.edges or self.texture):
            raise ValueError("at least one of intensity, edges and texture is needed")
        if self.coarsest < self.finest:
            raise ValueError("the coarsest scale is at least the finest")
        return self

    @property
    def scales(self) -> int:
        """Number of scales."""
        return floor(log2(self.coarsest) - log2(self.finest) + 1)

    def count(self, image_channels: int) -> int:
        """Number of features of an image with so many channels."""
        return image_channels * self.scales * (self.intensity + self.edges + self.texture * self.spatial_dims)


def filter_features(image: Array, parameters: FeatureParameters) -> npt.NDArray[np.float32]:
    """Features of the whole image (scikit-image), in its own scale.

    Memory: eight bytes for each feature of each pixel.

    Parameters
    ----------
    image
        ``(*spatial)`` or ``(c, *spatial)``.
    parameters
        Which filters.

    Returns
    -------
    float32 ``(*spatial, features)``: by channel, then scale, then brightness, edge, eigenvalues (largest first).

    Raises
    ------
    InputError
        The image does not fit.
    """
    return _features(_standardised(channels(image, parameters), parameters), parameters)


def slabs(image: Array, parameters: FeatureParameters) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """The same features, in slabs along the first spatial axis, so that their memory does not grow with the image.

    Memory: about 512 MiB, more only where one slice of the image with its margin alone needs more, and the image in
    float32. The margin is four of the coarsest standard deviations on either side.

    Yields
    ------
    slice, float32 ``(rows, *rest, features)``
    """
    pixels = _standardised(channels(image, parameters), parameters)
    length = pixels.shape[1]
    margin = ceil(4 * parameters.coarsest) + 4
    row = 4 * pixels[0, 0].size * parameters.count(len(pixels))
    rows = max(margin, _SLAB_BYTES // row - 2 * margin)
    for first in range(0, length, rows):
        last = min(first + rows, length)
        lower, upper = max(first - margin, 0), min(last + margin, length)
        features = _features(pixels[:, lower:upper], parameters)
        yield slice(first, last), features[first - lower : last - lower]


def _standardised(pixels: Pixels, parameters: FeatureParameters) -> Pixels:
    if not parameters.standardise:
        return pixels
    axes = tuple(range(1, pixels.ndim))
    mean = pixels.mean(axes, keepdims=True, dtype=np.float64)
    spread = pixels.std(axes, keepdims=True, dtype=np.float64)
    scaled: Pixels = ((pixels - mean) / np.where(spread > 0, spread, 1)).astype(np.float32)
    return scaled


def _features(pixels: Pixels, parameters: FeatureParameters) -> npt.NDArray[np.float32]:
    from skimage.feature import multiscale_basic_features

    if min(pixels.shape[1:]) < 2:
        raise InputError(f"an image of {pixels.shape[1:]} pixels is too thin for filters; each side needs two")
    found: npt.NDArray[np.float32] = multiscale_basic_features(
        pixels,
        intensity=parameters.intensity,
        edges=parameters.edges,
        texture=parameters.texture,
        sigma_min=parameters.finest,
        sigma_max=parameters.finest * 2 ** (parameters.scales - 1),
        num_sigma=parameters.scales,
        workers=1,
        channel_axis=0,
    )
    return found.astype(np.float32, copy=False)
