"""Read an nnU-Net v2 plan and data set description: network, axes, labels and intensities, in a bundle's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari_medseg.bundles.intensity import IntensityStep, intensity_step
from napari_medseg.bundles.steps import After
from napari_medseg.case import InputError


def read_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of the plans, with those that it inherits from filled in.

    Raises
    ------
    InputError
        There is none, it is the second stage of a cascade, or it is prepared in a way that is not nnU-Net's own.
    """
    chain: list[str] = []
    merged: dict[str, Any] = {}
    following: str | None = name
    while following is not None:
        if following in chain or following not in plans["configurations"]:
            raise InputError(f"The plans have no configuration {following} that does not lead back to itself.")
        chain.append(following)
        own = plans["configurations"][following]
        merged = {**own, **merged}
        following = own.get("inherits_from")
    if merged.get("previous_stage") is not None:
        raise InputError(f"{name} reads the labels of {merged['previous_stage']} as well; cascades are not supported.")
    preprocessor = merged.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise InputError(f"{name} is prepared by {preprocessor}; DefaultPreprocessor is supported.")
    return merged


def read_order(plans: Mapping[str, Any], dims: int, name: str) -> tuple[int, ...]:
    """Which of the network's axes lies along each axis of the stored array: ``(z, y, x)`` or ``(y, x)``.

    Raises
    ------
    InputError
        Slices are cut along another axis than the first.
    """
    forward = [int(k) for k in plans.get("transpose_forward", (0, 1, 2))]
    if sorted(forward) != [0, 1, 2]:
        raise InputError(f"The plans turn the axes by {forward}; an order of 0, 1 and 2 is expected.")
    if dims == 3:
        return tuple(forward.index(axis) for axis in range(3))
    if forward[0] != 0:
        raise InputError(f"{name} cuts volumes along axis {forward[0]} of the stored array; only along 0 is supported.")
    return (0, 1) if forward[1] < forward[2] else (1, 0)


def read_architecture(configuration: Mapping[str, Any], order: Sequence[int], name: str) -> dict[str, Any]:
    """Arguments of `napari_medseg.networks.nnunet.PlainConvUNet`, but for dimensions and channels.

    Parameters
    ----------
    configuration
        As `read_configuration` gives it.
    order
        Which of the network's axes lies along each axis of the stored array, as `read_order` gives it.
    name
        Of the configuration, for error sentences.

    Raises
    ------
    InputError
        It is another network, or one with other parts than nnU-Net plans by default.
    """
    if "architecture" in configuration:
        kind = str(configuration["architecture"]["network_class_name"]).rpartition(".")[2]
        given = configuration["architecture"]["arch_kwargs"]
        widths = given["features_per_stage"]
        encoder, kernels, strides = (given.get(k) for k in ("n_conv_per_stage", "kernel_sizes", "strides"))
        plain = given.get("dropout_op") is None and bool(given.get("conv_bias")) and not given.get("nonlin_first")
        norm, nonlin = str(given.get("norm_op")), str(given.get("nonlin"))
        plain = plain and "InstanceNorm" in norm and nonlin.endswith("LeakyReLU")
        plain = plain and (given.get("norm_op_kwargs") or {}) == {"eps": 1e-5, "affine": True}
        plain = plain and {k: v for k, v in (given.get("nonlin_kwargs") or {}).items() if k != "inplace"} == {}
    else:
        # plans before nnU-Net 2.4 name the parts one by one
        kind, given, plain = str(configuration["UNet_class_name"]), configuration, True
        encoder, kernels = given["n_conv_per_stage_encoder"], given["conv_kernel_sizes"]
        strides, base = given["pool_op_kernel_sizes"], int(given["UNet_base_num_features"])
        widths = [min(base * 2**k, int(given["unet_max_num_features"])) for k in range(len(encoder))]
    if kind != "PlainConvUNet" or not plain:
        raise InputError(f"{name} is a {kind}; PlainConvUNet as nnU-Net plans it by default is supported.")
    return {
        "widths": [int(w) for w in widths],
        "strides": [[int(level[k]) for k in order] for level in strides or ()],
        "kernel_sizes": [[int(level[k]) for k in order] for level in kernels or ()],
        "convolutions": [int(n) for n in encoder or ()],
        "decoder_convolutions": [int(n) for n in given["n_conv_per_stage_decoder"]],
    }


