"""What happens to an image before the network sees it, in training and in prediction alike, as the config
says.

Deterministic and without parameters; random changes of training views are `views.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .config import ModelConfig

_LOW, _HIGH = 0.01, 0.998
"""Percentiles mapped to 0 and 1; the upper one is high because small bright objects are what matters."""
_MOST_SAMPLES = 1 << 20
"""Values that percentiles are computed from at most."""


@dataclass(frozen=True)
class Stretch:
    """What preprocessing does to every pixel of one image: measured on the whole of it, applied to any part."""

    low: float = 0.0
    high: float = 1.0
    clamp: bool = False
    """Stretch from low to high, and cut off what lies outside."""
    invert: bool = False

    @classmethod
    def of(cls, image: Tensor, config: ModelConfig) -> Stretch:
        """Measure an image `[3, H, W]` of floats in 0..1 as `config.normalize` and `config.invert_bright` say."""
        stretch = cls()
        if image.numel() == 0 or not (config.normalize == "percentile" or config.invert_bright):
            return stretch
        low, middle, high = _quantiles(image, (_LOW, 0.5, _HIGH))
        if config.normalize == "percentile":
            stretch = cls(low, max(high, low + 1e-6), clamp=True)
            middle = (middle - stretch.low) / (stretch.high - stretch.low)
        return replace(stretch, invert=config.invert_bright and middle > 0.5)

    def __call__(self, part: Tensor) -> Tensor:
        """`[3, h, w]` of the image, normalised."""
        if self.clamp:
            part = ((part - self.low) / (self.high - self.low)).clamp(0, 1)
        return 1 - part if self.invert else part


def preprocess(image: Tensor, config: ModelConfig) -> Tensor:
    """`[3, H, W]` floats in 0..1 to the same, normalised as `config` says."""
    return Stretch.of(image, config)(image)


def _quantiles(image: Tensor, levels: tuple[float, ...]) -> list[float]:
    values = image.reshape(-1)
    values = values[:: -(-values.numel() // _MOST_SAMPLES)]
    found = torch.quantile(values, torch.tensor(levels, dtype=values.dtype, device=values.device))
    return [float(level) for level in found]
