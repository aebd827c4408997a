"""Losses of networks that give an image or features back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

Discriminator = Callable[[torch.Tensor], torch.Tensor]


class AdversarialReconstruction:
    """``pixels * mean|output - image| + adversarial * BCE(D(image, output), real)`` (Zoetmulder et al., 2022).

    Parameters
    ----------
    discriminator
        Network from ``(n, 2 c, *spatial)``, the image and what was made of it, to logits of being real. The absolute
        difference alone without. It collects gradients too, so clear them before its own step.
    pixels, adversarial
        Weights of the two parts.
    """

    def __init__(
        self, discriminator: Discriminator | None = None, pixels: float = 0.996, adversarial: float = 0.004
    ) -> None:
        self.discriminator, self.pixels, self.adversarial = discriminator, pixels, adversarial

    def __call__(self, output: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Loss of an image ``(n, c, *spatial)`` that was given back against the true one."""
        difference = l1_loss(output, image)
        if self.discriminator is None:
            return difference
        judged = self.discriminator(torch.cat([image, output], 1))
        deceived = binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        return self.pixels * difference + self.adversarial * deceived


def discriminator_loss(
    discriminator: Discriminator, output: torch.Tensor, image: torch.Tensor, real: float = 0.9
) -> torch.Tensor:
    """Mean of the discriminator's binary cross-entropies on true and on made images; `real` is the true ones' label."""
    true = discriminator(torch.cat([image, image], 1))
    made = discriminator(torch.cat([image, output.detach()], 1))
    return 0.5 * (
        binary_cross_entropy_with_logits(true, torch.full_like(true, real))
        + binary_cross_entropy_with_logits(made, torch.zeros_like(made))
    )


class ContextualReconstruction:
    """``weight * mean((rebuilt - features)^2)`` of masked features (Wen et al., 2023).

    Parameters
    ----------
    weight
        lambda.
    detach_target
        Whether the features are taken as given. Literally they are not, and the gradient goes into both.
    """

    def __init__(self, weight: float = 1.0, detach_target: bool = False) -> None:
        self.weight, self.detach_target = weight, detach_target

    def __call__(self, rebuilt: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Loss of rebuilt features against the features, of one shape."""
        if rebuilt.shape != features.shape:
            raise ValueError(f"rebuilt features {tuple(rebuilt.shape)} do not fit {tuple(features.shape)}")
        wanted = features.detach() if self.detach_target else features
        return self.weight * (rebuilt - wanted).square().mean()