def read_labels(dataset: Mapping[str, Any]) -> tuple[dict[int, str], After]:
    """Names of the labels by id, without background, and how they come of the network's maps.

    Raises
    ------
    InputError
        The labels have gaps, no background, or are several regions that overlap.
    """
    given = {str(name): value for name, value in dataset["labels"].items() if name != "ignore"}
    if given.get("background") != 0:
        raise InputError("dataset.json names no background with the label 0, as nnU-Net v2 does.")
    regions = {n: v for n, v in given.items() if isinstance(v, list) and len(v) > 1}
    single = {n: int(v[0] if isinstance(v, list) else v) for n, v in given.items() if n not in regions}
    if regions and len(given) > 2:
        raise InputError(
            f"The labels {', '.join(regions)} are regions that overlap others; labels that exclude each other, or "
            "one region alone, are supported."
        )
    if regions:
        return {1: next(iter(regions))}, After("sigmoid", 0.5, None)
    names = {value: name for name, value in single.items() if value != 0}
    if sorted(names) != list(range(1, len(single))):
        raise InputError(f"The labels are {sorted(single.values())}; numbers from 0 without a gap are expected.")
    return dict(sorted(names.items())), After("softmax", None, None)


def read_normalisation(
    configuration: Mapping[str, Any], plans: Mapping[str, Any], channels: int
) -> tuple[tuple[IntensityStep, ...], tuple[str, ...]]:
    """Intensity steps of all channels, and sentences on what they do otherwise than nnU-Net.

    Raises
    ------
    InputError
        The channels are not all treated alike, or in a way that is not known.
    """
    schemes = [str(s) for s in configuration["normalization_schemes"]]
    masked = [bool(m) for m in configuration.get("use_mask_for_norm") or [False] * channels]
    if len(schemes) != channels or len(set(schemes)) != 1 or len(set(masked)) != 1:
        raise InputError(f"The channels are normalised by {', '.join(schemes)}; one way for all of them is supported.")
    scheme = schemes[0]
    if scheme == "ZScoreNormalization":
        note = "nnU-Net takes mean and deviation inside the box (or mask) around what is not 0; here it is the image"
        note = f"{note}{' without its zeros' * masked[0]}"
        return (intensity_step("NormalizeIntensity", {"channel_wise": True, "nonzero": masked[0]}),), (note,)
    if scheme == "RescaleTo01Normalization":
        return (intensity_step("ScaleIntensity", {"minv": 0.0, "maxv": 1.0, "channel_wise": True}),), ()
    if scheme == "RGBTo01Normalization":
        return (intensity_step("ScaleIntensityRange", {"a_min": 0.0, "a_max": 255.0, "b_min": 0.0, "b_max": 1.0}),), ()
    if scheme == "NoNormalization":
        return (), ()
    if scheme != "CTNormalization":
        raise InputError(f"The intensities are prepared by {scheme}, which is not supported.")
    known = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    found = [known[str(channel)] for channel in range(channels)]
    low, high, mean = ([float(f[k]) for f in found] for k in ("percentile_00_5", "percentile_99_5", "mean"))
    spread = [h - v for v, h in zip(low, high, strict=True)]
    if min(spread) <= 0:
        raise InputError(f"The plans clip intensities to {low} ... {high}, which leaves nothing.")
    # every channel is brought to 0 ... 1 first, for there is one pair of limits to clip to
    shift = [(m - v) / s for m, v, s in zip(mean, low, spread, strict=True)]
    scale = [max(float(f["std"]), 1e-8) / s for f, s in zip(found, spread, strict=True)]
    unit = {"a_min": 0.0, "a_max": 1.0, "b_min": 0.0, "b_max": 1.0, "clip": True}
    return (
        intensity_step("NormalizeIntensity", {"subtrahend": low, "divisor": spread, "channel_wise": True}),
        intensity_step("ScaleIntensityRange", unit),
        intensity_step("NormalizeIntensity", {"subtrahend": shift, "divisor": scale, "channel_wise": True}),
    ), ()
