"""The cascaded atrous ResNet-101: the paper's table, its stages, and adapting it to a second centre."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from napari_medseg.networks.cascaded_atrous_resnet import (
    TORCHVISION_STAGES,
    CascadedAtrousResNet,
    CascadedAtrousResNetParameters,
)
from napari_medseg.networks.transfer import transfer_weights

NARROW = {"blocks": (1, 1, 2), "width": 8, "cascade": (4,)}
LOCKED = ("conv1", "conv2", "conv3", "conv4")


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def lock(network: CascadedAtrousResNet) -> list[torch.nn.Parameter]:
    """Conv1 to Conv4 stay as they are, statistics included; what is left to train."""
    network.train()
    for name in LOCKED:
        network.get_submodule(name).eval().requires_grad_(False)
    return [p for p in network.parameters() if p.requires_grad]


@pytest.fixture(scope="module")
def full() -> CascadedAtrousResNet:
    torch.manual_seed(0)
    return CascadedAtrousResNet(**CascadedAtrousResNetParameters().arguments()).eval()


def test_the_paper_s_numbers_of_parameters(full: CascadedAtrousResNet) -> None:
    assert count(full) == 42_608_584
    assert count(full.conv5) == 14_964_736
    assert count(full.head) == 114_696
    assert sum(count(full.get_submodule(name)) for name in LOCKED) == 27_529_152
    assert [name for name, child in full.named_children() if count(child)] == list(full.STAGES)
    assert sum(p.numel() for p in lock(copy.deepcopy(full))) == 15_079_432
    assert count(CascadedAtrousResNet(norm="group")) == 42_608_584


def test_convolutions_of_the_table(full: CascadedAtrousResNet) -> None:
    found = [m for m in full.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(found) == 108  # 104 and four projections
    for stage, dilations in (("conv2", [1] * 3), ("conv3", [1] * 4), ("conv4", [2] * 23), ("conv5", [4, 8, 16])):
        assert [block.conv2.dilation[0] for block in full.get_submodule(stage)] == dilations
        strides = [block.conv2.stride[0] for block in full.get_submodule(stage)]
        assert strides == [2 if stage == "conv3" else 1] + [1] * (len(dilations) - 1)
    assert [ring.dilation[0] for ring in full.head.rings] == [6, 12, 18]


def test_every_row_of_the_table() -> None:
    # the table's strides and blocks at an eighth of its widths
    network = CascadedAtrousResNet(width=8).eval()
    seen: dict[str, tuple[int, ...]] = {}
    for name, child in network.named_children():
        child.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, tuple(out.shape[1:])))
    with torch.no_grad():
        assert network(torch.rand(1, 1, 417, 417)).shape == (1, 2, 417, 417)
    assert seen == {
        "conv1": (8, 209, 209),
        "pool": (8, 105, 105),
        "conv2": (32, 105, 105),
        "conv3": (64, 53, 53),
        "conv4": (128, 53, 53),
        "conv5": (256, 53, 53),
        "head": (2, 53, 53),
    }


@pytest.mark.slow
def test_every_row_of_the_table_at_full_width(full: CascadedAtrousResNet) -> None:
    seen: dict[str, tuple[int, ...]] = {}
    hooks = [
        child.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, tuple(out.shape[1:])))
        for name, child in full.named_children()
    ]
    with torch.no_grad():
        assert full(torch.rand(1, 1, 417, 417)).shape == (1, 2, 417, 417)
    for hook in hooks:
        hook.remove()
    assert list(seen.values()) == [
        (64, 209, 209),
        (64, 105, 105),
        (256, 105, 105),
        (512, 53, 53),
        (1024, 53, 53),
        (2048, 53, 53),
        (2, 53, 53),
    ]


def test_two_different_images_of_321_are_decided_on_41_each_by_itself() -> None:
    torch.manual_seed(0)
    network = CascadedAtrousResNet(**NARROW).eval()
    pair = torch.rand(2, 1, 321, 321)
    with torch.no_grad():
        assert network.grid_logits(pair).shape == (2, 2, 41, 41)
        both = network(pair)
        assert both.shape == (2, 2, 321, 321)
        torch.testing.assert_close(both[1:], network(pair[1:]))
    assert (both[0] - both[1]).abs().mean() > 1e-3


@pytest.mark.parametrize("h, w", [(41, 49), (48, 50), (64, 57), (9, 16)])
def test_grid_points_lie_on_their_pixels_whatever_the_size(h: int, w: int) -> None:
    torch.manual_seed(0)
    network = CascadedAtrousResNet(**NARROW).eval()
    image = torch.rand(1, 1, h, w)
    with torch.no_grad():
        maps, grid = network(image), network.grid_logits(functional.pad(image, (0, -(w - 1) % 8, 0, -(h - 1) % 8)))
    assert maps.shape == (1, 2, h, w)
    rows, columns = (h - 1) // 8 + 1, (w - 1) // 8 + 1
    torch.testing.assert_close(maps[..., ::8, ::8], grid[..., :rows, :columns], atol=1e-5, rtol=1e-4)


def test_the_head_is_a_sum_of_its_classifiers() -> None:
    torch.manual_seed(0)
    head = CascadedAtrousResNet(**NARROW).head
    features = torch.rand(1, 256, 41, 41)
    single = functional.conv2d(features, head.point.weight, head.point.bias)
    for ring, dilation in zip(head.rings, (6, 12, 18), strict=True):
        single = single + functional.conv2d(features, ring.weight, ring.bias, padding=dilation, dilation=dilation)
    torch.testing.assert_close(head(features), single)


def test_three_steps_change_conv5_and_the_head_and_nothing_else() -> None:
    torch.manual_seed(0)
    network = CascadedAtrousResNet(**NARROW)
    before = copy.deepcopy(network.state_dict())
    optimiser = torch.optim.SGD(lock(network), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        optimiser.zero_grad()
        functional.cross_entropy(network(torch.rand(2, 1, 33, 33)), torch.randint(0, 2, (2, 33, 33))).backward()
        optimiser.step()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith(LOCKED), name
    assert all(p.grad is None for name, p in network.named_parameters() if name.startswith(LOCKED))


def test_group_normalisation_sees_each_image_by_itself_in_training() -> None:
    torch.manual_seed(0)
    network = CascadedAtrousResNet(**NARROW, norm="group").train()
    pair = torch.rand(2, 1, 33, 33)
    torch.testing.assert_close(network(pair)[:1], network(pair[:1]))
    assert not list(network.buffers())


def test_takes_over_a_resnet_with_the_usual_names() -> None:
    from monai.networks.nets import ResNet

    usual = ResNet(
        block="bottleneck",
        layers=[1, 1, 2, 1],
        block_inplanes=[8, 16, 32, 64],
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    )
    network = CascadedAtrousResNet(**NARROW)
    moved = transfer_weights(
        usual.state_dict(),
        network.state_dict(),
        network.STAGES[:5],
        renames=TORCHVISION_STAGES,
        image_layer=network.IMAGE_LAYER,
    )
    network.load_state_dict(moved.weights)
    assert torch.equal(network.conv4[1].conv2.weight, usual.layer3[1].conv2.weight)
    assert moved.converted == ("conv1.0.weight",)
    assert all(name.startswith("head.") for name in moved.kept)
    # without dilation in the way the two are the same network up to Conv3
    grey = torch.rand(1, 1, 65, 65)
    usual.eval(), network.eval()
    with torch.no_grad():
        theirs = usual.layer2(usual.layer1(usual.maxpool(usual.act(usual.bn1(usual.conv1(grey.expand(1, 3, 65, 65)))))))
        torch.testing.assert_close(network.conv3(network.conv2(network.pool(network.conv1(grey)))), theirs)


def test_parameters_out_of_range_are_refused() -> None:
    for wrong in ({"blocks": (0, 1, 1)}, {"cascade": ()}, {"pyramid": (0,)}, {"width": 6}, {"norm": "layer"}):
        with pytest.raises(ValidationError):
            CascadedAtrousResNetParameters(**wrong)


def test_traces_and_keeps_its_result() -> None:
    torch.manual_seed(0)
    network = CascadedAtrousResNet(**NARROW).eval()
    image, another = torch.rand(2, 1, 1, 48, 48)
    with torch.no_grad():
        # the two differ by far more than the comparison's tolerance
        assert (network(image) - network(another)).abs().mean() > 1e-3
        torch.testing.assert_close(torch.jit.trace(network, image)(another), network(another))


# --- adapting to a second centre: phantoms of an organ, each centre with its own contouring habit ---------------------


def centre(seed: int, number: int, local: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """`number` slices 48 x 48 and their outlines; the `local` centre outlines the core only, with less contrast."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48]
    images, outlines = [], []
    for _ in range(number):
        cy, cx = rng.uniform(16, 32, 2)
        a, b, turn = *rng.uniform(7, 12, 2), rng.uniform(0, np.pi)
        along, across = (
            (y - cy) * np.cos(turn) + (x - cx) * np.sin(turn),
            (x - cx) * np.cos(turn) - (y - cy) * np.sin(turn),
        )
        radius = np.hypot(along / a, across / b)
        body = np.hypot(y - 23.5, x - 23.5) < 23
        contrast, noise = (0.14, 0.12) if local else (0.25, 0.06)
        image = 0.35 * body + contrast * (radius < 1) + 0.5 * contrast * (radius < 0.65)
        # another organ of the same brightness elsewhere
        oy, ox = (cy + 24) % 48, (cx + 24) % 48
        image = image + contrast * (np.hypot(y - oy, x - ox) < 4)
        images.append(image + rng.normal(0, noise, (48, 48)))
        outlines.append(radius < (0.65 if local else 1))
    return torch.tensor(np.array(images)[:, None], dtype=torch.float32), torch.tensor(np.array(outlines)).long()


