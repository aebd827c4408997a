"""Residual U-Net behind a layer that cuts high frequencies, so that it learns less from texture.

Chen et al., MIUA 2023, LNCS 14122, pp. 231-241, name the combination; the residual U-Net is MONAI's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from napari_medseg.networks.parameters import AnyDimensional

Cut = Literal["learned", "fixed", "sampled", "none"]


class GibbsUNetParameters(AnyDimensional):
    """Parameters of `GibbsUNet`.

    The paper gives no numbers. It declares alpha a parameter, which a hard edge never lets it learn; so the default is
    the soft edge.
    """

    spatial_dims: int = Field(default=3, ge=2, le=3, description="2 for pictures and single slices, 3 for volumes.")
    channels: tuple[int, ...] = Field(
        default=(16, 32, 64, 128, 256), min_length=2, max_length=8, description="Channels of each level."
    )
    strides: tuple[int, ...] = Field(
        default=(2, 2, 2, 2), min_length=1, max_length=7, description="Stride between the levels."
    )
    num_res_units: int = Field(default=2, ge=0, le=8, description="Residual units a level; 0 for plain convolutions.")
    gibbs: Cut = Field(
        default="learned",
        description="Frequencies are cut at a soft edge that is learned, at a fixed hard edge, at one drawn anew for "
        "each batch in training, or not at all.",
    )
    alpha: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Share of the largest distance from the centre of k-space that is kept: where learning starts, the "
        "fixed edge, or the smallest that is drawn; 1 keeps all.",
    )

    @model_validator(mode="after")
    def _fits(self) -> GibbsUNetParameters:
        if len(self.strides) != len(self.channels) - 1 or min(self.strides) < 1 or min(self.channels) < 1:
            raise ValueError(f"strides need {len(self.channels) - 1} positive numbers, one less than channels")
        return self


class GibbsLayer(nn.Module):
    r"""Keeps the middle of k-space.

    .. math:: \hat x = \Re\,\mathcal F^{-1}\big(m(r) \cdot \mathcal F x\big),\quad
              m(r) = \mathbb 1[\,r \le \alpha\, r_{\max}\,]\ \text{(hard)},\quad
              m(r) = \sigma\big((\alpha\, r_{\max} - r) / \tau\big)\ \text{(soft)}

    over the spatial axes alone; r is the distance in samples from index ``N // 2`` of each shifted axis, where the mean
    lies, so the mean is always kept. The hard edge gives :math:`\alpha` no gradient. The soft one is divided by its
    value at the centre, so that it keeps the mean as well. Mind that `monai.transforms.GibbsNoise` counts alpha the
    other way round.

    Parameters
    ----------
    alpha
        In (0, 1]; with a hard edge 1 is the identity.
    edge
        ``"hard"``, or ``"soft"`` with alpha as a weight, kept between 0.01 and 1.
    softness
        :math:`\tau` in samples.
    """

    def __init__(self, alpha: float = 1.0, edge: Literal["hard", "soft"] = "hard", softness: float = 1.0) -> None:
        super().__init__()
        if not 0 < alpha <= 1 or softness <= 0:
            raise ValueError(f"alpha {alpha} and softness {softness} need to be above 0, and alpha at most 1")
        self.edge, self.softness = edge, softness
        value = torch.tensor(float(alpha))
        if edge == "soft":
            self.alpha: torch.Tensor = nn.Parameter(value)
        else:
            self.register_buffer("alpha", value)

    def forward(self, image: torch.Tensor, alpha: torch.Tensor | None = None) -> torch.Tensor:
        """The image without its high frequencies.

        Parameters
        ----------
        image
            ``(n, c, *spatial)``; every item and channel is treated alone.
        alpha
            Taken instead of the layer's own, one number.

        Returns
        -------
        torch.Tensor
            Same shape and type.
        """
        axes = tuple(range(2, image.ndim))
        distance = _distance(image.shape[2:], image.device)
        alpha = self.alpha if alpha is None else alpha
        if self.edge == "soft":
            kept = torch.sigmoid((alpha.clamp(0.01, 1) * distance.max() - distance) / self.softness)
            kept = kept / kept[tuple(side // 2 for side in distance.shape)]
        else:
            # the largest distance itself has to pass at alpha = 1 whatever the rounding
            kept = (distance <= alpha * distance.max() * (1 + 1e-6)).to(distance.dtype)
        spectrum = torch.fft.fftn(image.float(), dim=axes)
        # shifting the mask back is one small array; shifting the spectrum there and back is two large ones
        spectrum = spectrum * torch.fft.ifftshift(kept)
        cut: torch.Tensor = torch.fft.ifftn(spectrum, dim=axes).real.to(image.dtype)
        return cut


class GibbsUNet(nn.Module):
    """`GibbsLayer` before `monai.networks.nets.UNet` with residual units.

    With 4 channels in and 3 out the U-Net has 4.81 million parameters in three dimensions.

    Parameters
    ----------
    spatial_dims, in_channels, out_channels, channels, strides, num_res_units, gibbs, alpha
        As in `GibbsUNetParameters`.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[int] = (2, 2, 2, 2),
        num_res_units: int = 2,
        gibbs: Cut = "learned",
        alpha: float = 0.8,
    ) -> None:
        from monai.networks.nets import UNet

        super().__init__()
        self.gibbs = None if gibbs == "none" else GibbsLayer(alpha, "soft" if gibbs == "learned" else "hard")
        self.sampled = gibbs == "sampled"
        self.unet: nn.Module = UNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=list(channels),
            strides=list(strides),
            num_res_units=num_res_units,
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, *spatial)``; the product of the strides divides each side of the image.

        Where alpha is drawn, it is drawn in training only; evaluation sees the image as it is.
        """
        if self.gibbs is not None and not self.sampled:
            image = self.gibbs(image)
        elif self.gibbs is not None and self.training:
            lowest = self.gibbs.alpha
            image = self.gibbs(image, lowest + (1 - lowest) * torch.rand((), device=image.device))
        logits: torch.Tensor = self.unet(image)
        return logits


def _distance(sides: Sequence[int], device: torch.device) -> torch.Tensor:
    squares = torch.zeros(tuple(sides), device=device)
    for axis, side in enumerate(sides):
        shape = [1] * len(sides)
        shape[axis] = side
        squares = squares + (torch.arange(side, device=device) - side // 2).square().reshape(shape)
    return squares.sqrt()
