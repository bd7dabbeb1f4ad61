"""Seeds and learning rates of scripts for the published package."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch


def init_seeds(seed: int = 0) -> None:
    """Seed Python, NumPy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def setting_lr_parameters(args: Any) -> None:
    """Set what the published function sets on `args`; no training reads it: `train_task(lr=, num_epochs=)` decides.

    `scaled_lr_decay_epochs`: `lr_decay_epochs` as percentages of `meta_epochs`. With `lr_warm` also `lr_warmup_from`, a
    tenth of `lr`, and `lr_warmup_to`: with `lr_cosine` what a cosine from `lr` to `lr * lr_decay_rate**3` has come to
    after `lr_warm_epochs` of `meta_epochs`, else `lr`.
    """
    args.scaled_lr_decay_epochs = [percent * args.meta_epochs // 100 for percent in args.lr_decay_epochs]
    if not args.lr_warm:
        return
    args.lr_warmup_from, args.lr_warmup_to = args.lr / 10, args.lr
    if args.lr_cosine:
        least = args.lr * args.lr_decay_rate**3
        fallen = (1 + math.cos(math.pi * args.lr_warm_epochs / args.meta_epochs)) / 2
        args.lr_warmup_to = least + (args.lr - least) * fallen
