"""An EfficientNet U-Net behind a denoising auto-encoder, and that auto-encoder alone."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from napari_medseg.case import InputError
from napari_medseg.networks.parameters import NetworkParameters
from napari_medseg.networks.torchvision_repair import repair_torchvision

Encoder = Literal[
    "efficientnet-b0",
    "efficientnet-b1",
    "efficientnet-b2",
    "efficientnet-b3",
    "efficientnet-b4",
    "efficientnet-b5",
    "efficientnet-b6",
    "efficientnet-b7",
    "resnet18",
]
OutputForm = Literal["residual", "direct"]

# a decoder's channels by the stride of its map: 16, 8, 4, 2 and 1
_DECODER_CHANNELS = (256, 128, 64, 32, 16)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class _Common(NetworkParameters):
    encoder: Encoder = Field(default="efficientnet-b3", description="Encoder of every network here.")
    encoder_depth: int = Field(default=5, ge=3, le=5, description="Times an encoder halves the image.")
    output_form: OutputForm = Field(
        default="residual",
        description="residual: the auto-encoder says what to take away and starts by taking nothing; "
        "direct: it gives the image itself.",
    )
    noise_mean: float = Field(default=0.0, ge=-1, le=1, description="Mean of the added noise; the image is 0 to 1.")
    noise_low: float = Field(
        default=0.02, ge=0, le=1, description="Smallest standard deviation of the noise, drawn anew for each image."
    )
    noise_high: float = Field(default=0.15, ge=0, le=1, description="Largest standard deviation of the noise.")

    @model_validator(mode="after")
    def _ordered(self) -> _Common:
        if self.noise_low > self.noise_high:
            raise ValueError("noise_low is at most noise_high")
        return self


class DenoisingAutoEncoderParameters(_Common):
    """Parameters of `DenoisingAutoEncoder`; the defaults follow Hammouda et al. (2023)."""

    in_channels: int = Field(default=3, ge=1, le=1024, description="Channels of the image: 1 for grey, 3 for colour.")
    out_channels: int = Field(default=3, ge=1, le=1024, description="Channels of the result: those of the image.")

    @model_validator(mode="after")
    def _same_channels(self) -> DenoisingAutoEncoderParameters:
        if self.in_channels != self.out_channels:
            raise ValueError("a filter gives as many channels as it takes: out_channels is in_channels")
        return self

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `DenoisingAutoEncoder`."""
        return self.model_dump(exclude={"out_channels"})


class DenoisingEfficientNetParameters(_Common):
    """Parameters of `DenoisingEfficientNet`; the defaults follow Hammouda et al. (2023)."""

    in_channels: int = Field(default=3, ge=1, le=1024, description="Channels of the image: 1 for grey, 3 for colour.")
    out_channels: int = Field(default=6, ge=1, le=1024, description="Maps that the network gives, one a class.")
    prefilter: bool = Field(
        default=True,
        description="Whether an auto-encoder cleans the image first; without it its encoder may be taken over.",
    )
    add_noise: bool = Field(
        default=False, description="Whether noise is added before cleaning, in use as well: results then vary."
    )

    @model_validator(mode="after")
    def _noise_is_cleaned(self) -> DenoisingEfficientNetParameters:
        if self.add_noise and not self.prefilter:
            raise ValueError("add_noise needs prefilter: nothing else takes the noise away")
        return self


