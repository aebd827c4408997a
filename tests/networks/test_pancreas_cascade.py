"""The organ-then-lesion cascade: counts to the digit, its modules by hand, cutting by properties, the gradient link."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.measure import regionprops
from torch.nn import functional

from napari_medseg.case import InputError
from napari_medseg.networks.pancreas_cascade import (
    ChannelAttention,
    ContextExploration,
    Focusing,
    LesionNet,
    Localisation,
    MultiScaleUNet,
    OrganNet,
    PancreasCascade,
    PancreasCascadeParameters,
    Saliency,
    SpatialAttention,
    crop,
    draw_margins,
    organ_box,
    paste,
)


class Bright(torch.nn.Module):
    """An organ net that is sure of every bright pixel and of its absence elsewhere."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 20 * (image[:, :1] - 0.5)


def number_of_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def picture(top: int, bottom: int, left: int, right: int, shape: tuple[int, int] = (50, 70)) -> torch.Tensor:
    image = 0.3 * torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(top))
    image[..., top:bottom, left:right] = 1
    return image


def small(**values: object) -> PancreasCascade:
    return PancreasCascade(**PancreasCascadeParameters(**{"base": 4, "margin": 3, **values}).arguments())


# ---- sizes


@pytest.mark.parametrize(
    ("base", "organ", "lesion"),
    [(8, 645_889, 1_433_791), (16, 2_576_321, 5_701_167), (64, 41_134_337, 90_811_023)],
)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_counts(base: int, organ: int, lesion: int, norm: str) -> None:
    with torch.device("meta"):
        network = PancreasCascade(base=base, norm=norm)
    assert number_of_parameters(network.organ_net) == organ
    assert number_of_parameters(network.lesion_net) == lesion
    assert number_of_parameters(network) == organ + lesion + 281  # g: 8 * 9 + 8 and 8 * 25 + 1


def test_five_logit_maps_from_4_to_64_pixels() -> None:
    with torch.no_grad():
        maps = LesionNet(1, 16, "batch").eval()(torch.rand(1, 1, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(1, 1, s, s) for s in (4, 8, 16, 32, 64)]


def test_backbone_features() -> None:
    with torch.no_grad():
        features = MultiScaleUNet(2, 4, "group")(torch.rand(1, 2, 32, 48))
    assert [tuple(f.shape[1:]) for f in features] == [(96, 2, 3), (32, 4, 6), (16, 8, 12), (8, 16, 24), (4, 32, 48)]


def test_each_skip_joins_before_the_pooling_and_at_its_own_convolution() -> None:
    """The finest level written out: the plain encoder's skip comes first, the other's before the second convolution."""
    torch.manual_seed(0)
    net = MultiScaleUNet(1, 4, "batch").eval()
    image = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        *_, below, finest = net(image)
        plain, other = net.plain[0](image), torch.cat([net.narrow[0](image), net.wide[0](image)], 1)
        up = net.first[3](torch.cat([net.ups[3](below), plain], 1))
        torch.testing.assert_close(finest, net.second[3](torch.cat([up, other], 1)))


def test_organ_net_takes_any_size() -> None:
    with torch.no_grad():
        assert OrganNet(1, 4, "group")(torch.rand(2, 1, 21, 35)).shape == (2, 1, 21, 35)


# ---- attention


def test_channel_attention_of_one_channel_scales_it() -> None:
    attention, feature = ChannelAttention(), torch.randn(2, 1, 3, 4)
    torch.testing.assert_close(attention(feature), 2 * feature)
    torch.nn.init.constant_(attention.gamma, 0.7)
    torch.testing.assert_close(attention(feature), 1.7 * feature)


def test_channel_attention_by_hand() -> None:
    """Two channels over two places: Q K^T = [[1, 1], [1, 2]]."""
    feature = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).reshape(1, 2, 1, 2)
    share = 1 / (1 + np.e)  # softmax of (1, 2)
    expected = [[1 + 1, 0.5 + 0], [1 + 1, 1 - share + 1]]  # each row of a times V = F, and F
    np.testing.assert_allclose(ChannelAttention()(feature)[0, :, 0].detach(), expected, rtol=1e-6)


