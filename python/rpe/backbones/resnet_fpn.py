"""ResNet (basic blocks) with dilated last stages and a feature pyramid: the larger backbone, written without
torchvision.

`atrous_stride` is where the residual stages stop shrinking and dilate instead (4, 8, 16 or 32); `output_stride` is the
resolution of the feature map that the pyramid returns (4 or more). Pretrained weights are not its business.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv_norm_relu, crop_levels, norm_layer, pad_to_multiple
from .pyramid import FeaturePyramid


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with a shortcut, `[B, C_in, h, w]` to `[B, C_out, h / stride, w / stride]`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, norm: str) -> None:
        super().__init__()
        self.first = conv_norm_relu(in_channels, out_channels, norm, stride=stride, dilation=dilation)
        self.second = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False),
            norm_layer(norm, out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                norm_layer(norm, out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNetFPN(nn.Module):
    """ResNet + FPN from `[B, 3, H, W]` to `[B, out_channels, ceil(H / output_stride), ceil(W /
    output_stride)]`.

    Args:
        depths: residual units in each of the four stages; (2, 2, 2, 2) is ResNet-18.
        channels: widths of the four stages.
        out_channels: width of the pyramid and of the feature map.
        output_stride: 4, 8, 16 or 32, at most `atrous_stride`.
        atrous_stride: later stages dilate instead of striding beyond it.
        norm: "batch" or "group".
        in_channels: channels of the image.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 2, 2),
        channels: Sequence[int] = (64, 128, 256, 512),
        out_channels: int = 128,
        output_stride: int = 4,
        atrous_stride: int = 16,
        norm: str = "batch",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if atrous_stride not in (4, 8, 16, 32):
            raise ValueError(f"resnet_fpn: atrous_stride must be 4, 8, 16 or 32, got {atrous_stride}")
        if output_stride not in (4, 8, 16, 32) or output_stride > atrous_stride:
            raise ValueError(
                f"resnet_fpn: output_stride must be 4, 8, 16 or 32 and at most atrous_stride "
                f"{atrous_stride}, got {output_stride}"
            )
        if len(depths) != len(channels):
            raise ValueError(
                f"resnet_fpn: depths {tuple(depths)} and channels {tuple(channels)} must be equally long"
            )
        self.out_channels, self.output_stride, self.total_stride = out_channels, output_stride, atrous_stride
        self.stem = nn.Sequential(
            conv_norm_relu(in_channels, channels[0], norm, kernel=7, stride=2), nn.MaxPool2d(3, 2, padding=1)
        )
        self.stages = nn.ModuleList()
        strides: list[int] = []
        width, reached, dilation = channels[0], 4, 1
        for index, (depth, level) in enumerate(zip(depths, channels, strict=True)):
            stride = 2 if index else 1
            if reached * stride > atrous_stride:
                stride, dilation = 1, dilation * 2
            reached *= stride
            units = [ResidualUnit(width, level, stride, dilation, norm)]
            units += [ResidualUnit(level, level, 1, dilation, norm) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*units))
            strides.append(reached)
            width = level
        self.pyramid = FeaturePyramid(channels, strides, out_channels, output_stride, norm)
        self.level_channels = (out_channels,) * self.pyramid.num_levels

    def levels(self, image: Tensor) -> list[Tensor]:
        """The pyramid's maps, finest first; the first one is the feature map."""
        stride = self.output_stride
        height, width = -(-image.shape[-2] // stride), -(-image.shape[-1] // stride)
        x = self.stem(pad_to_multiple(image, self.total_stride))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return crop_levels(self.pyramid(maps), height, width)

    def forward(self, image: Tensor) -> Tensor:
        return self.levels(image)[0]
