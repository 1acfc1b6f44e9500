"""RPE, the network: a backbone, an embedding head on the unit sphere, and small heads for foreground, classes or
boundaries.

An ordinary `nn.Module`: images in, feature maps out. Grouping (`grouping.py`), losses (`objective.py`) and
label maps (`decode.py`) stand beside it and are not called from `forward`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .boundary_head import BoundaryHead
from .grouping import RecurrentGrouping
from .position import Origin, PeriodicPosition, PositionRotation

_SMALL = 64
"""Side in pixels of the image that shows what a backbone does not tell."""


class Output(NamedTuple):
    """What one forward pass returns, at the backbone's stride: h = ceil(H / stride), w = ceil(W / stride)."""

    embedding: Tensor
    """`[B, D, h, w]` float32, unit length along D."""
    foreground: Tensor | None = None
    """`[B, 1, h, w]` float32 logits, None for a model without a foreground head. With a core `[B, 2, h, w]`:
    the second map says which pixels lie inside an object, with no other label beside them."""
    semantic: Tensor | None = None
    """`[B, K, h, w]` float32 logits of the classes, None for a model without a semantic head."""
    boundary: Tensor | None = None
    """`[B, L + 1, h, w]` float32 logits of the L depths and of their fusion, None for a model without a boundary head.
    With it, `embedding` holds the depths' embeddings one after the other, D / L channels each."""


def has_core(foreground: Tensor) -> bool:
    """Whether logits `[..., C, h, w]` hold a map of the insides too."""
    return foreground.shape[-3] == 2


def stride_of(maps: Tensor, size: tuple[int, int]) -> int:
    """Pixels per cell of maps `[..., h, w]` of an image of `size` (H, W), from both sides: a short one alone may fit
    several strides."""
    height, width = maps.shape[-2:]
    for stride in range(1, max(size) + 1):
        if (-(-size[0] // stride), -(-size[1] // stride)) == (height, width):
            return stride
    raise ValueError(
        f"maps {list(maps.shape)} do not cover {size[0]} x {size[1]} pixels at any stride; "
        "the backbone must return ceil(H / stride) x ceil(W / stride) cells"
    )


class RPE(nn.Module):
    """Pixel embeddings on the unit sphere from any backbone.

    Args:
        backbone: a module that maps `[B, 3, H, W]` to `[B, C, h, w]`. Its attributes `out_channels` and
            `output_stride` are read; where it lacks them a small image is passed through it once and they are
            measured.
        dim: embedding dimension D; with a boundary head that of each depth.
        foreground: add a head that says which pixels belong to an object at all.
        core: let that head also say which pixels lie inside one, away from its rim.
        position_periods: periods in pixels of position channels that are appended to the image (see
            `position.py`); the backbone then takes 3 + 4 * len(position_periods) channels.
        num_classes: K classes of a semantic head; 0 adds none.
        boundary: embed every level of the backbone (its `levels(image)` and `level_channels`, finest first; a backbone
            without them has one) and add a boundary head, see `boundary_head.py`.
        rotation_periods: periods in pixels at which the position turns the embedding's channels (see `position.py`); a
            boundary head's embeddings are not turned.
        grouping: the recurrent grouping that belongs to this network, kept here so that a learnt kappa is
            saved with the weights; None takes `RecurrentGrouping()`. `forward` does not call it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        dim: int = 16,
        foreground: bool = True,
        position_periods: Sequence[float] = (),
        rotation_periods: Sequence[float] = (),
        grouping: RecurrentGrouping | None = None,
        *,
        core: bool = False,
        num_classes: int = 0,
        boundary: bool = False,
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"RPE: dim must be at least 2, got {dim}")
        if core and not foreground:
            raise ValueError(
                "RPE: core needs the foreground head; set model.foreground too, or leave model.core out"
            )
        self.backbone = backbone
        self.position = PeriodicPosition(position_periods)
        channels, self.output_stride = _describe(backbone, 3 + self.position.channels)
        widths = getattr(backbone, "level_channels", (channels,))
        self.dim = dim * len(widths) if boundary else dim
        self.boundary_head = None
        if boundary:
            levels = _small_levels(backbone, 3 + self.position.channels)
            strides = [round(levels[0].shape[-1] / level.shape[-1]) for level in levels]
            self.boundary_head = BoundaryHead(widths, strides, dim)
        self.rotation = PositionRotation(rotation_periods, dim, self.output_stride)
        self.embedding_head = None if boundary else nn.Conv2d(channels, dim, kernel_size=1)
        self.foreground_head = nn.Conv2d(channels, 1 + core, kernel_size=1) if foreground else None
        self.semantic_head = nn.Conv2d(channels, num_classes, kernel_size=1) if num_classes else None
        self.grouping = RecurrentGrouping() if grouping is None else grouping

    def forward(self, image: Tensor, origin: Origin = (0, 0)) -> Output:
        """`[B, 3, H, W]` floats in 0..1 to an `Output` at the backbone's stride.

        `origin` is the row and column of the first pixel where the image is a part of a larger one, one for all
        images or `[B, 2]`; it matters to position channels and rotations alone.
        """
        if image.dim() != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                f"RPE: image must be a floating tensor [B, 3, H, W], got {image.dtype} {list(image.shape)}; "
                "add the batch dimension with image[None], and divide 8-bit images by 255"
            )
        levels = self._levels(self.position(image, origin))
        feature = levels[0]
        boundary = None
        if self.boundary_head is not None:
            embedding, boundary = self.boundary_head(levels)
        elif self.embedding_head is not None:
            embedding = self.rotation(F.normalize(self.embedding_head(feature).float(), dim=1), origin)
        foreground = None if self.foreground_head is None else self.foreground_head(feature).float()
        semantic = None if self.semantic_head is None else self.semantic_head(feature).float()
        return Output(embedding, foreground, semantic, boundary)

    def _levels(self, image: Tensor) -> list[Tensor]:
        """Every level of the backbone where a boundary head asks for them, otherwise its feature map alone."""
        return [self.backbone(image)] if self.boundary_head is None else _levels(self.backbone, image)


def _levels(backbone: nn.Module, image: Tensor) -> list[Tensor]:
    """Every level of a backbone; of one without levels its feature map."""
    if not hasattr(backbone, "levels"):
        return [backbone(image)]
    levels: list[Tensor] = backbone.levels(image)  # type: ignore[operator]
    return levels


def _small_levels(backbone: nn.Module, in_channels: int) -> list[Tensor]:
    """The levels of a small image."""
    was_training = backbone.training
    side = getattr(backbone, "total_stride", _SMALL)
    device = next((weight.device for weight in backbone.parameters()), None)
    with torch.no_grad():
        levels = _levels(backbone.eval(), torch.zeros(1, in_channels, side, side, device=device))
    backbone.train(was_training)
    return levels


def _describe(backbone: nn.Module, in_channels: int) -> tuple[int, int]:
    """The backbone's channels and stride, from its attributes or from one small image."""
    channels = getattr(backbone, "out_channels", None)
    stride = getattr(backbone, "output_stride", None)
    if isinstance(channels, int) and isinstance(stride, int):
        return channels, stride
    was_training = backbone.training
    with torch.no_grad():
        feature = backbone.eval()(torch.zeros(1, in_channels, _SMALL, _SMALL))
    backbone.train(was_training)
    if not isinstance(feature, Tensor) or feature.dim() != 4:
        raise ValueError(
            "RPE: backbone must return one feature map [B, C, h, w]; "
            f"got {type(feature).__name__}; wrap it in a module that returns the map alone"
        )
    return feature.shape[1], max(1, round(_SMALL / feature.shape[-1]))
