"""Losses of the heads beside the embedding: foreground, classes, boundaries.

Each is the mean over images of a mean over pixels that are not ignored, so that a batch may be divided. Logits come at
the network's stride and are enlarged to the labels.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.sample import IGNORE

_PIXELS = (1, 2)
RIM_WEIGHT = 3.0
"""Weight of the pixels of an object beside another label, where others weigh 1."""


def foreground_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice of `[B, 1, h, w]` logits against `[B, H, W]` labels (0 = background)."""
    logit = _enlarged(logit, label).squeeze(1)
    valid = (label != IGNORE).to(logit.dtype)
    target = (label > 0).to(logit.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none") * valid
    probability = logit.sigmoid() * valid
    overlap = 2 * (probability * target).sum(_PIXELS) + 1
    dice = 1 - overlap / (probability.sum(_PIXELS) + target.sum(_PIXELS) + 1)
    return (cross_entropy.sum(_PIXELS) / valid.sum(_PIXELS).clamp(min=1) + dice).mean()


def core_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of `[B, 1, h, w]` logits against the insides of the objects of `[B, H, W]` labels; the rims
    of objects, few and decisive for what touches, weigh more."""
    logit = _enlarged(logit, label).squeeze(1)
    inside = label_insides(label)
    valid = (label != IGNORE).to(logit.dtype)
    weight = valid * torch.where((label > 0) & ~inside, RIM_WEIGHT, 1.0)
    loss = F.binary_cross_entropy_with_logits(logit, inside.to(logit.dtype), reduction="none")
    return ((loss * weight).sum(_PIXELS) / valid.sum(_PIXELS).clamp(min=1)).mean()


def semantic_loss(logit: Tensor, semantic: Tensor) -> Tensor:
    """Cross-entropy of `[B, K, h, w]` logits against `[B, H, W]` classes."""
    loss = F.cross_entropy(_enlarged(logit, semantic), semantic, ignore_index=IGNORE, reduction="none")
    valid = (semantic != IGNORE).to(loss.dtype)
    return (loss.sum(_PIXELS) / valid.sum(_PIXELS).clamp(min=1)).mean()


def boundary_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Class-balanced binary cross-entropy of `[B, L, h, w]` logits against the boundaries of `[B, H, W]` labels, summed
    over the L maps: boundaries weigh as much as the rest of an image (Xie and Tu, Holistically-Nested Edge Detection,
    ICCV 2015)."""
    logit = _enlarged(logit, label)
    target = label_boundaries(label)
    counted = label != IGNORE
    total = counted.sum(_PIXELS, keepdim=True).clamp(min=1)
    share = (target & counted).sum(_PIXELS, keepdim=True) / total  # [B, 1, 1]
    weight = torch.where(target, 1 - share, share) * counted / total
    loss = F.binary_cross_entropy_with_logits(
        logit, target[:, None].to(logit.dtype).expand_as(logit), reduction="none"
    )
    return (loss * weight[:, None]).sum((1, 2, 3)).mean()


def label_insides(label: Tensor) -> Tensor:
    """`[B, H, W]` bool: pixels of objects with no other label within one pixel, diagonals counted, ignored ones not."""
    padded = F.pad(label, (1, 1, 1, 1), value=IGNORE)
    inside = label > 0
    for row, column in product(range(3), repeat=2):
        beside = padded[:, row : row + label.shape[1], column : column + label.shape[2]]
        inside = inside & ((beside == label) | (beside == IGNORE))
    return inside


def label_boundaries(label: Tensor) -> Tensor:
    """`[B, H, W]` bool: pixels with another label above, below or beside them, ignored pixels apart; two pixels
    wide."""
    boundary = torch.zeros_like(label, dtype=torch.bool)
    for axis in (1, 2):
        first = label.narrow(axis, 0, label.shape[axis] - 1)
        second = label.narrow(axis, 1, label.shape[axis] - 1)
        differs = (first != second) & (first != IGNORE) & (second != IGNORE)
        boundary.narrow(axis, 0, label.shape[axis] - 1).logical_or_(differs)
        boundary.narrow(axis, 1, label.shape[axis] - 1).logical_or_(differs)
    return boundary


def _enlarged(logit: Tensor, label: Tensor) -> Tensor:
    return F.interpolate(logit, size=label.shape[-2:], mode="bilinear", align_corners=False)
