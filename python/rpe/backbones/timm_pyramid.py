"""Any encoder of timm that returns feature maps, with a feature pyramid on top: `model.backbone = "timm:resnet50"`.

timm is optional (`pip install 'rpe-ops[timm]'`, which brings torchvision); it is imported when such a backbone is
built. The encoder's own input normalisation is applied here; weights are downloaded where `model.pretrained` asks
for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import crop_levels, pad_to_multiple
from .pyramid import FeaturePyramid


class TimmPyramid(nn.Module):
    """timm encoder + FPN from `[B, in_channels, H, W]` to `[B, C, ceil(H / output_stride), ceil(W / output_stride)]`.

    Args:
        name: of the encoder in timm.
        channels: the first one is the width C of the pyramid.
        output_stride: stride of the feature map; one of the encoder's.
        atrous_stride: stride from which stages dilate, for encoders that can; 0 leaves the encoder as it is.
        norm: "batch" or "group", of the pyramid.
        in_channels: channels of the image; the first three are colours.
        pretrained: load timm's weights.

    Raises:
        ValueError: timm is not installed or cannot be imported, has no such encoder, or the encoder cannot dilate so.
    """

    def __init__(
        self,
        name: str,
        channels: Sequence[int] = (128,),
        output_stride: int = 4,
        atrous_stride: int = 0,
        norm: str = "batch",
        in_channels: int = 3,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        try:
            import timm
        except Exception as error:  # beside another build, torchvision fails with more than ImportError
            raise ValueError(
                f"model.backbone = 'timm:{name}' needs timm, which cannot be imported ({error}): "
                "pip install 'rpe-ops[timm]', with the torchvision of the same build as torch, "
                "or take model.backbone = 'resnet_fpn'"
            ) from error
        dilation = {"output_stride": atrous_stride} if atrous_stride else {}
        try:
            self.encoder = timm.create_model(
                name, pretrained=pretrained, features_only=True, in_chans=in_channels, **dilation
            )
        except Exception as error:
            raise ValueError(
                f"model.backbone = 'timm:{name}' with model.atrous_stride = {atrous_stride}: timm cannot build it: "
                f"{error or type(error).__name__}; timm.list_models() names the encoders"
            ) from error
        strides = self.encoder.feature_info.reduction()
        self.out_channels, self.output_stride, self.total_stride = channels[0], output_stride, max(strides)
        self.pyramid = FeaturePyramid(
            self.encoder.feature_info.channels(), strides, channels[0], output_stride, norm
        )
        self.level_channels = (self.out_channels,) * self.pyramid.num_levels
        settings = self.encoder.pretrained_cfg
        beyond = [0.0] * (in_channels - 3), [1.0] * (in_channels - 3)
        self.register_buffer("mean", torch.tensor([*settings["mean"], *beyond[0]])[:, None, None])
        self.register_buffer("spread", torch.tensor([*settings["std"], *beyond[1]])[:, None, None])

    mean: Tensor
    spread: Tensor

    def levels(self, image: Tensor) -> list[Tensor]:
        """The pyramid's maps, finest first; the first one is the feature map."""
        stride = self.output_stride
        height, width = -(-image.shape[-2] // stride), -(-image.shape[-1] // stride)
        padded = pad_to_multiple((image - self.mean) / self.spread, self.total_stride)
        return crop_levels(self.pyramid(self.encoder(padded)), height, width)

    def forward(self, image: Tensor) -> Tensor:
        return self.levels(image)[0]
