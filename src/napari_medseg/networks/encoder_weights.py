"""ImageNet weights for the encoder of a network: found in the hub's cache or fetched on request, and put in.

No constructor calls any of this; what is fetched is pinned to one state of its repository, and read from the cache
from then on, without a connection.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from napari_medseg.case import InputError
from napari_medseg.networks.encoder_decoder import EncoderDecoder

_COLOURS = 3


@dataclass(frozen=True)
class EncoderWeights:
    """Where the weights of an encoder lie, in one state that does not change.

    Parameters
    ----------
    encoder
        Name of the encoder, as `EncoderDecoder` takes it.
    repository
        Owner and name on the Hugging Face hub.
    revision
        The 40 hexadecimal digits of one commit; a branch or tag could change its content.
    licence
        Licence of the weights; empty if unknown.
    file
        A safetensors file in it.
    mean, std
        What was subtracted from, and divided by, each colour of the images ``[0, 1]`` that the encoder learned from.

    Raises
    ------
    InputError
        The revision is no commit.
    """

    encoder: str
    repository: str
    revision: str
    licence: str = ""
    file: str = "model.safetensors"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise InputError(
                f"the weights {self.repository} are asked for at {self.revision!r}; a commit of 40 digits is needed."
            )


# Weights that may not be used commercially (mit_b0 to mit_b5, ssl, swsl) are left out on purpose.
_PINNED = (
    ("resnet18", "3f2325ff978283d47aa6a1d6878ca20565622683", "BSD-3-Clause"),
    ("resnet34", "7a57b34f723329ff020b3f8bc41771163c519d0c", "BSD-3-Clause"),
    ("resnet50", "00cb74e366966d59cd9a35af57e618af9f88efe9", "BSD-3-Clause"),
    ("resnet101", "cd7c15e8c51da86ae6a084515fdb962d0c94e7d1", "BSD-3-Clause"),
    ("mobilenet_v2", "e67aa804e17f7b404b629127eabbd224c4e0690b", "BSD-3-Clause"),
    ("densenet121", "a17c96896a265b61338f66f61d3887b24f61995a", "BSD-3-Clause"),
    ("vgg16_bn", "2c186d02fb519e93219a99a1c2af6295aef0bf0d", "BSD-3-Clause"),
    ("efficientnet-b0", "1bbe7ecc1d5ea1d2058de1a2db063b8701aff314", "Apache-2.0"),
    ("efficientnet-b1", "5d637466a5215de300a8ccb13a39357df2df2bf4", "Apache-2.0"),
    ("efficientnet-b2", "a96d4f0295ffbae18ebba173bf7f3c0c8f21990e", "Apache-2.0"),
    ("efficientnet-b3", "074c54a6c473e0d294690d49cedb6cf463e7127d", "Apache-2.0"),
    ("efficientnet-b4", "05cd5dde5dab658f00c463f9b9aa0ced76784f40", "Apache-2.0"),
)
ENCODER_WEIGHTS: dict[str, EncoderWeights] = {
    name: EncoderWeights(name, f"smp-hub/{name}.imagenet", revision, licence) for name, revision, licence in _PINNED
}


def start_from_imagenet(
    network: EncoderDecoder, weights: EncoderWeights | None = None, *, download: bool = False, cache: Path | None = None
) -> EncoderWeights:
    """Give the encoder of `network` the weights it learned on ImageNet.

    Parameters
    ----------
    network
        Any number of image channels; see `kernels_for_channels`. Its decoder and head stay as they are.
    weights
        Which ones; by default those of the encoder's line in `ENCODER_WEIGHTS`. Needed for encoders of timm's.
    download
        Whether they may be fetched from the hub where the cache lacks them.
    cache
        Folder of the hub's cache; its usual one when ``None``.

    Returns
    -------
    EncoderWeights
        What was put in, with the `mean` and `std` that images should be prepared with.

    Raises
    ------
    InputError
        There are none for this encoder, they are not here or cannot be fetched, or they do not fit.
    """
    found = weights or ENCODER_WEIGHTS.get(network.encoder_name)
    if found is None:
        raise InputError(
            f"no ImageNet weights are known for the encoder {network.encoder_name!r}; "
            f"there are some for {', '.join(ENCODER_WEIGHTS)}."
        )
    if found.encoder != network.encoder_name:
        raise InputError(
            f"the weights are for the encoder {found.encoder!r}; the network has {network.encoder_name!r}."
        )
    load_encoder_weights(network.encoder, find_encoder_weights(found, download=download, cache=cache))
    return found


def find_encoder_weights(weights: EncoderWeights, *, download: bool = False, cache: Path | None = None) -> Path:
    """File of `weights` on this computer, fetched if it is not there and `download` allows it.

    Nothing is asked of the hub where the file is in the cache. A hub that does not answer is tried for about half a
    minute.

    Raises
    ------
    InputError
        It is not there, and was not to be fetched or could not be.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    what = f"the ImageNet weights of {weights.encoder}"
    try:
        return Path(
            hf_hub_download(
                weights.repository,
                weights.file,
                revision=weights.revision,
                cache_dir=cache,
                local_files_only=not download,
            )
        )
    except LocalEntryNotFoundError as error:
        if not download:
            reason = "are not on this computer, and fetching them was not asked for"
        elif constants.HF_HUB_OFFLINE:
            reason = "are not on this computer, and HF_HUB_OFFLINE forbids fetching them"
        else:
            reason = "are not on this computer, and the hub cannot be reached"
        raise InputError(f"{what} {reason}; training can also start from random weights.") from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise InputError(
            f"{what} could not be fetched: the hub refused {weights.repository} at {weights.revision[:12]}; "
            "training can also start from random weights."
        ) from error
    except OSError as error:
        raise InputError(f"{what} could not be stored: {' '.join(str(error).split())}") from error


