"""The peer of the embedding: the same backbone with a head of three classes (background, inside, border), and
connected components of the inside, grown over the border.

`ThreeClassStep` is trained by `rpe.train` in place of `TrainingStep`: same views, optimiser, schedule and checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..build import build_backbone_of
from ..checkpoint import load_weights, read_checkpoint
from ..config import Config, DecodeConfig
from ..data import IGNORE
from ..decode import clean, grow
from ..losses import RIM_WEIGHT, foreground_loss, label_insides
from ..objective import Losses
from ..position import Origin
from ..preprocess import preprocess

BACKGROUND, INSIDE, BORDER = range(3)


class ThreeClass(nn.Module):
    """Images `[B, 3, H, W]` to class logits `[B, 3, H, W]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.backbone = build_backbone_of(config, in_channels=3)
        self.head = nn.Conv2d(cast(int, self.backbone.out_channels), 3, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        logit: Tensor = self.head(self.backbone(image)).float()
        return F.interpolate(logit, size=image.shape[-2:], mode="bilinear", align_corners=False)


class ThreeClassStep(nn.Module):
    """The peer's network and loss: cross-entropy of the classes, and the foreground loss that the embedding's network
    has too, on inside and border together.

    Args:
        config: the embedding's settings; its backbone is used.
        border_weight: weight of border pixels in the cross-entropy.
    """

    def __init__(self, config: Config, border_weight: float = RIM_WEIGHT) -> None:
        super().__init__()
        self.model = ThreeClass(config)
        self.register_buffer("weight", torch.tensor([1.0, 1.0, border_weight]), persistent=False)

    def forward(
        self,
        image: Tensor,
        label: Tensor,
        generator: torch.Generator,
        origin: Origin = (0, 0),
        semantic: Tensor | None = None,
    ) -> Losses:
        logit = self.model(image)
        weight: Tensor = self.weight  # type: ignore[assignment]
        per_pixel = F.cross_entropy(
            logit, classes(label), weight=weight, ignore_index=IGNORE, reduction="none"
        )
        valid = (label != IGNORE).sum((1, 2)).clamp(min=1)
        entropy = (per_pixel.sum((1, 2)) / valid).mean()
        objects = torch.logsumexp(logit[:, [INSIDE, BORDER]], dim=1, keepdim=True) - logit[:, :1]
        foreground = foreground_loss(objects, label)
        none = entropy.new_zeros(())
        return Losses(entropy + foreground, entropy[None], foreground, none, none)


def classes(label: Tensor) -> Tensor:
    """`[B, H, W]` class of each pixel: the border of an object is where another label is within one pixel."""
    objects = torch.where(label_insides(label), INSIDE, BORDER)
    return torch.where(label > 0, objects, label.clamp(max=BACKGROUND))


class ThreeClassPredictor:
    """A trained peer.

    Args:
        checkpoint: model.pt of its run.
    """

    def __init__(self, checkpoint: Path) -> None:
        content = read_checkpoint(checkpoint)
        self.config: Config = content["config"]
        self.model = ThreeClass(self.config).eval()
        load_weights(self.model, content["model"], str(checkpoint))

    @torch.no_grad()
    def probabilities(self, image: Tensor) -> NDArray[np.float32]:
        """Class probabilities `[3, H, W]` of an image `[3, H, W]`."""
        logit = self.model(preprocess(image, self.config.model)[None])
        return logit.softmax(1)[0].numpy()


def decode(probability: NDArray[np.float32], rules: DecodeConfig) -> NDArray[np.int32]:
    """Objects `[H, W]`, 0 = background, from class probabilities `[3, H, W]`: components of the inside, which grow over
    the rest of what belongs to an object and are cleaned as those of the embedding are."""
    objects = 1 - probability[BACKGROUND]
    cores = (objects > rules.foreground_threshold) & (probability[INSIDE] > (rules.core_threshold or 0.0))
    return clean(grow(cores.astype(np.int64), objects, rules), rules)[0]
