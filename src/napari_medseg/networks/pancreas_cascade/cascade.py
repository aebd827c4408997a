"""The cascade of both stages and its training phases (Qiu et al. 2024, sections B, C and E)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from napari_medseg.case import InputError
from napari_medseg.networks.pancreas_cascade.blocks import Norm
from napari_medseg.networks.pancreas_cascade.lesion import LesionNet
from napari_medseg.networks.pancreas_cascade.multiscale import STEP, OrganNet
from napari_medseg.networks.pancreas_cascade.saliency import Saliency
from napari_medseg.networks.pancreas_cascade.window import crop, organ_box, paste

Phase = Literal["S", "I", "J"]

# log-odds of a lesion outside the window: a probability of 1e-13 whose logarithm is still an ordinary number
_NO_LESION = -30.0


class CascadeOutputs(NamedTuple):
    """What one phase gives, for the losses of both stages.

    Attributes
    ----------
    organ
        Logits of the first stage, ``(n, 1, y, x)``, on the whole image.
    lesion
        Five logit maps of the second stage, coarse to fine, ``(n, 1, *window / s)`` for s of 16, 8, 4, 2 and 1.
    boxes
        ``(n, 4)`` whole pixels: top, left, bottom, right. `PancreasCascade.cut` cuts a reference by them.
    found
        ``(n,)`` bool: whether the box surrounds an organ; where it does not, it is the whole image.
    classes
        Logits of rest, organ and lesion, ``(n, 3, y, x)``, on the whole image.
    """

    organ: torch.Tensor
    lesion: tuple[torch.Tensor, ...]
    boxes: torch.Tensor
    found: torch.Tensor
    classes: torch.Tensor


class PancreasCascade(nn.Module):
    r"""Find the organ, weigh and cut the image by it, find the lesion in the cut, and paste it back.

    With the organ's probability P and the lesion's t the classes have the probabilities (1 - P)(1 - t), P(1 - t)
    and t; the logits are their logarithms, so a softmax gives them back.

    The second stage sees a window of fixed size, cut as `window` describes, so that the forward pass has one shape for
    all boxes and can be exported. It needs the whole slice: a slice given in tiles has a box in each of them.

    Parameters
    ----------
    in_channels, out_channels, base, margin, threshold, window, stretch, norm
        As in `PancreasCascadeParameters`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 3,
        base: int = 16,
        margin: int = 20,
        threshold: float = 0.5,
        window: int = 256,
        stretch: bool = False,
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        if out_channels != 3:
            raise InputError(f"the cascade gives 3 maps (rest, organ, lesion); {out_channels} were asked for.")
        self._margin, self._threshold, self._window, self._stretch = margin, threshold, window, stretch
        self.organ_net = OrganNet(in_channels, base, norm)
        self.saliency = Saliency()
        self.lesion_net = LesionNet(in_channels, base, norm)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of rest, organ and lesion.

        Parameters
        ----------
        image
            ``(n, in_channels, y, x)``, whole slices; the paper's CT is cut to -100 to 240 HU and scaled to 0 to 1.

        Returns
        -------
        torch.Tensor
            ``(n, 3, y, x)``.
        """
        return self.run_phase(image, "J").classes

    def run_phase(
        self,
        image: torch.Tensor,
        phase: Phase,
        reference: torch.Tensor | None = None,
        margin: int | torch.Tensor | None = None,
    ) -> CascadeOutputs:
        """Both stages as in one phase of training.

        Phase S leaves the saliency out and cuts by the reference organ, I puts the saliency in, and J cuts by the
        predicted organ too, as `forward` does. In I and J the losses of the second stage reach the first through
        the saliency; in S they do not.

        Parameters
        ----------
        image
            ``(n, in_channels, y, x)``.
        phase
            S, I or J.
        reference
            Organ with its lesions, ``(n, 1, y, x)`` of 0 and 1. Needed in S and I; in J it gives the box of an image in
            which no organ is predicted.
        margin
            Pixels to grow the boxes by, one number or ``(n,)`` (see `draw_margins`); the network's own if not given.

        Raises
        ------
        InputError
            The phase is unknown, or it needs a reference and has none.
        """
        if phase not in ("S", "I", "J"):
            raise InputError(f"there is no phase {phase!r} of training the cascade; there are S, I and J.")
        if phase != "J" and reference is None:
            raise InputError(f"phase {phase} of training the cascade needs the reference organ of each image.")
        organ = self.organ_net(image)
        probability = torch.sigmoid(organ)
        grown = self._margin if margin is None else margin
        if phase == "J":
            boxes, found = organ_box(probability, grown, self._threshold)
            if reference is not None:
                true_boxes, true_found = organ_box(reference, grown)
                boxes = torch.where(found[:, None], boxes, true_boxes)
                found = found | true_found
        else:
            assert reference is not None
            boxes, found = organ_box(reference, grown)
        lesion = self.find_lesion(image, boxes, None if phase == "S" else probability)
        return CascadeOutputs(organ, lesion, boxes, found, self.classes(organ, lesion[-1], boxes))

    def find_lesion(
        self, image: torch.Tensor, boxes: torch.Tensor, probability: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        """The second stage alone, for example after a person has put the organ or the box right.

        Parameters
        ----------
        image
            ``(n, in_channels, y, x)``.
        boxes
            ``(n, 4)`` whole pixels: top, left, bottom, right.
        probability
            Of the organ, ``(n, 1, y, x)``, for the saliency; ``None`` leaves the saliency out.

        Returns
        -------
        tuple
            Five logit maps in the window, coarse to fine, as in `CascadeOutputs`.
        """
        maps: tuple[torch.Tensor, ...] = self.lesion_net(self._seen(image, boxes, probability))
        return maps

    def cut(self, values: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Values ``(n, c, y, x)`` in the window of each box ``(n, 4)``: ``(n, c, *window)``, 0 outside the box."""
        return crop(values, boxes, self._window_of(values), self._stretch)

    def classes(self, organ: torch.Tensor, lesion: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Logits of rest, organ and lesion on the whole image.

        Parameters
        ----------
        organ
            Logits ``(n, 1, y, x)``.
        lesion
            Logits ``(n, 1, *window)``, the finest of the second stage.
        boxes
            ``(n, 4)``.

        Returns
        -------
        torch.Tensor
            ``(n, 3, y, x)``, logarithms of probabilities that sum to 1.
        """
        height, width = organ.shape[2:]
        pasted = paste(lesion, boxes, (height, width), _NO_LESION, self._stretch)
        healthy = _log_sigmoid(-pasted)
        return torch.cat([_log_sigmoid(-organ) + healthy, _log_sigmoid(organ) + healthy, _log_sigmoid(pasted)], dim=1)

    def start_from_organ(self) -> None:
        """Give the second stage's backbone the weights of the first (the paper's transfer of the pancreas model)."""
        self.lesion_net.backbone.load_state_dict(self.organ_net.backbone.state_dict())

    def attention_maps(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """What weighs the image and its features, on the grid of the image, ``(n, 1, y, x)`` each.

        In order: the organ's probability; the saliency g(P); the spatial attention that each place receives, summed
        over all places that give it (1 on average over the window); the false-positive and false-negative evidence
        of each focusing step, the mean absolute value over the channels, coarse to fine. All but the first two are 0
        outside the box. `spatial_attention` gives the attention of one place.
        """
        probability, boxes = self._located(image)
        seen = self._seen(image, boxes, probability)
        received = self._on_grid(self.lesion_net.spatial_rows(seen).sum(dim=1), seen)
        maps = {
            "organ probability": probability,
            "saliency g(P)": self.saliency(probability),
            "spatial attention received": self._whole(received, boxes, image),
        }
        for i, (positive, negative) in enumerate(self.lesion_net.evidence(seen), start=1):
            maps[f"false-positive evidence, step {i}"] = self._whole(positive, boxes, image)
            maps[f"false-negative evidence, step {i}"] = self._whole(negative, boxes, image)
        return maps

    def spatial_attention(self, image: torch.Tensor, place: tuple[int, int]) -> torch.Tensor:
        """What one place attends to: its row of the spatial attention, ``(n, 1, y, x)``, 0 outside the box.

        Parameters
        ----------
        image
            ``(n, in_channels, y, x)``.
        place
            Row and column of a pixel of the image. Outside the box, the nearest place in it counts.
        """
        probability, boxes = self._located(image)
        seen = self._seen(image, boxes, probability)
        rows = self.lesion_net.spatial_rows(seen)
        # the place is marked in the image and cut like it, so that shrinking and stretching are the crop's own
        point = torch.tensor(place, device=boxes.device)
        inside = torch.minimum(torch.maximum(point, boxes[:, :2]), boxes[:, 2:] - 1)
        marked = image.new_zeros(image.shape[0], 1, *image.shape[2:])
        marked[torch.arange(image.shape[0]), 0, inside[:, 0], inside[:, 1]] = 1.0
        cell = functional.avg_pool2d(self.cut(marked, boxes), STEP).flatten(1).argmax(dim=1)
        row = rows[torch.arange(image.shape[0]), cell]
        return self._whole(self._on_grid(row, seen), boxes, image)

    def _located(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probability = torch.sigmoid(self.organ_net(image))
        return probability, organ_box(probability, self._margin, self._threshold)[0]

    def _seen(self, image: torch.Tensor, boxes: torch.Tensor, probability: torch.Tensor | None) -> torch.Tensor:
        return self.cut(image if probability is None else image * self.saliency(probability), boxes)

    def _window_of(self, image: torch.Tensor) -> tuple[int, int]:
        height, width = (min(self._window, -(-side // STEP) * STEP) for side in image.shape[2:])
        return height, width

    def _on_grid(self, places: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return places.reshape(places.shape[0], 1, seen.shape[2] // STEP, seen.shape[3] // STEP)

    def _whole(self, values: torch.Tensor, boxes: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2:]
        at_full = functional.interpolate(values, size=self._window_of(image), mode="bilinear", align_corners=False)
        return paste(at_full, boxes, (height, width), stretch=self._stretch)


def _log_sigmoid(logits: torch.Tensor) -> torch.Tensor:
    # torch's own is exported to ONNX as the logarithm of a sigmoid, which is minus infinity where that rounds to 0
    return -functional.softplus(-logits)
