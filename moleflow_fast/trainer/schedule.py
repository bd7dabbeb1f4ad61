"""Learning rate per epoch: cosine for the first task, warm-up and cosine for later ones."""

from __future__ import annotations

import math

WARMUP_EPOCHS = 2


def cosine_rate(position: int, epochs: int, lr: float) -> float:
    """torch's CosineAnnealingLR(T_max=epochs, eta_min=lr / 100) after `position` steps."""
    floor = lr / 100
    return floor + (lr - floor) * (1 + math.cos(math.pi * position / epochs)) / 2


def warmup_cosine_rate(epoch: int, epochs: int, lr: float) -> float:
    """lr/2, lr, and from epoch 2 the cosine from its position 0, so that its floor is not reached."""
    if epoch < WARMUP_EPOCHS:
        return lr * (epoch + 1) / WARMUP_EPOCHS
    return cosine_rate(epoch - WARMUP_EPOCHS, epochs, lr)
