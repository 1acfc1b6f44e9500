"""A small U-Net: the default backbone, quick enough to train on two CPU cores.

Space-to-depth brings the image to the output stride without losing a pixel; encoder and decoder with skip
connections follow.
It knows nothing of embeddings: it returns one feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv_norm_relu, crop_levels, pad_to_multiple, upsample_like


class UNet(nn.Module):
    """U-Net from `[B, 3, H, W]` to `[B, channels[0], ceil(H / output_stride), ceil(W / output_stride)]`.

    Args:
        channels: widths of the levels, finest first; each level halves the resolution.
        output_stride: pixels per feature cell: 1, 2, 4 or 8.
        norm: "batch" or "group".
        in_channels: channels of the image.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 96, 128),
        output_stride: int = 2,
        norm: str = "batch",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if output_stride not in (1, 2, 4, 8):
            raise ValueError(f"unet: output_stride must be 1, 2, 4 or 8, got {output_stride}")
        if not channels:
            raise ValueError("unet: channels must name at least one level")
        self.out_channels = int(channels[0])
        self.output_stride = output_stride
        self.total_stride = output_stride * 2 ** (len(channels) - 1)
        self.level_channels = tuple(int(width) for width in channels)
        self.space_to_depth = nn.PixelUnshuffle(output_stride)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        width = in_channels * output_stride**2
        for level in channels:
            self.encoder.append(_double_conv(width, level, norm))
            width = level
        for level in reversed(channels[:-1]):
            self.decoder.append(_double_conv(width + level, level, norm))
            width = level

    def levels(self, image: Tensor) -> list[Tensor]:
        """The decoder's maps, finest first; the first one is the feature map."""
        stride = self.output_stride
        height, width = -(-image.shape[-2] // stride), -(-image.shape[-1] // stride)
        x = self.space_to_depth(pad_to_multiple(image, self.total_stride))
        skips = []
        for depth, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2) if depth else x)
            skips.append(x)
        maps = [x]
        for stage, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            maps.insert(0, stage(torch.cat([upsample_like(maps[0], skip), skip], dim=1)))
        return crop_levels(maps, height, width)

    def forward(self, image: Tensor) -> Tensor:
        return self.levels(image)[0]


def _double_conv(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        conv_norm_relu(in_channels, out_channels, norm), conv_norm_relu(out_channels, out_channels, norm)
    )