def test_attention_rows_sum_to_one_and_gamma_0_changes_nothing() -> None:
    torch.manual_seed(0)
    channel, spatial, feature = ChannelAttention(), SpatialAttention(16), torch.randn(2, 16, 3, 5)
    torch.testing.assert_close(channel.rows(feature).sum(-1), torch.ones(2, 16))
    torch.testing.assert_close(spatial.rows(feature).sum(-1), torch.ones(2, 15))
    assert not torch.allclose(spatial.rows(feature).sum(-2), torch.ones(2, 15), atol=0.01)
    for attention in (channel, spatial):
        assert not torch.allclose(attention(feature), feature)
        torch.nn.init.zeros_(attention.gamma)
        torch.testing.assert_close(attention(feature), feature, rtol=0, atol=0)


def test_spatial_attention_of_one_place_adds_its_value() -> None:
    attention, feature = SpatialAttention(8), torch.randn(3, 8, 1, 1)
    torch.nn.init.constant_(attention.gamma, 0.4)
    torch.testing.assert_close(attention(feature), feature + 0.4 * attention.value(feature))


def test_spatial_attention_sums_over_rows() -> None:
    """F''_i = gamma sum_j softmax_j(Q_i . K_j) V_j + F_i, place by place."""
    torch.manual_seed(1)
    attention, feature = SpatialAttention(8), torch.randn(1, 8, 2, 3)
    query, key, value = (m(feature)[0].flatten(1) for m in (attention.query, attention.key, attention.value))
    expected = feature[0].flatten(1).clone()
    for i in range(6):
        weights = torch.softmax(torch.stack([query[:, i] @ key[:, j] for j in range(6)]), 0)
        expected[:, i] += sum(weights[j] * value[:, j] for j in range(6))
    torch.testing.assert_close(attention(feature)[0].flatten(1), expected)


def test_localisation_is_channel_then_spatial_then_one_map() -> None:
    module, feature = Localisation(8), torch.randn(1, 8, 4, 4)
    attended, logits = module(feature)
    torch.testing.assert_close(attended, module.spatial(module.channel(feature)))
    torch.testing.assert_close(logits, functional.conv2d(attended, module.head.weight, module.head.bias, padding=3))


# ---- focusing


def test_context_exploration_chains_its_branches() -> None:
    """How far a pixel sees: 1 to reduce, 1, 1 + 2, 2 + 4 and 3 + 8 along the chain, 1 to fuse; 13 without the chain."""
    module = ContextExploration(4, "batch").eval()
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    feature = torch.ones(1, 4, 61, 61, dtype=torch.double, requires_grad=True)
    module.double()(feature)[0, 0, 30, 30].backward()
    assert feature.grad is not None
    seen = feature.grad[0, 0].nonzero()
    assert (seen.min(0).values.tolist(), seen.max(0).values.tolist()) == ([7, 7], [53, 53])


