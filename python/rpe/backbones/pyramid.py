"""A feature pyramid (Lin et al., CVPR 2017): the maps of an encoder, joined from the coarsest to the finest.

What makes the maps is the encoder's business (`resnet_fpn.py`, `timm_pyramid.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .layers import conv_norm_relu, upsample_like


class FeaturePyramid(nn.Module):
    """Maps of several strides to maps of one width, finest first; those finer than `output_stride` are left out.

    Args:
        channels: widths of the encoder's maps, finest first.
        strides: their pixels per cell; equal ones (atrous stages) are legal.
        out_channels: width of every map that comes out.
        output_stride: stride of the finest map that comes out; must be one of `strides`.
        norm: "batch" or "group".
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int,
        output_stride: int,
        norm: str,
    ) -> None:
        super().__init__()
        if output_stride not in strides:
            raise ValueError(
                f"model.output_stride must be one of the strides of the encoder's maps, {sorted(set(strides))}, "
                f"got {output_stride}"
            )
        self.first = next(index for index, stride in enumerate(strides) if stride >= output_stride)
        self.lateral = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in channels[self.first :])
        self.smooth = conv_norm_relu(out_channels, out_channels, norm)
        self.num_levels = len(self.lateral)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """All maps `[B, C_l, h_l, w_l]` of the encoder, finest first, to `num_levels` maps of the pyramid."""
        used = maps[self.first :]
        levels = [self.lateral[-1](used[-1])]
        for lateral, finer in zip(reversed(self.lateral[:-1]), reversed(used[:-1]), strict=True):
            levels.insert(0, upsample_like(levels[0], finer) + lateral(finer))
        levels[0] = self.smooth(levels[0])
        return levels
