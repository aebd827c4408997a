"""SegFormer: a transformer that attends to a reduced map, with a decoder of linear layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch.nn import functional

from napari_medseg.case import InputError
from napari_medseg.networks.parameters import NetworkParameters
from napari_medseg.networks.torchvision_repair import repair_torchvision

PRETRAINED_NOTICE = (
    "The MiT and SegFormer weights that NVIDIA publishes (nvidia/mit-b0 to b5, nvidia/segformer-b0 to b5) may be used "
    "for research and evaluation only, not commercially; what is fine-tuned from them stays under that licence."
)
"""What a loader shows, and has accepted, before it hands weights of the authors to `SegFormer.take_encoder`."""

Size = Literal["tiny", "b0", "b1", "b2", "b3", "b4", "b5"]
Start = Literal["authors", "torch"]


class _Form(NamedTuple):
    depths: tuple[int, ...]
    channels: tuple[int, ...]
    heads: tuple[int, ...]
    decoder_channels: int


_WIDE = ((64, 128, 320, 512), (1, 2, 5, 8))
_SIZES: dict[str, _Form] = {
    "tiny": _Form((1, 1, 1, 1), (16, 32, 64, 128), (1, 2, 4, 8), 64),
    "b0": _Form((2, 2, 2, 2), (32, 64, 160, 256), (1, 2, 5, 8), 256),
    "b1": _Form((2, 2, 2, 2), *_WIDE, 256),
    "b2": _Form((3, 4, 6, 3), *_WIDE, 768),
    "b3": _Form((3, 4, 18, 3), *_WIDE, 768),
    "b4": _Form((3, 8, 27, 3), *_WIDE, 768),
    "b5": _Form((3, 6, 40, 3), *_WIDE, 768),
}
_REDUCTIONS = (8, 4, 2, 1)
_STRIDES = (4, 8, 16, 32)
# every stage attends to a map of this many pixels a cell: its stride times its reduction
_CELL = 32

# Names of the weights in files of the authors and of transformers before 5, and what they are called now.
_RENAMED = (
    (r"\bencoder\.patch_embeddings\.(\d+)\.", r"stages.\1.patch_embeddings."),
    (r"\bencoder\.block\.(\d+)\.", r"stages.\1.blocks."),
    (r"\bencoder\.layer_norm\.(\d+)\.", r"stages.\1.layer_norm."),
    (r"\battention\.self\.query\.", "attention.q_proj."),
    (r"\battention\.self\.key\.", "attention.k_proj."),
    (r"\battention\.self\.value\.", "attention.v_proj."),
    (r"\battention\.self\.sr\.", "attention.sequence_reduction.sequence_reduction."),
    (r"\battention\.self\.layer_norm\.", "attention.sequence_reduction.layer_norm."),
    (r"\battention\.output\.dense\.", "attention.o_proj."),
    (r"\bmlp\.dense1\.", "mlp.fc1."),
    (r"\bmlp\.dense2\.", "mlp.fc2."),
    (r"\blayer_norm_1\.", "layernorm_before."),
    (r"\blayer_norm_2\.", "layernorm_after."),
    (r"\bdecode_head\.linear_c\.", "decode_head.linear_projections."),
)


class SegFormerParameters(NetworkParameters):
    """Parameters of `SegFormer`; the defaults are the small network of Khaled et al. (2023)."""

    in_channels: int = Field(default=3, ge=1, le=1024, description="Channels of the image: 1 for grey, 3 for colour.")
    out_channels: int = Field(default=6, ge=1, le=1024, description="Maps that the network gives, one a class.")
    size: Size = Field(
        default="b0",
        description="b0 is fast, b4 was the most accurate on nuclei, b5 the largest; tiny is for trials on a CPU.",
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Part of the decoder's channels left out in training.")
    drop_path: float = Field(
        default=0.1, ge=0, lt=1, description="Probability that the last block is skipped in training, 0 for the first."
    )
    start: Start = Field(
        default="authors",
        description="Random weights as the authors of SegFormer or as torch starts them; torch's were the better after "
        "few steps from nothing, and neither matters for an encoder that is taken over.",
    )

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `SegFormer`: the size is spelt out."""
        form = _SIZES[self.size]
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "depths": list(form.depths),
            "channels": list(form.channels),
            "heads": list(form.heads),
            "decoder_channels": form.decoder_channels,
            "dropout": self.dropout,
            "drop_path": self.drop_path,
            "start": self.start,
        }


