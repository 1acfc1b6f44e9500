"""The training objective: pairwise loss on the embedding and after every grouping step, plus the foreground
loss.

It composes `rpe_ops.pairwise_loss`, `RecurrentGrouping` and `windows.pack`; it computes no pair itself and
knows no optimiser. Every loss of a batch is the mean of its images' losses, so that a batch may be divided among
processes and accumulated parts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rpe_ops

from .config import ObjectiveConfig
from .grouping import RecurrentGrouping
from .model import Output
from .sampling import sample_balanced
from .windows import Packed, pack, random_origin

IGNORE = -1
"""Label of pixels that take part in nothing (padding)."""


class Losses(NamedTuple):
    """What one step minimises, and its parts for the log."""

    total: Tensor
    """0-d: embedding + foreground_weight * foreground."""
    steps: Tensor
    """`[num_steps + 1]` pairwise loss of the embedding and after each step, each entering with weight 1."""
    foreground: Tensor
    """0-d, 0 where the model has no foreground head."""


class Objective(nn.Module):
    """Loss of a batch.

    Args:
        config: margins, weights and windows.
        backend: `rpe_ops` backend.
    """

    def __init__(self, config: ObjectiveConfig, backend: str = "auto") -> None:
        super().__init__()
        self.config, self.backend = config, backend

    def forward(
        self, output: Output, label: Tensor, grouping: RecurrentGrouping, generator: torch.Generator
    ) -> Losses:
        """Compare one forward pass with label maps: the mean over images of the mean over their windows.

        Args:
            output: of the model, at stride s.
            label: `[B, H, W]` int64, 0 = background, -1 = ignored.
            grouping: the recurrent grouping whose every step is supervised.
            generator: CPU generator for the window grid and the sampling.
        """
        stride = _stride(output.embedding, label)
        packed, packed_label = self.pack_points(label[:, ::stride, ::stride], generator)
        image = packed.images(output.embedding[0, 0].numel())
        share = (len(label) * torch.bincount(image, minlength=len(label))[image]).reciprocal()  # [W]
        steps = []
        for points in grouping(packed.rows(output.embedding), packed.offsets):
            loss = rpe_ops.pairwise_loss(
                points,
                packed_label,
                margin=self.config.margin,
                weight=self.config.weight,
                normalizer=self.config.normalizer,
                reduction="none",
                offsets=packed.offsets,
                backend=self.backend,
            )
            steps.append((loss * share).sum())
        losses = torch.stack(steps)
        foreground = losses.new_zeros(())
        if output.foreground is not None:
            foreground = foreground_loss(output.foreground, label)
        return Losses(losses.sum() + self.config.foreground_weight * foreground, losses, foreground)

    def pack_points(self, label: Tensor, generator: torch.Generator) -> tuple[Packed, Tensor]:
        """The points of `[B, h, w]` labels that enter the pairwise loss, with their labels `[T]`."""
        mask = label != IGNORE
        if self.config.background == "ignore":
            mask &= label != 0
        window = self.config.window
        packed = pack(mask, window, random_origin(window, generator))
        packed_label = packed.values(label)
        if self.config.max_points > 0:
            # One number per place, the same in every image: what is drawn does not depend on the rest of the batch.
            place = torch.rand(label[0].numel(), generator=generator).to(label.device)
            priority = place[packed.cell % len(place)]
            keep = sample_balanced(packed_label, packed.offsets, self.config.max_points, priority)
            packed, packed_label = packed.select(keep), packed_label[keep]
        return packed, packed_label


def foreground_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice of `[B, 1, h, w]` logits, upsampled to `[B, H, W]` labels: the mean over
    images; ignored pixels are left out."""
    logit = F.interpolate(logit, size=label.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)
    valid = (label != IGNORE).to(logit.dtype)
    target = (label > 0).to(logit.dtype)
    pixels = (1, 2)
    cross_entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none") * valid
    probability = logit.sigmoid() * valid
    overlap = 2 * (probability * target).sum(pixels) + 1
    dice = 1 - overlap / (probability.sum(pixels) + target.sum(pixels) + 1)
    return (cross_entropy.sum(pixels) / valid.sum(pixels).clamp(min=1) + dice).mean()


def _stride(embedding: Tensor, label: Tensor) -> int:
    """Pixels per cell, from the two sizes."""
    height, width = embedding.shape[-2:]
    for stride in range(1, label.shape[-1] + 1):
        if -(-label.shape[-2] // stride) == height and -(-label.shape[-1] // stride) == width:
            return stride
    raise ValueError(
        f"Objective: embedding {list(embedding.shape)} does not cover label {list(label.shape)} at any stride; "
        "the backbone must return ceil(H / stride) x ceil(W / stride) cells"
    )
