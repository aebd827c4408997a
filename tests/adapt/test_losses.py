"""Losses against hand calculation, against MONAI and torch, and by their gradients."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from napari_medseg.adapt.losses import (
    BalancedCrossEntropy,
    Boundary,
    CrossEntropy,
    DeepSupervision,
    EdgeWeighted,
    Focal,
    Mixture,
    SharedBoundary,
    SoftDice,
    SoftJaccard,
    Tversky,
    cross_entropy_dice,
    cross_entropy_jaccard,
    deep_supervision_weights,
)
from napari_medseg.case import InputError

TINY = 1e-9
# the worked example of segformer-nuclei.md and cross-modality-liver.md
CHANCES, TRUTH = [0.9, 0.2, 0.6, 0.1], [1.0, 0.0, 1.0, 0.0]


def logit(chances):
    return torch.logit(torch.tensor(chances, dtype=torch.float64)).view(1, 1, 1, -1)


def truth(values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


# --- overlap


def test_overlap_losses_by_hand():
    logits, target = logit(CHANCES), truth(TRUTH)
    assert SoftDice(smoothing=TINY)(logits, target).item() == pytest.approx(0.210526, abs=1e-6)
    assert SoftJaccard(smoothing=TINY)(logits, target).item() == pytest.approx(0.347826, abs=1e-6)
    assert Tversky(0.3, 0.7, smoothing=TINY)(logits, target).item() == pytest.approx(0.226804, abs=1e-6)
    dice = SoftDice(smoothing=TINY)(logits, target)
    torch.testing.assert_close(Tversky(0.5, 0.5, smoothing=TINY)(logits, target), dice)


def test_jaccard_and_dice_of_the_refinement_paper():
    # x = [1, 1, 0, 0], prediction [.9, .6, .3, 0]: overlap 1.5, union 2.3
    logits, target = logit([0.9, 0.6, 0.3, 0.0]), truth([1.0, 1.0, 0.0, 0.0])
    assert SoftJaccard(smoothing=TINY)(logits, target).item() == pytest.approx(0.347826, abs=1e-6)
    assert 1 - SoftDice(smoothing=TINY)(logits, target).item() == pytest.approx(0.789474, abs=1e-6)


def test_dice_of_the_lung_paper():
    assert SoftDice(smoothing=TINY)(logit([0.8, 0.4]), truth([1.0, 0.0])).item() == pytest.approx(0.272727, abs=1e-6)


def test_smoothing_stands_in_the_formula_as_written():
    logits, target = logit(CHANCES), truth(TRUTH)
    assert SoftDice(smoothing=1.0)(logits, target).item() == pytest.approx(1 - (3.0 + 1) / (3.8 + 1))
    assert SoftJaccard(smoothing=1.0)(logits, target).item() == pytest.approx(1 - (1.5 + 1) / (2.3 + 1))
    assert Tversky(smoothing=1.0)(logits, target).item() == pytest.approx(1 - 2.5 / (1.5 + 0.3 * 0.3 + 0.7 * 0.5 + 1))


@pytest.mark.parametrize("loss", [SoftDice(smoothing=1.0), SoftJaccard(), Tversky()])
def test_a_perfect_mask_costs_nothing_and_a_missed_one_nearly_everything(loss):
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    assert loss(60 * mask - 30, mask).item() < 1e-6
    assert loss(torch.full_like(mask, -30.0), mask).item() > 0.98
    empty = torch.zeros_like(mask)
    assert loss(torch.full_like(mask, -100.0), empty).item() == pytest.approx(0, abs=1e-6)


def test_an_empty_image_still_gives_a_finite_gradient():
    logits = torch.zeros(1, 1, 32, 32, requires_grad=True)
    SoftDice(smoothing=1.0)(logits, torch.zeros(1, 1, 32, 32)).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().max() > 0


def test_pooling_adds_up_before_it_divides():
    # image 1: p g = .5, p + g = 1.5; image 2 (empty): p + g = .5
    logits = logit([0.5, 0.5]).view(2, 1, 1, 1)
    target = truth([1.0, 0.0]).view(2, 1, 1, 1)
    assert SoftDice(pooled=True, smoothing=TINY)(logits, target).item() == pytest.approx(1 - 2 * 0.5 / 2.0)
    assert SoftDice(pooled=False, smoothing=TINY)(logits, target).item() == pytest.approx((1 - 1 / 1.5 + 1) / 2)
    assert SoftJaccard(pooled=True, smoothing=TINY)(logits, target).item() == pytest.approx(1 - 0.5 / 1.5)
    assert SoftJaccard(pooled=False, smoothing=TINY)(logits, target).item() == pytest.approx((0.5 + 1) / 2)


def test_several_classes_are_averaged_and_background_can_be_left_out():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 8, 8), generator=generator)
    p, g = logits.softmax(1), one_hot(target, 3).movedim(-1, 1)
    each = 1 - 2 * (p * g).sum((2, 3)) / (p + g).sum((2, 3))
    torch.testing.assert_close(SoftDice(smoothing=0)(logits, target), each.mean())
    torch.testing.assert_close(SoftDice(background=False, smoothing=0)(logits, target), each[:, 1:].mean())
    assert not torch.isclose(each.mean(), each[:, 1:].mean())


def test_dice_of_masks_equals_2j_over_1_plus_j():
    random = np.random.default_rng(0)
    for _ in range(100):
        a, b = (torch.from_numpy(random.random((1, 1, 9, 9)) < random.uniform(0.1, 0.9)).double() for _ in range(2))
        logits = (a - 0.5) * 200
        dice = 1 - SoftDice(smoothing=0)(logits, b).item()
        jaccard = 1 - SoftJaccard(smoothing=0)(logits, b).item()
        assert dice == pytest.approx(2 * jaccard / (1 + jaccard), abs=1e-7)


# --- pixels


def test_balanced_cross_entropy_by_hand():
    logits, target = logit([0.8, 0.4]), truth([1.0, 0.0])
    assert BalancedCrossEntropy(0.7)(logits, target).item() == pytest.approx(0.154724, abs=1e-6)
    half = binary_cross_entropy_with_logits(logits, target) / 2
    torch.testing.assert_close(BalancedCrossEntropy(0.5)(logits, target), half)
    with pytest.raises(ValueError, match="between 0 and 1; given was 1"):
        BalancedCrossEntropy(1)
    with pytest.raises(ValueError, match="for one map; there are 2"):
        BalancedCrossEntropy()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4))


def test_focal_by_hand():
    logits, target = torch.tensor([2.0, -1.0]).view(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    assert Focal(gamma=2)(logits, target).item() == pytest.approx(0.351836, abs=1e-6)
    assert Focal(gamma=0)(logits, target).item() == pytest.approx(0.720095, abs=1e-6)
    assert binary_cross_entropy_with_logits(logits, target).item() == pytest.approx(0.720095, abs=1e-6)


def test_focal_of_classes_is_the_mean_over_pixels():
    logits = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 4, (2, 5, 5), generator=torch.Generator().manual_seed(1))
    chosen = logits.log_softmax(1).gather(1, target[:, None])
    torch.testing.assert_close(Focal(2.0)(logits, target), -((1 - chosen.exp()) ** 2 * chosen).mean())
    torch.testing.assert_close(Focal(0.0)(logits, target), cross_entropy(logits, target))
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    expected = -(weights[target][:, None] * (1 - chosen.exp()) ** 2 * chosen).mean()
    torch.testing.assert_close(Focal(2.0, weights.tolist())(logits, target), expected)


def test_weighted_cross_entropy_divides_by_the_sum_of_weights():
    logits = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.randint(0, 3, (2, 1, 6, 6), generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    chosen = logits.log_softmax(1).gather(1, target)
    expected = -(weights[target] * chosen).sum() / weights[target].sum()
    loss = CrossEntropy(weights.tolist())
    torch.testing.assert_close(loss(logits, target), expected)
    # the same labels given as maps, and as a single foreground map of two classes
    torch.testing.assert_close(loss(logits, one_hot(target[:, 0], 3).movedim(-1, 1)), expected)
    two = target.clamp(max=1)
    one_map = CrossEntropy((1.0, 3.0))(logits[:, 1:2] - logits[:, :1], two)
    torch.testing.assert_close(one_map, CrossEntropy((1.0, 3.0))(logits[:, :2], two))
    with pytest.raises(ValueError, match="3 weights were given for 2 classes"):
        loss(logits[:, :1], two)


# --- the target


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float32, torch.bool])
def test_any_type_of_target_with_and_without_its_channel(dtype):
    logits = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 2, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    for maps in (logits, logits[:, :1]):
        expected = cross_entropy_dice()(maps, target)
        assert cross_entropy_dice()(maps, target.to(dtype)) == expected
        assert cross_entropy_dice()(maps, target[:, None].to(dtype)) == expected


def test_a_class_the_model_does_not_have_is_named():
    with pytest.raises(InputError, match="the labels hold class 3; the model has classes 0 to 2"):
        CrossEntropy()(torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 3))
    with pytest.raises(InputError, match="the labels hold class 2; the model has classes 0 to 1"):
        SoftDice()(torch.zeros(1, 1, 4, 4), torch.full((1, 4, 4), 2))
    with pytest.raises(InputError, match="the labels hold class -1"):
        SoftDice()(torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), -1))
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 5\) does not fit logits \(1, 3, 4, 4\)"):
        SoftDice()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 5))


# --- mixtures


def test_mixture_agrees_with_monais_dice_and_cross_entropy():
    from monai.losses import DiceCELoss

    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    target = (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    torch.testing.assert_close(cross_entropy_dice()(logits, target), DiceCELoss(sigmoid=True)(logits, target))
    halved = DiceCELoss(sigmoid=True, lambda_dice=0.5, lambda_ce=0.5)(logits, target)
    torch.testing.assert_close(cross_entropy_dice(0.5, 0.5)(logits, target), halved)


def test_mixture_of_the_nuclei_paper_adds_four_losses():
    logits = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 6, (1, 8, 8), generator=torch.Generator().manual_seed(1))
    parts = [CrossEntropy(), SoftDice(), Tversky(), Focal()]
    weights = [1.0, 0.5, 0.25, 2.0]
    expected = sum(w * part(logits, target) for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(Mixture(*zip(weights, parts, strict=True))(logits, target), expected)


def test_pancreas_lesion_loss_by_hand():
    target = torch.zeros(1, 1, 8, 8)
    target[:, :, 2:6, 2:6] = 1
    logits = torch.zeros(1, 1, 8, 8)
    assert CrossEntropy()(logits, target).item() == pytest.approx(0.6931, abs=5e-5)
    assert SoftJaccard()(logits, target).item() == pytest.approx(0.8000, abs=5e-5)
    assert cross_entropy_jaccard()(logits, target).item() == pytest.approx(1.4931, abs=5e-5)


def test_deep_supervision_weights_halve_and_add_to_one():
    weights = deep_supervision_weights(5)
    assert sum(weights) == pytest.approx(1)
    assert all(a / b == pytest.approx(2) for a, b in pairwise(weights))
    assert deep_supervision_weights(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert deep_supervision_weights(7)[-1] == pytest.approx(1 / 127)


@pytest.mark.parametrize("classes", [1, 3])
def test_deep_supervision_samples_the_target_down(classes):
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, max(classes, 2), (1, 4, 4), generator=generator).repeat_interleave(2, 1)
    target = target.repeat_interleave(2, 2)
    fine = torch.randn(1, classes, 8, 8, generator=generator)
    coarse = torch.randn(1, classes, 4, 4, generator=generator)
    loss = cross_entropy_dice()
    expected = 2 / 3 * loss(fine, target) + 1 / 3 * loss(coarse, target[:, ::2, ::2])
    torch.testing.assert_close(DeepSupervision(loss)([fine, coarse], target), expected)
    torch.testing.assert_close(DeepSupervision(loss)(fine, target), loss(fine, target))
    with pytest.raises(ValueError, match="1 weights were given for 2 resolutions"):
        DeepSupervision(loss, [1.0])([fine, coarse], target)


# --- all of them


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)])
@pytest.mark.parametrize(
    "loss, classes",
    [
        (SoftDice(), 1),
        (SoftDice(background=False), 3),
        (SoftJaccard(), 1),
        (SoftJaccard(), 3),
        (Tversky(), 3),
        (CrossEntropy(), 1),
        (CrossEntropy((1.0, 2.0, 3.0)), 3),
        (BalancedCrossEntropy(0.9), 1),
        (Focal(), 1),
        (Focal(), 3),
        (Boundary(), 3),
        (SharedBoundary(), 3),
        (EdgeWeighted(), 1),
        (cross_entropy_dice(), 3),
        (cross_entropy_jaccard(), 1),
    ],
    ids=lambda value: type(value).__name__ if callable(value) else str(value),
)
def test_gradients_are_finite_and_a_step_against_them_helps(loss, classes, shape):
    generator = torch.Generator().manual_seed(3)
    target = torch.zeros(2, *shape, dtype=torch.long)
    target[:, 3:6, 2:7] = 1
    if classes == 3:
        target[:, 3:5, 2:4] = 2
    for spread in (1.0, 50.0):
        logits = (spread * torch.randn(2, classes, *shape, generator=generator)).requires_grad_()
        before = loss(logits, target)
        before.backward()
        assert torch.isfinite(logits.grad).all()
        if spread == 1.0:
            assert logits.grad.abs().max() > 0
            with torch.no_grad():
                after = loss(logits - 0.1 * logits.grad / logits.grad.abs().max(), target)
            assert after < before