def load_encoder_weights(encoder: torch.nn.Module, path: Path) -> None:
    """Put the weights of a safetensors file into `encoder`; every one must be there and fit.

    Parameters
    ----------
    encoder
        Part `encoder` of an `EncoderDecoder`. Its first convolution may take another number of channels than the
        colours the file was made for.
    path
        Weights of the whole classifier; those of its last layer are passed over.

    Raises
    ------
    InputError
        The file cannot be read or is for another network; the encoder is unchanged then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from segmentation_models_pytorch.encoders import TimmUniversalEncoder

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path.name} is not a readable safetensors file: {error}") from error
    target = encoder
    try:
        if isinstance(encoder, TimmUniversalEncoder):
            target, state = encoder.model, _as_timm_names_it(encoder, state)
        ready = _for_channels(target, state)
        # torch copies what fits before it complains of the rest, so a copy goes first; the encoder's own method
        # knows, and takes out, the classifier's last layer
        copy.deepcopy(target).load_state_dict(dict(ready))
        target.load_state_dict(ready)
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path.name} does not fit the encoder: {' '.join(str(error).split())[:300]}") from error


def kernels_for_channels(kernels: torch.Tensor, channels: int) -> torch.Tensor:
    """Kernels ``(k, 3, y, x)`` for colour made into ``(k, channels, y, x)`` that answer equally to a grey image.

    Each channel gets the sum over the colours, divided by the number of channels: an image that is the same in all
    of them gives exactly what a colour image with that in all three gave.
    """
    summed = kernels.double().sum(1, keepdim=True) / channels
    return summed.to(kernels.dtype).repeat(1, channels, 1, 1)


def _for_channels(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with the kernels of the first convolution made for the channels that `network` takes."""
    changed = dict(state)
    for name, own in network.state_dict().items():
        given = state.get(name)
        if given is None or given.shape == own.shape or own.ndim != 4:
            continue
        if given.shape[1] == _COLOURS and (given.shape[0], *given.shape[2:]) == (own.shape[0], *own.shape[2:]):
            changed[name] = kernels_for_channels(given, own.shape[1])
    return changed


def _as_timm_names_it(encoder: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a classifier of timm's under the names of its stages."""
    import timm

    name, own = str(encoder.name), cast(Any, encoder.model)
    given: dict[str, Any] = {"pretrained": True, "in_chans": _COLOURS}
    # strict only for the whole classifier; for its stages alone timm passes over what is missing
    timm.create_model(name, **given, pretrained_cfg_overlay={"state_dict": dict(state)})
    stages = timm.create_model(
        name,
        **given,
        features_only=True,
        out_indices=own.feature_info.out_indices,
        pretrained_cfg_overlay={"state_dict": dict(state)},
    )
    found: dict[str, torch.Tensor] = stages.state_dict()
    return found