def test_focusing_without_evidence_is_twice_normalised() -> None:
    torch.manual_seed(0)
    module = Focusing(4, 8, "batch").eval()
    torch.nn.init.zeros_(module.lam)
    torch.nn.init.zeros_(module.gamma)
    current, higher, logits = torch.randn(1, 4, 12, 8), torch.randn(1, 8, 6, 4), torch.randn(1, 1, 6, 4)
    with torch.no_grad():
        refined, finer = module(current, higher, logits)
        up = functional.interpolate(module.up(higher), size=(12, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(refined, torch.relu(torch.relu(up / (1 + 1e-5) ** 0.5) / (1 + 1e-5) ** 0.5))
    assert finer.shape == (1, 1, 12, 8)


def test_focusing_takes_false_positives_away_and_adds_false_negatives() -> None:
    torch.manual_seed(1)
    module = Focusing(4, 8, "batch").eval()
    torch.nn.init.constant_(module.lam, 0.5)
    torch.nn.init.constant_(module.gamma, 2.0)
    current, higher, logits = torch.randn(1, 4, 12, 8), torch.randn(1, 8, 6, 4), torch.randn(1, 1, 6, 4)
    with torch.no_grad():
        inside = torch.sigmoid(functional.interpolate(logits, scale_factor=2.0, mode="bilinear"))
        up = functional.interpolate(module.up(higher), scale_factor=2.0, mode="bilinear")
        scale = (1 + 1e-5) ** -0.5
        expected = torch.relu(scale * (up - 0.5 * module.false_positive(current * inside)))
        expected = torch.relu(scale * (expected + 2.0 * module.false_negative(current * (1 - inside))))
        torch.testing.assert_close(module(current, higher, logits)[0], expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_sure_map_leaves_nothing_on_its_other_side(sign: float) -> None:
    current = torch.randn(1, 4, 8, 8)
    parts = Focusing(4, 4, "group").split(current, sign * torch.full((1, 1, 4, 4), 30.0))
    inside, outside = parts if sign > 0 else parts[::-1]
    torch.testing.assert_close(inside, current)
    assert outside.abs().max() < 1e-11


# ---- box, crop and paste


@given(data=st.data())
def test_box_is_the_tight_one_grown_and_clipped(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    pixels = data.draw(
        st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1, max_size=5)
    )
    margin = data.draw(st.integers(0, 12))
    mask = np.zeros((height, width), np.float32)
    mask[tuple(np.transpose(pixels))] = 0.5
    top, left, bottom, right = regionprops((mask > 0).astype(int))[0].bbox
    boxes, found = organ_box(torch.from_numpy(mask)[None, None], margin, 0.5)
    expected = [max(0, top - margin), max(0, left - margin), min(height, bottom + margin), min(width, right + margin)]
    assert boxes.tolist() == [expected]
    assert found.tolist() == [True]


def test_an_empty_mask_gives_the_whole_image_and_says_so() -> None:
    mask = torch.full((2, 1, 7, 9), 0.49)
    mask[1, 0, 3, 4] = 0.5
    boxes, found = organ_box(mask, 1)
    assert boxes.tolist() == [[0, 0, 7, 9], [2, 3, 5, 6]]
    assert found.tolist() == [False, True]


def test_margins_of_their_own() -> None:
    mask = torch.zeros(2, 1, 20, 20)
    mask[:, :, 10, 10] = 1
    assert organ_box(mask, torch.tensor([0, 4]))[0].tolist() == [[10, 10, 11, 11], [6, 6, 15, 15]]


def test_margins_are_drawn_about_half_of_the_time() -> None:
    margins = draw_margins(20_000, 20, torch.Generator().manual_seed(0))
    assert (margins.min(), margins.max()) == (0, 40)
    # 1/2 + 1/2 * 1/41; the deviation of a share of 20,000 is 0.0035
    assert (margins == 20).float().mean().item() == pytest.approx(0.5 + 0.5 / 41, abs=0.015)
    assert (margins == 0).float().mean().item() == pytest.approx(0.5 / 41, abs=0.004)


@st.composite
def cuts(draw: st.DrawFn, fits: bool) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    shape = draw(st.integers(2, 40)), draw(st.integers(2, 40))
    boxes = []
    for _ in range(2):
        (top, bottom), (left, right) = (
            sorted(draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True))) for side in shape
        )
        boxes.append([top, left, bottom, right])
    extent = np.array(boxes)[:, 2:] - np.array(boxes)[:, :2]
    low = extent.max(0) if fits else (4, 4)
    window = draw(st.integers(int(low[0]), 48)), draw(st.integers(int(low[1]), 48))
    image = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))
    return image, torch.tensor(boxes), window


@given(cuts(fits=True))
def test_a_box_that_fits_is_copied_exactly_and_back(cut: tuple[torch.Tensor, torch.Tensor, tuple[int, int]]) -> None:
    image, boxes, window = cut
    windows = crop(image, boxes, window)
    back = paste(windows, boxes, (image.shape[2], image.shape[3]), fill=-7.0)
    for i, (top, left, bottom, right) in enumerate(boxes.tolist()):
        expected = torch.zeros(3, *window)
        expected[:, : bottom - top, : right - left] = image[i, :, top:bottom, left:right]
        torch.testing.assert_close(windows[i], expected, rtol=0, atol=0)
        expected = torch.full_like(image[i], -7.0)
        expected[:, top:bottom, left:right] = image[i, :, top:bottom, left:right]
        torch.testing.assert_close(back[i], expected, rtol=0, atol=0)