class StageAttention(NamedTuple):
    """What the last block of a stage attends to.

    Attributes
    ----------
    weights
        ``(n, heads, queries, keys)``, from 0 to 1; every row sums to 1.
    queries, keys
        Grids ``(y, x)`` of the padded image, flattened row by row in `weights`.
    """

    weights: torch.Tensor
    queries: tuple[int, int]
    keys: tuple[int, int]


class SegFormer(torch.nn.Module):
    """SegFormer (Xie et al., 2021), as Khaled et al. (MIUA 2023) use it for nuclei.

    "Efficient Semantic Segmentation of Nuclei in Histopathology Images Using Segformer"; Sourget et al. (MIUA 2023)
    compare it with the U-Net.

    Four stages at strides 4, 8, 16 and 32 of overlapping patches; in every block ``x + Attn(LN(x))`` and then
    ``x + MixFFN(LN(x))``, where ``Attn = softmax(Q K' / sqrt(d)) V`` takes keys and values from a map reduced 8, 4, 2
    and 1 times a side, and ``MixFFN = W2 GELU(DWConv3x3(W1 x))`` whose zero padding stands in for position codes. The
    decoder brings every stage to `decoder_channels` at stride 4, joins them deepest first, mixes and classifies them.
    Built by transformers, with every LayerNorm's epsilon 1e-5. Weights are called as in transformers 5; those called
    as in its version 4 are accepted.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and of the result.
    depths, channels, heads
        Blocks, channels and attention heads of the four stages.
    decoder_channels
        Width of the decoder: 256 for b0 and b1, 768 for b2 to b5.
    dropout
        Of the decoder.
    drop_path
        Stochastic depth of the last block; it grows linearly from 0.
    start
        Random weights as the authors start them (linear layers of the encoder at a standard deviation of 0.02,
        convolutions at ``sqrt(2 / fan out)``, the classifier at 0.01) or each layer as torch does.

    Raises
    ------
    InputError
        There are not four stages, a stage's channels do not divide by its heads, or transformers is too old.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 6,
        depths: Sequence[int] = _SIZES["b0"].depths,
        channels: Sequence[int] = _SIZES["b0"].channels,
        heads: Sequence[int] = _SIZES["b0"].heads,
        decoder_channels: int = 256,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        start: Start = "authors",
    ) -> None:
        super().__init__()
        if start not in ("authors", "torch"):
            raise InputError(f"SegFormer's weights do not start as {start!r}; they start as authors or as torch.")
        if not len(depths) == len(channels) == len(heads) == len(_STRIDES):
            raise InputError("SegFormer has four stages: depths, channels and heads have four values each.")
        if any(width % head for width, head in zip(channels, heads, strict=True)):
            raise InputError(
                f"the channels {list(channels)} of SegFormer's stages do not divide by its heads {list(heads)}."
            )
        repair_torchvision()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        built = SegformerForSemanticSegmentation(
            SegformerConfig(
                num_channels=in_channels,
                num_labels=out_channels,
                depths=list(depths),
                hidden_sizes=list(channels),
                num_attention_heads=list(heads),
                sr_ratios=list(_REDUCTIONS),
                decoder_hidden_size=decoder_channels,
                classifier_dropout_prob=dropout,
                drop_path_rate=drop_path,
                # the fused attention keeps its weights to itself
                attn_implementation="eager",
            )
        )
        if not hasattr(built.segformer, "stages"):
            raise InputError('this transformers is too old for SegFormer: pip install -U "napari-medseg[zoo]".')
        self.segformer: Any = built.segformer
        self.decode_head: Any = built.decode_head
        _start(self.segformer, self.decode_head, start)
        self.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, out_channels, y, x)`` of `image` ``(n, in_channels, y, x)`` of any size.

        The image is continued below and to the right by its last row and column to a multiple of 32 pixels, without
        which the reduced maps would lack a border; the logits, at stride 4, are resampled linearly and cut back.
        """
        height, width = image.shape[-2:]
        padded = _pad(image)
        logits: torch.Tensor = self.decode_head(self.features(padded))
        logits = functional.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Map ``(n, channels, y / stride, x / stride)`` of each stage; sides of `image` are multiples of 32."""
        maps = []
        for stage in self.segformer.stages:
            image = stage(image)
            maps.append(image)
        return maps

    def attention(self, image: torch.Tensor) -> list[StageAttention]:
        """Attention of the last block of each stage, first stage first, for the padded `image`."""
        features, found = _pad(image), []
        for stage, reduction in zip(self.segformer.stages, _REDUCTIONS, strict=True):
            tokens, height, width = stage.patch_embeddings(features)
            *before, last = stage.blocks
            for block in before:
                tokens = block(tokens, height, width)
            _, weights = last.attention(last.layernorm_before(tokens), height, width)
            found.append(StageAttention(weights, (height, width), (height // reduction, width // reduction)))
            tokens = stage.layer_norm(last(tokens, height, width))
            features = tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)
        return found

    def attention_maps(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """How much attention each place receives, averaged over all places of the image that look.

        Parameters
        ----------
        image
            ``(n, in_channels, y, x)``.

        Returns
        -------
        dict
            A map ``(n, heads, *grid)`` a stage, the deepest first. Through the reduction of keys every stage has one
            cell for 32 × 32 pixels, and its cells sum to 1. Where the image is no multiple of 32, cells are repeated
            over their pixels and what lies outside the image is cut off, so that grid and image cover the same.
        """
        size = _size(image)
        maps = {}
        for number, (stage, stride) in _backwards(self.attention(image)):
            rows, columns = (-(-side // stride) for side in size)
            weights = stage.weights.reshape(*stage.weights.shape[:2], *stage.queries, -1)[:, :, :rows, :columns]
            maps[f"stage {number}, attention received"] = _on_image(weights.mean((2, 3)), stage.keys, size)
        return maps

    def attention_from(self, image: torch.Tensor, pixel: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Where `pixel` looks: its row of the softmax in the last block of each stage.

        Parameters
        ----------
        image
            ``(n, in_channels, y, x)``.
        pixel
            Row and column, from 0.

        Returns
        -------
        dict
            As of `attention_maps`.

        Raises
        ------
        InputError
            The pixel lies outside the image.
        """
        size = _size(image)
        if not all(0 <= p < side for p, side in zip(pixel, size, strict=True)):
            raise InputError(f"the pixel {tuple(pixel)} lies outside an image of {size[0]} x {size[1]} pixels.")
        maps = {}
        for number, (stage, stride) in _backwards(self.attention(image)):
            query = pixel[0] // stride * stage.queries[1] + pixel[1] // stride
            maps[f"stage {number}, attention paid"] = _on_image(stage.weights[:, :, query], stage.keys, size)
        return maps

    def take_encoder(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Start from an encoder trained elsewhere, such as a MiT trained on ImageNet; the decoder stays as it is.

        Show `PRETRAINED_NOTICE` before weights of the authors are given here.

        Parameters
        ----------
        weights
            State of a SegFormer or MiT of the same size, called as in transformers 4 or 5; a classifier is left out.

        Raises
        ------
        InputError
            A weight of the encoder is missing or of another shape.
        """
        found = {_renamed(name): value for name, value in weights.items()}
        prefix = "segformer." if any(name.startswith("segformer.") for name in found) else ""
        start = f"{prefix}stages."
        encoder = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(start)}
        try:
            self.segformer.load_state_dict(encoder, strict=True)
        except RuntimeError as error:
            first = " ".join(str(error).split())[:300]
            raise InputError(f"these weights do not fit the encoder: {first}") from error


def _start(encoder: Any, decoder: Any, start: Start) -> None:
    if start == "torch":
        for layer in (*encoder.modules(), *decoder.modules()):
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.reset_parameters()
        return
    # transformers starts convolutions at 0.02 as well, a twentieth of what the authors give the 3 x 3 ones
    for layer in (*encoder.modules(), decoder.linear_fuse):
        if isinstance(layer, torch.nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
            torch.nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
    for layer in decoder.linear_projections.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.reset_parameters()
    torch.nn.init.normal_(decoder.classifier.weight, std=0.01)


def _rename(network: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    for name in [n for n in state if n.startswith(prefix)]:
        now = prefix + _renamed(name.removeprefix(prefix))
        if now != name:
            state[now] = state.pop(name)


def _renamed(name: str) -> str:
    for old, new in _RENAMED:
        name = re.sub(old, new, name)
    return name


def _pad(image: torch.Tensor) -> torch.Tensor:
    height, width = image.shape[-2:]
    # always padded, if by nothing: a choice by size would be fixed when the network is traced
    return functional.pad(image, (0, -width % _CELL, 0, -height % _CELL), mode="replicate")


def _size(image: torch.Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _backwards(stages: list[StageAttention]) -> list[tuple[int, tuple[StageAttention, int]]]:
    return list(enumerate(zip(stages, _STRIDES, strict=True), start=1))[::-1]


def _on_image(received: torch.Tensor, keys: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    grid = received.reshape(*received.shape[:-1], *keys)
    if size == (keys[0] * _CELL, keys[1] * _CELL):
        return grid
    return grid.repeat_interleave(_CELL, -2).repeat_interleave(_CELL, -1)[..., : size[0], : size[1]]
