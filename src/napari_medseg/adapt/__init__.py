"""Fit models to labels: splits by group, augmentation, losses and the training loop."""
