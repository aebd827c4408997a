"""Losses of borders and edges, and the cascade's, against hand calculation."""

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from napari_medseg.adapt.losses import (
    Boundary,
    CascadeLoss,
    EdgeWeighted,
    SharedBoundary,
    SoftDice,
    border_shares,
    cross_entropy_jaccard,
    edge_weights,
    signed_distance,
)


def corner_map():
    """4 x 4 zeros, the middle 2 x 2 is 1 and its lower right pixel 2."""
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 1:3, 1:3] = 1
    labels[0, 2, 2] = 2
    return labels


# --- borders


def test_border_shares_by_hand():
    labels = corner_map()
    expected = torch.tensor([[0, 0.75, 0.25], [0.75, 0, 0.25], [0.5, 0.5, 0]])
    torch.testing.assert_close(border_shares(one_hot(labels, 3).movedim(-1, 1).float())[0], expected)
    plain = one_hot(labels.clamp(max=1), 3).movedim(-1, 1).float()
    torch.testing.assert_close(border_shares(plain)[0], torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]))
    # logits of +-60 are 0 and 1: the tumour taken for organ costs 0.75 / 9
    logits = 120 * plain - 60
    assert SharedBoundary()(logits, labels).item() == pytest.approx(0.08333, abs=1e-5)
    assert SharedBoundary()(120 * one_hot(labels, 3).movedim(-1, 1).float() - 60, labels).item() < 1e-10


def test_border_shares_do_not_depend_on_the_scale():
    small = corner_map()
    large = small.repeat_interleave(5, 1).repeat_interleave(5, 2)
    shares = [border_shares(one_hot(m, 3).movedim(-1, 1).double()) for m in (small, large)]
    torch.testing.assert_close(*shares)


def test_border_shares_of_a_volume_count_six_neighbours():
    labels = torch.zeros(1, 3, 3, 3, dtype=torch.long)
    labels[0, 1, 1, 1] = 1
    labels[0, 1, 1, 2] = 2
    # 1 touches 2 once and background five times; 2 lies at the frame: background four times
    expected = torch.tensor([[0, 5 / 9, 4 / 9], [5 / 6, 0, 1 / 6], [4 / 5, 1 / 5, 0]])
    torch.testing.assert_close(border_shares(one_hot(labels, 3).movedim(-1, 1).float())[0], expected)


def test_the_soft_border_has_a_gradient_and_the_hard_one_none():
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    SharedBoundary()(logits, corner_map()).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().max() > 0
    hard = one_hot(logits.argmax(1), 3).movedim(-1, 1).float()
    assert not border_shares(hard).requires_grad
    sure = (1e4 * one_hot(corner_map().clamp(max=1), 3).movedim(-1, 1).float()).requires_grad_()
    SharedBoundary()(sure, corner_map()).backward()
    assert torch.isfinite(sure.grad).all()


def test_two_classes_are_refused_for_shared_borders():
    with pytest.raises(ValueError, match="three are needed"):
        SharedBoundary()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4))


def test_signed_distance_by_hand():
    mask = torch.zeros(1, 1, 1, 7)
    mask[..., 2:5] = 1
    assert signed_distance(mask).flatten().tolist() == [2, 1, 0, -1, 0, 1, 2]
    assert signed_distance(mask, (1.0, 0.5)).flatten().tolist() == [1, 0.5, 0, -0.5, 0, 0.5, 1]
    assert not signed_distance(torch.zeros(1, 1, 4, 4)).any() and not signed_distance(torch.ones(1, 1, 4, 4)).any()


def test_boundary_loss_by_hand_and_against_monai():
    mask = torch.zeros(1, 1, 1, 7)
    mask[..., 2:5] = 1
    # the mean of 0.5 x (2 + 1 + 0 - 1 + 0 + 1 + 2) over 7 pixels
    assert Boundary()(torch.zeros(1, 1, 1, 7), mask).item() == pytest.approx(0.5 * 5 / 7)
    logits = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.zeros(2, 12, 12, dtype=torch.long)
    target[0, 2:7, 3:9], target[1, 8:11, 1:5] = 1, 2
    loss = Boundary()(logits, target)
    loss.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().max() > 0
    monai = pytest.importorskip("monai.losses")
    if not hasattr(monai, "BoundaryLoss"):
        pytest.skip("this MONAI has no boundary loss")
    theirs = monai.BoundaryLoss(softmax=True, to_onehot_y=True, include_background=False)(logits, target[:, None])
    torch.testing.assert_close(loss, theirs)