def resized(values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """As Pillow does it; torch's own antialiasing repeats one row where the result is one pixel wide."""
    parts = [Image.fromarray(v.numpy()).resize(shape[::-1], Image.Resampling.BILINEAR) for v in values]
    return torch.from_numpy(np.stack([np.asarray(p) for p in parts]))


@given(cuts(fits=False))
def test_stretching_is_what_pillow_does_to_the_cut_box(cut: tuple[torch.Tensor, torch.Tensor, tuple[int, int]]) -> None:
    image, boxes, window = cut
    windows = crop(image, boxes, window, stretch=True)
    back = paste(windows, boxes, (image.shape[2], image.shape[3]), fill=2.0, stretch=True)
    for i, (top, left, bottom, right) in enumerate(boxes.tolist()):
        expected = resized(image[i, :, top:bottom, left:right], window)
        torch.testing.assert_close(windows[i], expected, atol=1e-4, rtol=0)
        expected = torch.full_like(image[i], 2.0)
        expected[:, top:bottom, left:right] = resized(windows[i], (bottom - top, right - left))
        torch.testing.assert_close(back[i], expected, atol=1e-4, rtol=0)


@given(cuts(fits=False))
def test_a_box_too_large_is_shrunk_alike_on_both_axes(
    cut: tuple[torch.Tensor, torch.Tensor, tuple[int, int]],
) -> None:
    image, boxes, window = cut
    ramp = torch.stack(torch.meshgrid(*(torch.arange(float(s)) for s in image.shape[2:]), indexing="ij"))
    windows = crop(torch.cat([ramp, torch.ones_like(ramp[:1])])[None].expand(2, -1, -1, -1), boxes, window)
    back = paste(windows, boxes, (image.shape[2], image.shape[3]), fill=-1.0)
    for i, (top, left, bottom, right) in enumerate(boxes.tolist()):
        step = max(1, (bottom - top) / window[0], (right - left) / window[1])
        filled = windows[i, 2] > 0.5
        rows = min(int(np.ceil((bottom - top) / step - 1e-5)), window[0])
        columns = min(int(np.ceil((right - left) / step - 1e-5)), window[1])
        assert filled[:rows, :columns].all()
        assert filled.sum() == rows * columns
        # nothing is lost: a ramp comes back to within a step of where it was, and the box is filled to its borders
        part = (slice(top, bottom), slice(left, right))
        assert (back[i, :2, *part] - ramp[:, *part]).abs().max() <= step
        torch.testing.assert_close(back[i, 2, *part], torch.ones(bottom - top, right - left))
        assert (back[i, 2] == -1).sum() == image.shape[2] * image.shape[3] - (bottom - top) * (right - left)


# ---- the cascade


def test_classes_are_those_of_both_stages() -> None:
    """Lesion t, organ P (1 - t), rest (1 - P)(1 - t), and no lesion outside the box."""
    network = small(window=32)
    organ, lesion = torch.tensor([2.0, -1.0]).reshape(1, 1, 1, 2), torch.zeros(1, 1, 16, 16)
    lesion[..., 0, 0] = 0.5
    found = torch.softmax(network.classes(organ, lesion, torch.tensor([[0, 0, 1, 1]])), 1)[0, :, 0]
    p, q, t = (1 / (1 + np.exp(-v)) for v in (2.0, -1.0, 0.5))
    np.testing.assert_allclose(found, [[(1 - p) * (1 - t), 1 - q], [p * (1 - t), q], [t, 0]], atol=1e-6)


def test_forward_looks_for_the_lesion_in_the_box_only() -> None:
    torch.manual_seed(0)
    network = small(window=32).eval()
    network.organ_net = Bright()
    image = picture(10, 20, 30, 44)
    with torch.no_grad():
        outputs = network.run_phase(image, "J")
        logits = network(image)
        alone = network.lesion_net(functional.pad(image[..., 7:23, 27:47], [0, 12, 0, 16]))
    assert outputs.boxes.tolist() == [[7, 27, 23, 47]]
    assert outputs.found.tolist() == [True]
    torch.testing.assert_close(logits, outputs.classes)
    torch.testing.assert_close(outputs.lesion, alone)
    lesion = torch.softmax(logits, 1)[0, 2]
    torch.testing.assert_close(lesion[7:23, 27:47], torch.sigmoid(alone[-1][0, 0, :16, :20]))
    lesion[7:23, 27:47] = 0
    assert lesion.max() < 1e-12


def test_boxes_of_each_phase() -> None:
    network = small(window=48).eval()
    network.organ_net = Bright()
    image = torch.cat([picture(10, 20, 30, 44), torch.zeros(1, 1, 50, 70)])
    reference = torch.zeros(2, 1, 50, 70)
    reference[:, :, 5:9, 20:25] = 1
    with torch.no_grad():
        for phase in ("S", "I"):
            assert network.run_phase(image, phase, reference).boxes.tolist() == [[2, 17, 12, 28]] * 2
        assert network.run_phase(image, "S", reference, margin=0).boxes.tolist() == [[5, 20, 9, 25]] * 2
        trained, tested = network.run_phase(image, "J", reference), network.run_phase(image, "J")
        lost = network.run_phase(image, "J", 0 * reference)
    assert trained.boxes.tolist() == [[7, 27, 23, 47], [2, 17, 12, 28]]
    assert trained.found.tolist() == [True, True]
    assert tested.boxes.tolist() == lost.boxes.tolist() == [[7, 27, 23, 47], [0, 0, 50, 70]]
    assert tested.found.tolist() == lost.found.tolist() == [True, False]


def test_a_phase_without_what_it_needs_is_refused() -> None:
    with pytest.raises(InputError, match="phase I of training the cascade needs the reference organ"):
        small().run_phase(torch.zeros(1, 1, 16, 16), "I")
    with pytest.raises(InputError, match=r"no phase 'T'.*there are S, I and J"):
        small().run_phase(torch.zeros(1, 1, 16, 16), "T")
    with pytest.raises(InputError, match="2 were asked for"):
        PancreasCascade(out_channels=2)


def test_saliency_starts_as_one_so_phase_i_starts_as_phase_s() -> None:
    torch.manual_seed(0)
    network = small(window=32).eval()
    image, reference = picture(10, 20, 30, 44), picture(8, 22, 30, 44).round()
    torch.testing.assert_close(Saliency()(torch.rand(1, 1, 9, 9)), torch.ones(1, 1, 9, 9), rtol=0, atol=0)
    with torch.no_grad():
        before = network.run_phase(image, "S", reference), network.run_phase(image, "I", reference)
        network.saliency.last.weight.normal_()
        after = network.run_phase(image, "S", reference), network.run_phase(image, "I", reference)
    torch.testing.assert_close(before[1].classes, before[0].classes, rtol=0, atol=0)
    torch.testing.assert_close(after[0].lesion, before[0].lesion, rtol=0, atol=0)
    assert not torch.allclose(after[1].lesion[-1], before[0].lesion[-1], atol=1e-3)


@pytest.mark.parametrize("phase", ["S", "I", "J"])
def test_the_second_stage_s_loss_reaches_the_first_in_i_and_j_only(phase: str) -> None:
    torch.manual_seed(0)
    network = small(window=32)
    image, reference = picture(10, 20, 30, 44), picture(10, 20, 30, 44).round()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)

    def gradients() -> list[float | None]:
        optimiser.zero_grad()
        lesion = network.run_phase(image, phase, reference).lesion
        sum(functional.softplus(m).mean() for m in lesion).backward()
        return [None if p.grad is None else p.grad.abs().sum().item() for p in network.organ_net.parameters()]

    first = gradients()
    optimiser.step()
    second = gradients()
    if phase == "S":
        assert set(first + second) == {None}
    else:
        # g starts with weights of 0, so the link opens with its first step
        assert set(first) == {0.0}
        assert all(value is not None and value > 0 for value in second)


