"""Losses of reconstruction, the pull towards a start, and class weights, against hand calculation."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from napari_medseg.adapt.losses import (
    AdversarialReconstruction,
    ContextualReconstruction,
    CrossEntropy,
    Proximal,
    discriminator_loss,
    foreground_balance,
    median_frequency_weights,
)
from napari_medseg.case import InputError

# --- reconstruction


def test_autoencoder_loss_by_hand():
    # L1 is 0.5; a discriminator whose -log sigmoid is 2.0
    judged = -math.log(math.e**2 - 1)
    image, output = torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.5)
    seen = []

    def discriminator(pair):
        seen.append(pair)
        return torch.full((2, 1, 3, 3), judged)

    assert AdversarialReconstruction(discriminator)(output, image).item() == pytest.approx(0.506, abs=1e-6)
    assert seen[0].shape == (2, 2, 8, 8)
    assert AdversarialReconstruction()(output, image).item() == 0.5


def test_the_discriminator_learns_and_leaves_the_generator_alone():
    network = torch.nn.Conv2d(2, 1, 1)
    image, output = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4, requires_grad=True)
    loss = discriminator_loss(network, output, image)
    loss.backward()
    assert output.grad is None
    assert network.weight.grad.abs().max() > 0
    true, made = (network(torch.cat([image, x], 1)) for x in (image, output))
    bce = binary_cross_entropy_with_logits
    assert loss.item() == pytest.approx(
        0.5 * (bce(true, torch.full_like(true, 0.9)) + bce(made, torch.zeros_like(made))).item()
    )


def test_contextual_reconstruction_by_hand():
    # features [[1, 3], [2, 4]] behind the gate (0.5, 0.75)
    features = torch.tensor([[1.0, 3.0], [2.0, 4.0]]).view(1, 2, 2).requires_grad_()
    rebuilt = features * torch.tensor([0.5, 0.75])
    assert ContextualReconstruction()(rebuilt, features).item() == pytest.approx(0.703125)
    assert ContextualReconstruction(weight=2.0)(rebuilt, features).item() == pytest.approx(1.40625)
    free = torch.zeros(1, 2, 2, requires_grad=True)
    ContextualReconstruction(detach_target=True)(free, features).backward()
    assert features.grad is None and free.grad.abs().max() > 0
    ContextualReconstruction()(free, features).backward()
    assert features.grad.abs().max() > 0


# --- proximal


class Scalar(torch.nn.Module):
    """One weight and a running statistic."""

    def __init__(self, value=0.0):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(5.0))


def minimise(curvature, optimum, start, mu):
    """What local training on f(w) = h/2 (w - a)^2 with the pull ends at."""
    network = Scalar(start)
    loss = Proximal(lambda w, a: curvature / 2 * (w - a) ** 2, network, mu)
    optimiser = torch.optim.SGD(network.parameters(), lr=1 / (curvature + mu + 1))
    for _ in range(400):
        optimiser.zero_grad()
        loss(network.w, torch.tensor(optimum)).backward()
        optimiser.step()
    return network.w.item()


def test_proximal_minimiser_in_closed_form():
    # (h a + mu w0) / (h + mu) = 10 / 2
    assert minimise(1.0, 10.0, 0.0, 1.0) == pytest.approx(5, abs=1e-4)
    assert minimise(1.0, 10.0, 0.0, 0.0) == pytest.approx(10, abs=1e-4)


@pytest.mark.parametrize("mu, fixed", [(0.0, 5.0), (0.1, 5.213), (1.0, 6.452), (10.0, 8.462)])
def test_fixed_points_of_two_clients(mu, fixed):
    # f1 = w^2 / 2, f2 = 5 (w - 10)^2; a round that starts at the fixed point ends there
    ends = [minimise(h, a, fixed, mu) for h, a in ((1.0, 0.0), (10.0, 10.0))]
    assert sum(ends) / 2 == pytest.approx(fixed, abs=1e-3)


def test_the_pull_is_mu_times_the_drift_and_knows_only_trained_parameters():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    network[0].bias.requires_grad_(False)
    anchor = {name: w.detach() + 1 for name, w in network.named_parameters()}
    loss = Proximal(lambda logits, target: (logits * 0).sum(), network, mu=0.5, anchor=anchor, sparsity=0.0)
    network[0].bias.data += 7
    network[1].running_mean += 9
    # 2 weights of the convolution, 2 + 2 of the norm, each one away
    assert loss.drift() == pytest.approx(math.sqrt(6))
    value = loss(network(torch.ones(2, 1, 4, 4)), None)
    assert value.item() == pytest.approx(0.5 * 0.5 * 6)
    value.backward()
    torch.testing.assert_close(network[0].weight.grad, torch.full_like(network[0].weight, -0.5))
    with pytest.raises(ValueError, match=r"lack 1\.weight"):
        Proximal(CrossEntropy(), network, anchor={"0.weight": anchor["0.weight"]})


def test_the_anchor_is_where_training_starts():
    network = Scalar(1.0)
    loss = Proximal(lambda w, a: w * 0, network, mu=2.0)
    network.w.data.fill_(3.0)
    assert loss(network.w, None).item() == 0
    network.w.data.fill_(4.0)
    assert loss(network.w, None).item() == pytest.approx(1.0)
    sparse = Proximal(lambda w, a: w * 0, network, mu=0.0, sparsity=0.25)
    assert sparse(network.w, None).item() == pytest.approx(1.0)


# --- weights


def test_median_frequency_weights_by_hand():
    first = np.array([0] * 9 + [1])
    second = np.zeros(10, int)
    weights = median_frequency_weights(iter([first, second]), 2)
    assert weights.tolist() == pytest.approx([0.525 / 0.95, 5.25])
    assert weights == pytest.approx([0.5526, 5.25], abs=5e-5)
    assert median_frequency_weights([first, second], 2, (0.1, 2.0))[1] == 2.0
    with pytest.raises(InputError, match="class 2 is in none of the labelled images"):
        median_frequency_weights([first], 3)
    with pytest.raises(InputError, match="holds class 7; the classes are 0 to 1"):
        median_frequency_weights([np.array([0, 1, 7])], 2)


def test_foreground_balance_by_hand():
    assert foreground_balance([np.array([0, 0, 0, 1]), np.array([2, 0, 0, 0])]) == 0.75
    with pytest.raises(InputError, match="both foreground and background"):
        foreground_balance([np.zeros(4)])
