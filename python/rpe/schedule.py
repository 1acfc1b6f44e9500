"""The learning rate over a run: a linear warm-up, then a cosine or a polynomial fall to zero.

A function of the step alone, so that resuming needs no state of it.
"""

from __future__ import annotations

import math

from .config import TrainingConfig


def rate_factor(step: int, config: TrainingConfig) -> float:
    """Learning rate at a step, 0 to `config.steps`, as a share of `config.learning_rate`.

    With p the share of the steps after the warm-up that are done: (1 + cos(pi p)) / 2 for "cosine", (1 - p)^power
    for "poly".
    """
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, config.steps - warm))
    if config.schedule == "poly":
        return float((1 - done) ** config.power)
    return 0.5 * (1 + math.cos(math.pi * done))
