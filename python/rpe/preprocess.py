"""What happens to an image before the network sees it, in training and in prediction alike, as the config
says.

Deterministic and without parameters; random changes of training views are `views.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .config import ModelConfig

_LOW, _HIGH = 0.01, 0.998
"""Percentiles mapped to 0 and 1; the upper one is high because small bright objects are what matters."""
_MOST_SAMPLES = 1 << 20
"""Values that percentiles are computed from at most."""


def preprocess(image: Tensor, config: ModelConfig) -> Tensor:
    """`[3, H, W]` floats in 0..1 to the same, normalised as `config.normalize` and `config.invert_bright` say."""
    if image.numel() == 0:
        return image
    if config.normalize == "percentile":
        low, high = _quantiles(image, (_LOW, _HIGH))
        image = ((image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    if config.invert_bright and float(_quantiles(image, (0.5,))[0]) > 0.5:
        image = 1 - image
    return image


def _quantiles(image: Tensor, levels: tuple[float, ...]) -> Tensor:
    values = image.reshape(-1)
    values = values[:: -(-values.numel() // _MOST_SAMPLES)]
    return torch.quantile(values, torch.tensor(levels, dtype=values.dtype, device=values.device))