def train(
    network: CascadedAtrousResNet, data: tuple[torch.Tensor, torch.Tensor], steps: int, rate: float, seed: int
) -> None:
    """Dice and cross-entropy, poly rate, as the specification says for fine-tuning."""
    chosen = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(chosen, lr=rate, weight_decay=5e-4)
    poly = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, power=0.9)
    order = torch.Generator().manual_seed(seed)
    images, outlines = data
    for _ in range(steps):
        picked = torch.randint(len(images), (8,), generator=order)
        logits, wanted = network(images[picked]), outlines[picked]
        organ = logits.softmax(1)[:, 1]
        overlap = (2 * (organ * wanted).sum() + 1) / (organ.sum() + wanted.sum() + 1)
        optimiser.zero_grad()
        (functional.cross_entropy(logits, wanted) + 1 - overlap).backward()
        optimiser.step()
        poly.step()


def dice(network: CascadedAtrousResNet, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    with torch.no_grad():
        found = network.eval()(data[0]).argmax(1)
    overlap = (found & data[1]).sum((1, 2))
    return float((2 * overlap / (found.sum((1, 2)) + data[1].sum((1, 2)))).mean())


SMALL = {"blocks": (1, 1, 2), "width": 16, "cascade": (2,), "pyramid": (1, 2, 3), "norm": "group"}


def source_model(seed: int) -> CascadedAtrousResNet:
    torch.manual_seed(seed)
    network = CascadedAtrousResNet(**SMALL)
    train(network, centre(1000 + seed, 200, local=False), 300, 2e-3, seed)
    return network


def adapted(source: CascadedAtrousResNet, data: tuple[torch.Tensor, torch.Tensor], seed: int) -> CascadedAtrousResNet:
    network = copy.deepcopy(source)
    lock(network)
    train(network, data, 150, 2e-3, seed)
    return network


def scratch(data: tuple[torch.Tensor, torch.Tensor], seed: int) -> CascadedAtrousResNet:
    torch.manual_seed(100 + seed)
    network = CascadedAtrousResNet(**SMALL)
    train(network, data, 150, 2e-3, seed)
    return network


@pytest.mark.slow
def test_adapting_the_last_layers_beats_the_source_and_a_fresh_start() -> None:
    held_out = centre(9, 60, local=True)
    scores = {"S": [], "T": [], "ST": []}
    for seed in range(3):
        source, few = source_model(seed), centre(2000 + seed, 5, local=True)
        scores["S"].append(dice(source, held_out))
        scores["T"].append(dice(scratch(few, seed), held_out))
        scores["ST"].append(dice(adapted(source, few, seed), held_out))
    print({name: [round(v, 3) for v in values] for name, values in scores.items()})
    mean = {name: np.mean(values) for name, values in scores.items()}
    assert mean["ST"] > mean["T"] + 0.03
    assert mean["ST"] > mean["S"] + 0.10


@pytest.mark.slow
def test_the_gain_shrinks_with_more_local_images() -> None:
    held_out = centre(9, 60, local=True)
    sources = [source_model(seed) for seed in range(3)]
    gains = {}
    for number in (2, 5, 10, 20):
        pairs = []
        for seed, source in enumerate(sources):
            few = centre(2000 + seed, number, local=True)
            pairs.append((dice(adapted(source, few, seed), held_out), dice(scratch(few, seed), held_out)))
        st, t = np.mean(pairs, axis=0)
        print(f"{number} images: adapted {st:.3f}, fresh {t:.3f}")
        gains[number] = st - t
    assert min(gains.values()) >= 0
    assert gains[20] < gains[2]


@pytest.mark.slow
def test_a_step_with_locked_stages_asks_for_no_gradient_below_conv5() -> None:
    """The time saved is printed, and judged by what is computed: a busy machine makes timings worthless."""
    image, wanted = torch.rand(4, 1, 129, 129), torch.randint(0, 2, (4, 129, 129))
    seconds = {}
    for name in ("all", "locked"):
        torch.manual_seed(0)
        network = CascadedAtrousResNet(width=16)
        if name == "locked":
            lock(network)
        runs = []
        for _ in range(4):
            start = time.process_time()
            functional.cross_entropy(network(image), wanted).backward()
            runs.append(time.process_time() - start)
        seconds[name] = min(runs)
        assert (network.conv4[0].conv1.weight.grad is None) == (name == "locked")
        assert network.conv5[0].conv1.weight.grad is not None
    print(f"a locked step takes {seconds['locked'] / seconds['all']:.2f} of a full one")