class GaussianNoise(torch.nn.Module):
    """Noise of a standard deviation drawn uniformly for each image, clipped to 0 to 1; in training only.

    Parameters
    ----------
    mean
        Of the noise.
    low, high
        Limits of the standard deviation.

    Raises
    ------
    InputError
        `low` is negative or above `high`.
    """

    def __init__(self, mean: float = 0.0, low: float = 0.02, high: float = 0.15) -> None:
        super().__init__()
        if not 0 <= low <= high:
            raise InputError(f"the noise deviates from 0 or more up to as much or more; given was {low} to {high}.")
        self.mean, self.low, self.high = mean, low, high

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` ``(n, c, *spatial)``, values 0 to 1, with noise in training and unchanged in use."""
        return self.noisy(image) if self.training else image

    def noisy(self, image: torch.Tensor) -> torch.Tensor:
        """`image` with noise, in use as well."""
        shape = (image.shape[0], *(1,) * (image.ndim - 1))
        deviation = torch.empty(shape, dtype=image.dtype, device=image.device).uniform_(self.low, self.high)
        return (image + self.mean + deviation * torch.randn_like(image)).clamp(0, 1)


class DenoisingAutoEncoder(torch.nn.Module):
    """The denoising auto-encoder of Hammouda et al. (MIUA 2023).

    "Revolutionizing Cancer Diagnosis Through Hybrid Self-supervised Deep Learning: EfficientNet with Denoising
    Autoencoder for Semantic Segmentation of Histopathological Images".

    Trained without labels to give back an image in [0, 1] from a noisy copy, ``x~ = clip(x + e)``,
    ``e ~ N(mean, s²)``, ``L = |D(E(x~)) - x|² / n``: it adds the noise itself in training, so that the loss is the
    mean squared difference of result and image. The paper leaves the decoder open; here it is that of a U-Net.
    The form "residual" gives ``x~ - f(x~)`` with a last layer that starts at zero, so that the untrained filter
    changes nothing; "direct" gives ``f(x~)``. In use, results are clipped to 0 to 1.

    Parameters
    ----------
    in_channels
        Channels of the image and of the result.
    encoder, encoder_depth
        Name in segmentation-models-pytorch and times it halves the image.
    output_form
        "residual" or "direct".
    noise_mean, noise_low, noise_high
        Mean and limits of the standard deviation of the noise.

    Raises
    ------
    InputError
        There is no such form, or the noise has no such limits.
    """

    def __init__(
        self,
        in_channels: int = 3,
        encoder: str = "efficientnet-b3",
        encoder_depth: int = 5,
        output_form: OutputForm = "residual",
        noise_mean: float = 0.0,
        noise_low: float = 0.02,
        noise_high: float = 0.15,
    ) -> None:
        super().__init__()
        if output_form not in ("residual", "direct"):
            raise InputError(f"there is no output form {output_form!r}; there are residual and direct.")
        self.noise = GaussianNoise(noise_mean, noise_low, noise_high)
        self.network = _unet(encoder, encoder_depth, in_channels, in_channels)
        self.output_form = output_form
        if output_form == "residual":
            last = self.network.segmentation_head[0]
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` ``(n, c, y, x)``, values 0 to 1, of any size, cleaned; in training, of a copy with noise."""
        return self.clean(self.noise(image))

    def clean(self, noisy: torch.Tensor) -> torch.Tensor:
        """`noisy` ``(n, c, y, x)``, values 0 to 1, cleaned, with no noise added; clipped except in training."""
        found = _sized(self.network, noisy)
        cleaned = noisy - found if self.output_form == "residual" else found
        return cleaned if self.training else cleaned.clamp(0, 1)

    def removed(self, image: torch.Tensor) -> torch.Tensor:
        """What cleaning takes away from `image`, ``(n, c, y, x)``, about -1 to 1; structure in it is a warning."""
        return image - self.clean(image)


class DenoisingEfficientNet(torch.nn.Module):
    """The EfficientNet segmenter of Hammouda et al. (MIUA 2023), behind the auto-encoder or started from its encoder.

    With `prefilter`, ``y = S(normalise(DAE(x)))`` for images in [0, 1], where the auto-encoder is frozen and always
    in use as evaluated: train a `DenoisingAutoEncoder`, give it to `take_autoencoder`, then train this. Without,
    the segmenter stands alone; `take_encoder` starts it from the auto-encoder's encoder. Colour is normalised with
    the mean and deviation of ImageNet, other numbers of channels with their averages. The decoder, which the paper
    leaves open, is that of a U-Net.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and of the result.
    prefilter
        Whether the auto-encoder stands in front.
    add_noise
        Whether noise is added before cleaning, in use as well: "add noise, denoise, segment".
    encoder, encoder_depth, output_form, noise_mean, noise_low, noise_high
        As of `DenoisingAutoEncoder`.

    Raises
    ------
    InputError
        Noise is to be added without anything that takes it away, or as for `DenoisingAutoEncoder`.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 6,
        encoder: str = "efficientnet-b3",
        encoder_depth: int = 5,
        output_form: OutputForm = "residual",
        noise_mean: float = 0.0,
        noise_low: float = 0.02,
        noise_high: float = 0.15,
        prefilter: bool = True,
        add_noise: bool = False,
    ) -> None:
        super().__init__()
        if add_noise and not prefilter:
            raise InputError("noise is added only where an auto-encoder takes it away: add_noise needs prefilter.")
        self.autoencoder: DenoisingAutoEncoder | None = None
        if prefilter:
            self.autoencoder = DenoisingAutoEncoder(
                in_channels, encoder, encoder_depth, output_form, noise_mean, noise_low, noise_high
            )
            self.autoencoder.requires_grad_(False).eval()
        self.add_noise = add_noise
        self.segmenter = _unet(encoder, encoder_depth, in_channels, out_channels)
        for name, values in (("mean", _IMAGENET_MEAN), ("deviation", _IMAGENET_DEVIATION)):
            channels = torch.tensor(values) if in_channels == 3 else torch.full((in_channels,), sum(values) / 3)
            self.register_buffer(name, channels.reshape(1, -1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> DenoisingEfficientNet:
        """Train the segmenter; the auto-encoder in front stays as it is."""
        super().train(mode)
        if self.autoencoder is not None:
            self.autoencoder.eval()
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, y, x)`` of `image` ``(n, in_channels, y, x)`` in [0, 1], of any size."""
        return _sized(self.segmenter, (self.filtered(image) - self.mean) / self.deviation)

    def filtered(self, image: torch.Tensor) -> torch.Tensor:
        """What the segmenter is shown of `image`, before normalisation; the image itself without `prefilter`."""
        if self.autoencoder is None:
            return image
        return self.autoencoder.clean(self.autoencoder.noise.noisy(image) if self.add_noise else image)

    def take_autoencoder(self, trained: DenoisingAutoEncoder) -> None:
        """Put the weights of `trained` in front.

        Raises
        ------
        InputError
            Nothing stands in front, or its weights or its form of output are others.
        """
        if self.autoencoder is None:
            raise InputError("this network has no auto-encoder in front: build it with prefilter.")
        if trained.output_form != self.autoencoder.output_form:
            raise InputError(
                f"the auto-encoder was trained in the {trained.output_form} form; "
                f"this network has the {self.autoencoder.output_form} one."
            )
        _take(self.autoencoder, trained)

    def take_encoder(self, trained: DenoisingAutoEncoder) -> None:
        """Start the segmenter from the encoder of `trained`; its decoder is left behind and all is trained on.

        Raises
        ------
        InputError
            The encoders are not the same.
        """
        _take(self.segmenter.encoder, trained.network.encoder)


def _unet(encoder: str, depth: int, in_channels: int, out_channels: int) -> Any:
    repair_torchvision()
    import segmentation_models_pytorch

    return segmentation_models_pytorch.Unet(
        encoder,
        encoder_depth=depth,
        # never from the network: a constructor that downloads would also do so for a bundle that brings its own
        encoder_weights=None,
        decoder_channels=_DECODER_CHANNELS[-depth:],
        in_channels=in_channels,
        classes=out_channels,
    )


def _sized(network: Any, image: torch.Tensor) -> torch.Tensor:
    height, width = image.shape[-2:]
    multiple = int(network.encoder.output_stride)
    # always padded, if by nothing: a choice by size would be fixed when the network is traced
    padded = functional.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    result: torch.Tensor = network.segmentation_head(network.decoder(network.encoder(padded)))
    return result[..., :height, :width]


def _take(mine: torch.nn.Module, trained: torch.nn.Module) -> None:
    try:
        mine.load_state_dict(trained.state_dict(), strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise InputError(f"the auto-encoder does not fit: {first}") from error