def test_the_second_stage_can_start_from_the_first() -> None:
    network, image = small(), torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        assert not torch.allclose(network.lesion_net.backbone(image)[-1], network.organ_net.backbone(image)[-1])
        network.start_from_organ()
        for ours, theirs in zip(network.lesion_net.backbone(image), network.organ_net.backbone(image), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_maps_lie_on_the_image_and_in_the_box() -> None:
    torch.manual_seed(0)
    network = small(window=32).eval()
    network.organ_net = Bright()
    torch.nn.init.normal_(network.saliency.last.weight)
    image = picture(10, 20, 30, 44)
    with torch.no_grad():
        maps = network.attention_maps(image)
        probability = torch.sigmoid(20 * (image - 0.5))
        seen = network.cut(image * network.saliency(probability), torch.tensor([[7, 27, 23, 47]]))
        received = network.lesion_net.spatial_rows(seen).sum(1).reshape(1, 1, 2, 2)
        finest = network.lesion_net.evidence(seen)[-1]
        shown = [network.spatial_attention(image, place)[0, 0] for place in ((7, 27), (22, 43), (0, 69))]
        rows = network.lesion_net.spatial_rows(seen)[0].reshape(4, 1, 1, 2, 2)
    assert list(maps)[:3] == ["organ probability", "saliency g(P)", "spatial attention received"]
    assert list(maps)[3::2] == [f"false-positive evidence, step {i}" for i in (1, 2, 3, 4)]
    assert list(maps)[4::2] == [f"false-negative evidence, step {i}" for i in (1, 2, 3, 4)]
    assert {tuple(m.shape) for m in maps.values()} == {(1, 1, 50, 70)}
    torch.testing.assert_close(maps["organ probability"], probability)
    torch.testing.assert_close(maps["saliency g(P)"], network.saliency(probability))
    for kind, expected in zip(("positive", "negative"), finest, strict=True):
        found = maps[f"false-{kind} evidence, step 4"]
        torch.testing.assert_close(found[..., 7:23, 27:47], expected[..., :16, :20])
        assert found.sum() == pytest.approx(found[..., 7:23, 27:47].sum().item())
    whole = functional.interpolate(received, size=(32, 32), mode="bilinear")
    torch.testing.assert_close(maps["spatial attention received"][..., 7:23, 27:47], whole[..., :16, :20])
    # the corner of the box is the first of four places, column 16 of the window the second, and outside is the nearest
    for row, cell in zip(shown, (0, 1, 1), strict=True):
        expected = functional.interpolate(rows[cell], size=(32, 32), mode="bilinear")[0, 0, :16, :20]
        torch.testing.assert_close(row[7:23, 27:47], expected)


@pytest.mark.parametrize("stretch", [False, True])
def test_a_trace_follows_the_box_of_each_image(stretch: bool) -> None:
    torch.manual_seed(0)
    network = small(window=32, stretch=stretch).eval()
    network.organ_net = Bright()
    with torch.no_grad(), pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(network, picture(10, 20, 30, 44), check_trace=False)
    exported = torch.export.export(network, (picture(10, 20, 30, 44),)).module()
    with torch.no_grad():
        for image in (picture(30, 45, 5, 20), picture(2, 48, 1, 60), torch.zeros(1, 1, 50, 70)):
            torch.testing.assert_close(traced(image), network(image))
            torch.testing.assert_close(exported(image), network(image))


def test_onnx_follows_the_boxes_of_several_images() -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = small(window=32).eval()
    network.organ_net = Bright()
    file = io.BytesIO()
    names: dict[str, object] = {"input_names": ["image"], "output_names": ["maps"], "dynamic_axes": {"image": {0: "n"}}}
    torch.onnx.export(network, (picture(10, 20, 30, 44),), file, opset_version=17, dynamo=False, **names)
    images = torch.cat([picture(30, 45, 5, 20), picture(2, 48, 1, 60)])
    found = runtime.InferenceSession(file.getvalue()).run(None, {"image": images.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, network(images), atol=2e-3)


# ---- does it learn


def phantoms(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slices ``(n, 1, 96, 96)`` with one organ and one lesion in it, and six look-alikes outside; organ and lesion."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    images, organs, lesions = [], [], []
    for _ in range(number):
        long, short, angle = random.uniform(13, 17), random.uniform(7, 9), random.uniform(0, np.pi)
        cy, cx = random.uniform(22, 74, 2)
        along, across = (
            (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle),
            (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle),
        )
        organ = (along / long) ** 2 + (across / short) ** 2 <= 1
        radius, place, turn = random.uniform(2.5, 4.5), np.sqrt(random.uniform(0, 1)), random.uniform(0, 2 * np.pi)
        # within the ellipse shrunk by the radius
        dl, ds = place * (long - radius) * np.cos(turn), place * (short - radius) * np.sin(turn)
        ly, lx = cy + dl * np.sin(angle) + ds * np.cos(angle), cx + dl * np.cos(angle) - ds * np.sin(angle)
        lesion = (y - ly) ** 2 + (x - lx) ** 2 <= radius**2
        image = gaussian_filter(random.normal(0, 1.2, (96, 96)), 4) + 0.4
        image[organ] += 0.25
        made = 0
        while made < 6:
            r, (dy, dx) = random.uniform(2.5, 4.5), random.uniform(6, 90, 2)
            if (((y - dy) ** 2 + (x - dx) ** 2 <= (r + 5) ** 2) & organ).any():
                continue
            distance = np.hypot(y - dy, x - dx)
            image[(distance <= r + 3) & (distance > r)] += 0.25
            image[distance <= r] -= 0.1
            made += 1
        image[lesion] -= 0.35
        image += random.normal(0, _NOISE, image.shape)
        images.append(image)
        organs.append(organ)
        lesions.append(lesion & organ)
    return tuple(torch.from_numpy(np.stack(v).astype(np.float32))[:, None] for v in (images, organs, lesions))


class PlainUNet(torch.nn.Module):
    """Four levels of two convolutions each with batch normalisation, from 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 32, 64)
        self.down = torch.nn.ModuleList(self.level(i, w) for i, w in zip((1, *widths), widths, strict=False))
        self.ups = torch.nn.ModuleList(torch.nn.ConvTranspose2d(2 * w, w, 2, 2) for w in (32, 16, 8))
        self.up = torch.nn.ModuleList(self.level(2 * w, w) for w in (32, 16, 8))
        self.head = torch.nn.Conv2d(8, 1, 1)

    def level(self, inputs: int, width: int) -> torch.nn.Module:
        parts = [(torch.nn.Conv2d(c, width, 3, padding=1), torch.nn.BatchNorm2d(width)) for c in (inputs, width)]
        return torch.nn.Sequential(*parts[0], torch.nn.ReLU(), *parts[1], torch.nn.ReLU())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips = []
        for i, level in enumerate(self.down):
            image = level(functional.max_pool2d(image, 2) if i else image)
            skips.append(image)
        for skip, up, level in zip(skips[-2::-1], self.ups, self.up, strict=True):
            image = level(torch.cat([up(image), skip], 1))
        return self.head(image)


def segmentation_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    p = torch.sigmoid(logits)
    dice = (2 * (p * target).sum((1, 2, 3)) + 1) / ((p + target).sum((1, 2, 3)) + 1)
    return functional.binary_cross_entropy_with_logits(logits, target) + 1 - dice.mean()


def dice(found: torch.Tensor, target: torch.Tensor) -> float:
    found = (found > 0.5).float()
    return (2 * (found * target).sum((1, 2, 3)) / (found + target).sum((1, 2, 3))).mean().item()


def batches(steps: int, number: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randperm(number, generator=generator)[:8]


def trained(net: torch.nn.Module, cut: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> torch.nn.Module:
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for chosen in batches(_STEPS, 120, 1):
        optimiser.zero_grad()
        image, target = cut(chosen)
        segmentation_loss(net(image), target).backward()
        optimiser.step()
        schedule.step()
    return net.eval()


_STEPS = 1000
# chosen by the one-stage network alone, which it holds at a Dice of about 0.8
_NOISE = 0.17


@pytest.mark.slow
@pytest.mark.xfail(
    strict=True,
    reason="measured 0.798 against 0.806: specks of the plain organ network widen three boxes in ten, up to fourfold; "
    "cut by the true boxes the second stage reaches 0.915",
)
def test_cutting_by_the_predicted_organ_finds_more_of_the_lesion() -> None:
    """Plain U-Nets: one stage on the slice, against organ, box with a margin of 6, and lesion in a window of 48."""
    torch.manual_seed(0)
    image, organ, lesion = phantoms(120, 1)
    test_image, test_organ, test_lesion = phantoms(50, 2)

    def cut(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        boxes, _ = organ_box(organ[chosen], draw_margins(len(chosen), 6))
        return crop(image[chosen], boxes, (48, 48), True), crop(lesion[chosen], boxes, (48, 48), True)

    whole = trained(PlainUNet(), lambda chosen: (image[chosen], lesion[chosen]))
    first = trained(PlainUNet(), lambda chosen: (image[chosen], organ[chosen]))
    second = trained(PlainUNet(), cut)
    with torch.no_grad():
        one_stage = dice(torch.sigmoid(whole(test_image)), test_lesion)
        predicted = torch.sigmoid(first(test_image))
        boxes, found = organ_box(predicted, 6)
        inside = torch.sigmoid(second(crop(test_image, boxes, (48, 48), True)))
        cascade = dice(paste(inside, boxes, (96, 96), stretch=True), test_lesion)
    share = crop(test_lesion, boxes, (48, 48), True).mean().item()
    print(
        f"one stage {one_stage:.3f}, cascade {cascade:.3f}, organ {dice(predicted, test_organ):.3f}, "
        f"share {test_lesion.mean().item():.2%} and {share:.2%}, organ found in {found.sum()} of 50"
    )
    assert share > 5 * test_lesion.mean().item()
    assert cascade >= one_stage + 0.03


@pytest.mark.slow
def test_the_cascade_learns_through_its_phases() -> None:
    """Base 8, phases S, I and J in one go; against the plain U-Net on the whole slice, with as many steps."""
    torch.manual_seed(0)
    image, organ, lesion = phantoms(120, 1)
    test_image, test_organ, test_lesion = phantoms(50, 2)
    network = small(base=8, margin=6, window=48, stretch=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for step, chosen in enumerate(batches(_STEPS, 120, 1)):
        phase = "S" if step < 50 else "I" if step < 150 else "J"
        optimiser.zero_grad()
        outputs = network.run_phase(image[chosen], phase, organ[chosen], draw_margins(len(chosen), 6))
        target = network.cut(lesion[chosen], outputs.boxes)
        loss = segmentation_loss(outputs.organ, organ[chosen])
        for weight, logits in zip((1, 0.5, 1, 2, 4), outputs.lesion, strict=True):
            logits = functional.interpolate(logits, size=target.shape[2:], mode="bilinear")
            loss = loss + 0.9 * weight * segmentation_loss(logits, target)
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    whole = trained(PlainUNet(), lambda chosen: (image[chosen], lesion[chosen]))
    with torch.no_grad():
        probabilities = torch.softmax(network(test_image), 1)
        saliency = network.attention_maps(test_image)["saliency g(P)"]
        one_stage = dice(torch.sigmoid(whole(test_image)), test_lesion)
    cascade = dice(probabilities[:, 2:], test_lesion)
    in_organ = dice(probabilities[:, 1:].sum(1, keepdim=True), test_organ)
    print(f"one stage {one_stage:.3f}, cascade {cascade:.3f}, organ {in_organ:.3f}")
    print(f"g {saliency.min().item():.2f} to {saliency.max().item():.2f}")
    assert cascade >= one_stage + 0.03
