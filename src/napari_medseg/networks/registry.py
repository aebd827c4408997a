"""Every architecture, one line each. Importing this imports no torch."""

from __future__ import annotations

from typing import Any

from napari_medseg.case import InputError
from napari_medseg.networks.architecture import Architecture


def _encoder_decoder(name: str, title: str, source: str, **preset: Any) -> Architecture:
    """A decoder on one of many encoders."""
    given = tuple(preset.items())
    return Architecture(name, title, "encoder_decoder", "EncoderDecoder", source, (2,), given, "zoo")


def _segformer(size: str, note: str) -> Architecture:
    """One size of SegFormer."""
    source = "Xie et al., 2021; Khaled et al., 2023"
    title, preset = f"SegFormer-{size.upper()} ({note})", (("size", size),)
    return Architecture(f"segformer_{size}", title, "segformer", "SegFormer", source, (2,), preset, "zoo", smallest=1)


_SEGFORMERS = (("b0", "fast"), ("b1", "14 M"), ("b2", "27 M"), ("b3", "47 M"), ("b4", "accurate"), ("b5", "85 M"))
_LINES: tuple[Architecture, ...] = (
    Architecture("unet", "U-Net with residual units", "unet", "monai.networks.nets.UNet", "Kerfoot et al., 2018"),
    Architecture("nnunet", "nnU-Net's plain U-Net", "nnunet", "PlainConvUNet", "Isensee et al., 2021"),
    Architecture(
        "super_image_unet",
        "U-Net for super images",
        "super_image",
        "SuperImageUNet",
        "Sobirov et al., 2023",
        smallest=16,
    ),
    Architecture(
        "se_norm_unet",
        "U-Net with SE normalisation",
        "super_image",
        "SENormUNet",
        "Iantsen et al., 2020; Sobirov et al., 2023",
    ),
    Architecture(
        "se_norm_unet_large_kernels",
        "U-Net with SE normalisation and large kernels",
        "super_image",
        "SENormUNet",
        "Sobirov et al., 2023",
        (2,),
        (("large_kernels", True),),
    ),
    Architecture(
        "highres_net",
        "High-resolution network with dilation",
        "highres_net",
        "monai.networks.nets.HighResNet",
        "Li et al., 2017",
        smallest=8,
    ),
    Architecture(
        "segresnet",
        "Residual U-Net with an asymmetric encoder",
        "segresnet",
        "monai.networks.nets.SegResNet",
        "Myronenko, 2018",
        smallest=16,
    ),
    Architecture(
        "segresnet_supervised",
        "SegResNet with deep supervision",
        "segresnet",
        "SupervisedSegResNet",
        "Myronenko, 2018; MONAI Auto3DSeg",
    ),
    Architecture(
        "gibbs_unet", "Residual U-Net behind a Gibbs layer", "residual_unet_gibbs", "GibbsUNet", "Chen et al., 2023"
    ),
    Architecture(
        "hyper_dense_net", "HyperDenseNet", "hyper_dense_net", "HyperDenseNet", "Dolz et al., 2019", smallest=4
    ),
    _encoder_decoder("encoder_unet", "U-Net on a pretrainable encoder", "Hou et al., 2024", decoder="unet"),
    _encoder_decoder("unetplusplus", "UNet++ on a pretrainable encoder", "Hou et al., 2024", decoder="unetplusplus"),
    _encoder_decoder(
        "deeplabv3plus", "DeepLab v3+ on a pretrainable encoder", "Hou et al., 2024", decoder="deeplabv3plus"
    ),
    _encoder_decoder(
        "lung_deeplabv3plus",
        "DeepLab v3+ for photographs of lung",
        "Gil et al., 2023",
        decoder="deeplabv3plus",
        encoder="resnet50",
        in_channels=3,
        atrous_rates=(6, 12, 18),
    ),
    Architecture(
        "plain_unet",
        "U-Net as published (31 M)",
        "plain_unet",
        "PlainUNet",
        "Ronneberger et al., 2015; Sourget et al., 2023",
        (2,),
        smallest=1,
    ),
    Architecture(
        "plain_unet_lite",
        "U-Net Lite (3.7 M)",
        "plain_unet",
        "PlainUNet",
        "Sourget et al., 2023",
        (2,),
        (("channels", (22, 44, 88, 176, 352)),),
        smallest=1,
    ),
    *(_segformer(size, note) for size, note in _SEGFORMERS),
    Architecture(
        "denoising_efficientnet",
        "EfficientNet-B3 behind a denoising auto-encoder",
        "denoising_efficientnet",
        "DenoisingEfficientNet",
        "Hammouda et al., 2023",
        (2,),
        extra="zoo",
        smallest=1,
    ),
    Architecture(
        "efficientnet_unet",
        "U-Net on EfficientNet-B3 for nuclei",
        "denoising_efficientnet",
        "DenoisingEfficientNet",
        "Hammouda et al., 2023",
        (2,),
        (("prefilter", False),),
        "zoo",
        smallest=1,
    ),
    Architecture(
        "denoising_autoencoder",
        "Denoising auto-encoder",
        "denoising_efficientnet",
        "DenoisingAutoEncoder",
        "Hammouda et al., 2023",
        (2,),
        extra="zoo",
        role="reconstruction",
        smallest=1,
    ),
    Architecture(
        "cascaded_atrous_resnet",
        "Cascaded atrous ResNet-101",
        "cascaded_atrous_resnet",
        "CascadedAtrousResNet",
        "Chen et al., 2023",
        (2,),
    ),
    Architecture(
        "latent_segmenter",
        "ResNet-50 with a latent picture",
        "latent_segmenter",
        "LatentSegmenter",
        "Zoetmulder et al., 2022",
        (2,),
    ),
    Architecture(
        "latent_autoencoder",
        "Autoencoder of slices",
        "latent_segmenter",
        "LatentSegmenter",
        "Zoetmulder et al., 2022",
        (2,),
        (("out_channels", 1),),
        role="reconstruction",
    ),
    Architecture(
        "slice_classifier",
        "Classifier of slices",
        "slice_classifier",
        "SliceClassifier",
        "Zoetmulder et al., 2022",
        (2,),
        role="classification",
    ),
    Architecture(
        "slice_discriminator",
        "Discriminator of slices and their reconstructions",
        "slice_discriminator",
        "SliceDiscriminator",
        "Zoetmulder et al., 2022",
        (2,),
        role="discriminator",
        smallest=33,
    ),
    Architecture(
        "attention_unet",
        "U-Net with attention gates",
        "attention_unet",
        "AttentionUNet",
        "Oktay et al., 2018; Gad et al., 2023",
    ),
    Architecture(
        "pancreas_cascade",
        "Organ, then lesion within it",
        "pancreas_cascade",
        "PancreasCascade",
        "Qiu et al., 2024",
        (2,),
        smallest=64,
    ),
    Architecture(
        "six_network_ensemble",
        "Mean of six networks for photographs of lung",
        "six_network_ensemble",
        "SixNetworkEnsemble",
        "Gil et al., 2023",
        dims=(2,),
        extra="zoo",
    ),
    Architecture(
        "swin_unetr",
        "Swin UNETR",
        "swin_unetr",
        "monai.networks.nets.SwinUNETR",
        "Hatamizadeh et al., 2022",
        smallest=64,
    ),
    Architecture(
        "classical", "A method without learned weights", "classical", "ClassicalSegmenter", "Otsu, 1979", smallest=8
    ),
)
ARCHITECTURES: dict[str, Architecture] = {line.name: line for line in _LINES}


def find_architecture(name: str) -> Architecture:
    """The architecture called `name`.

    Raises
    ------
    InputError
        There is none; the sentence lists the names there are.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise InputError(f"there is no architecture {name!r}; there are {', '.join(ARCHITECTURES)}.") from None