def test_boundary_loss_falls_as_the_mask_moves_home():
    target = torch.zeros(1, 1, 32, 32)
    target[..., 10:20, 10:20] = 1
    costs = [Boundary()(60 * target.roll(by, -1) - 30, target).item() for by in (8, 4, 2, 0)]
    assert all(a > b for a, b in pairwise(costs))


# --- edges and the cascade


@given(st.integers(0, 2**16), st.sampled_from([(9, 9), (40, 40), (6, 6, 6)]))
def test_edge_weights_stay_between_1_and_6(seed, shape):
    mask = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed)).round()
    weights = edge_weights(mask)
    assert weights.min() >= 1 and weights.max() <= 6


def test_edge_weights_by_hand():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 4, 4] = 1
    weights = edge_weights(mask, window=3)
    assert weights[0, 0, 4, 4].item() == pytest.approx(1 + 5 * 8 / 9)
    assert weights[0, 0, 3, 3].item() == pytest.approx(1 + 5 / 9)
    assert weights[0, 0, 2, 2].item() == 1
    torch.testing.assert_close(
        edge_weights(mask, 5), 1 + 5 * (torch.nn.functional.avg_pool2d(mask, 5, 1, 2) - mask).abs()
    )
    with pytest.raises(ValueError, match="odd; given was 30"):
        edge_weights(mask, 30)


def test_edge_weighted_loss_by_hand():
    # two pixels, window 1: the mean is the value itself, so both weigh 1
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    expected = math.log(2) + 1 - (0.5 + 1) / (1.5 + 1)
    assert EdgeWeighted(window=1)(logits, target).item() == pytest.approx(expected, abs=1e-6)
    # one pixel, window 3: weight 1 + 5 x 8/9 in both sums
    weight = 1 + 5 * 8 / 9
    expected = math.log(2) + 1 - (0.5 * weight + 1) / (weight + 1)
    assert EdgeWeighted(window=3)(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).item() == pytest.approx(expected)


class Maps(NamedTuple):
    organ: torch.Tensor
    lesion: tuple[torch.Tensor, ...]
    boxes: torch.Tensor | None
    classes: torch.Tensor


def cascade(window=32):
    """Outputs of a 32-pixel image, the lesion looked for in the lower right `window` pixels, and labels."""
    generator = torch.Generator().manual_seed(0)
    sides = (window // 8, window // 8, window // 4, window // 2, window)
    organ = torch.randn(1, 1, 32, 32, generator=generator, requires_grad=True)
    lesion = tuple(torch.randn(1, 1, s, s, generator=generator, requires_grad=True) for s in sides)
    classes = torch.randn(1, 3, 32, 32, generator=generator, requires_grad=True)
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[0, 8:24, 8:24] = 1
    labels[0, 18:24, 18:24] = 2
    return Maps(organ, lesion, torch.tensor([[32 - window] * 2]), classes), labels


def corner(values, boxes):
    return values[..., boxes[0, 0] :, boxes[0, 1] :]


@pytest.mark.parametrize("window", [32, 16])
def test_cascade_adds_organ_lesion_and_border_with_their_weights(window):
    outputs, labels = cascade(window)
    mask = (labels == 2)[:, None].float()[..., 32 - window :, 32 - window :]
    up = [torch.nn.functional.interpolate(m, size=(window, window), mode="bilinear") for m in outputs.lesion]
    lesion = cross_entropy_jaccard()(up[0], mask)
    for weight, logits in zip((0.5, 1, 2, 4), up[1:], strict=True):
        lesion = lesion + weight * EdgeWeighted()(logits, mask)
    organ, border = SoftDice()(outputs.organ, labels > 0), SharedBoundary()(outputs.classes, labels)
    loss = CascadeLoss(corner if window < 32 else None)
    torch.testing.assert_close(loss(outputs, labels), organ + 0.9 * lesion + 0.4 * border)
    assert loss(outputs, labels[:, None]) == loss(outputs, labels)


def test_every_map_of_a_cascade_learns():
    outputs, labels = cascade()
    CascadeLoss()(outputs, labels).backward()
    for logits in (outputs.organ, *outputs.lesion, outputs.classes):
        assert torch.isfinite(logits.grad).all() and logits.grad.abs().max() > 0
    with pytest.raises(ValueError, match="3 refined maps were given; there are weights of 4"):
        CascadeLoss()(outputs._replace(lesion=outputs.lesion[1:]), labels)
