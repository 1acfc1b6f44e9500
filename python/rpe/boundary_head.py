"""Boundaries from embeddings of few dimensions at several depths of a backbone, and from all of them together.

As in the authors' released boundary model (demo2_boundary_detection): at each depth an embedding on the unit sphere,
trained by the pairwise loss, and a classifier on top of it; one more classifier sees the embeddings of all depths. No
loss is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HIDDEN = 16
"""Width of a classifier's hidden layer: a boundary is a change in any direction of the embedding, which one linear
filter cannot see."""


class BoundaryHead(nn.Module):
    """Maps of L levels to embeddings and boundary logits at the resolution of the finest.

    Args:
        channels: widths of the levels, finest first.
        strides: of the levels, in cells of the finest one.
        dim: dimension D of the embedding of each level; 3 in the paper.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], dim: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.embed = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in channels)
        self.classify = nn.ModuleList(_classifier(dim) for _ in channels)
        self.fuse = _classifier(dim * len(channels))

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Levels `[B, C_l, h_l, w_l]`, finest first.

        Returns:
            float32 `[B, L * D, h, w]`, the embeddings one after the other, scaled to unit length together, and float32
            logits `[B, L + 1, h, w]`, one per level, then the fused one.
        """
        height, width = levels[0].shape[-2:]
        embeddings = []
        for embed, stride, level in zip(self.embed, self.strides, levels, strict=True):
            # By the stride, not to the size: the last cell of a coarse level may reach beyond the finest one.
            fine = F.interpolate(
                embed(level).float(), scale_factor=float(stride), mode="bilinear", align_corners=False
            )
            embeddings.append(F.normalize(fine[..., :height, :width], dim=1))
        logits = [classify(x).float() for classify, x in zip(self.classify, embeddings, strict=True)]
        together = torch.cat(embeddings, dim=1)
        logits.append(self.fuse(together).float())
        return together / len(embeddings) ** 0.5, torch.cat(logits, dim=1)


def _classifier(dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(dim, _HIDDEN, 3, padding=1, padding_mode="replicate"),
        nn.ReLU(inplace=True),
        nn.Conv2d(_HIDDEN, 1, 1),
    )
