"""Building pieces that the backbones share: normalised convolutions and size-exact upsampling. No backbone
lives here."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def norm_layer(kind: str, channels: int) -> nn.Module:
    """`"batch"` or `"group"` (8 channels a group, or one group where the width does not divide)
    normalisation."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(channels // 8 if channels % 8 == 0 else 1, channels)
    raise ValueError(f"norm: expected 'batch' or 'group', got {kind!r}")


def conv_norm_relu(
    in_channels: int, out_channels: int, norm: str, *, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution (no bias, `same` padding), normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            bias=False,
        ),
        norm_layer(norm, out_channels),
        nn.ReLU(inplace=True),
    )


def upsample_like(x: Tensor, reference: Tensor) -> Tensor:
    """Nearest upsampling of `[B, C, h, w]` to the height and width of `reference`."""
    return F.interpolate(x, size=reference.shape[-2:], mode="nearest")


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the right and lower border of `[B, C, H, W]` until both sides divide by `multiple`."""
    height, width = image.shape[-2:]
    below, right = -height % multiple, -width % multiple
    if below == 0 and right == 0:
        return image
    return F.pad(image, (0, right, 0, below), mode="replicate")


def crop_levels(levels: Sequence[Tensor], height: int, width: int) -> list[Tensor]:
    """Maps `[B, C, h, w]` of a padded image, finest first, without the padding: the first one becomes `[B, C, height,
    width]`, the others lose the same share, rounded up."""
    full = levels[0].shape[-2:]
    cropped = []
    for level in levels:
        rows = -(-height * level.shape[-2] // full[0])
        columns = -(-width * level.shape[-1] // full[1])
        cropped.append(level[..., :rows, :columns])
    return cropped
