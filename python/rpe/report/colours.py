"""Arrays to pictures: embeddings through principal components, label maps through fixed colours, contours over images.

Everything here returns uint8 `[H, W, 3]` and depends on its input alone: the same labels have the same colours in every
picture. No file is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries
from torch import Tensor

from ..data.sample import IGNORE
from ..metrics.overlap import LabelMap, as_label_array

Picture: TypeAlias = NDArray[np.uint8]
"""`[H, W, 3]`, 0..255."""

_FIT_PIXELS = 20_000
"""Pixels that take part in fitting a basis, evenly from all its embeddings."""
_TRIM = 0.005
"""Share of the pixels at either end of a component that may saturate."""
_GOLDEN_RATIO = 0.61803398875
_IGNORED_GREY = 128


@dataclass(frozen=True, eq=False)
class ColourBasis:
    """Three directions in embedding space with their ranges; shared by pictures whose colours are to be compared.

    Attributes:
        mean: float32 `[D]`.
        directions: float32 `[D, 3]`; columns are zero where the embeddings have fewer dimensions.
        low: float32 `[3]`, coordinate that becomes 0.
        high: float32 `[3]`, coordinate that becomes 255.
    """

    mean: Tensor
    directions: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, embeddings: Sequence[Tensor | NDArray[np.floating]]) -> ColourBasis:
        """Principal components of one or more embeddings `[D, H, W]` (sizes may differ), for example of all loop steps.

        Signs are fixed (the largest coefficient of a direction is positive) and so is the random start of
        `torch.pca_lowrank`. Pixels that are not finite take no part.

        Raises:
            ValueError: no embedding, or not `[D, H, W]` of one D.
        """
        shapes = (
            {np.ndim(embedding) for embedding in embeddings},
            {len(embedding) for embedding in embeddings},
        )
        if shapes[0] != {3} or len(shapes[1]) != 1:
            raise ValueError("ColourBasis.fit: expected embeddings [D, H, W] of one D")
        rows = torch.cat(
            [_sampled_rows(embedding, _FIT_PIXELS // len(embeddings)) for embedding in embeddings]
        )  # [N, D]
        dim = rows.shape[1]
        mean = rows.mean(dim=0) if len(rows) else rows.new_zeros(dim)
        directions = rows.new_zeros(dim, 3)
        rank = min(3, dim, len(rows))
        if rank:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                found = torch.pca_lowrank(rows, q=min(rank + 3, dim, len(rows)), niter=4)[2][:, :rank]
            largest = found.gather(0, found.abs().argmax(dim=0, keepdim=True))  # [1, rank]
            directions[:, :rank] = found * torch.where(largest < 0, -1.0, 1.0)
        coordinates = (rows - mean) @ directions  # [N, 3]
        if not len(rows):
            return cls(mean, directions, rows.new_zeros(3), rows.new_ones(3))
        low, high = torch.quantile(coordinates, torch.tensor([_TRIM, 1 - _TRIM]), dim=0)
        return cls(mean, directions, low, high)

    def apply(self, embedding: Tensor | NDArray[np.floating]) -> Picture:
        """Colours of an embedding `[D, H, W]`; pixels that are not finite are black."""
        values = torch.as_tensor(embedding).detach().to("cpu", torch.float32)
        dim, height, width = values.shape
        if dim != len(self.mean):
            raise ValueError(f"ColourBasis.apply: fitted in {len(self.mean)} dimensions, got {dim}")
        rows = values.reshape(dim, -1).T
        spread = self.high - self.low
        scaled = ((rows - self.mean) @ self.directions - self.low) / spread.clamp(min=1e-6)
        scaled = torch.where(spread > 1e-6, scaled, 0.5).clamp(0, 1)
        scaled[~torch.isfinite(rows).all(dim=1)] = 0
        return (scaled * 255).round().to(torch.uint8).reshape(height, width, 3).numpy()


def embedding_to_rgb(embedding: Tensor | NDArray[np.floating], basis: ColourBasis | None = None) -> Picture:
    """Embedding `[D, H, W]` as a picture: its first three principal components as red, green and blue.

    Args:
        embedding: any float type, any D from 1 up.
        basis: colours to use; None fits one to this embedding alone, so colours of two calls cannot be compared.
    """
    return (ColourBasis.fit([embedding]) if basis is None else basis).apply(embedding)


def label_to_rgb(label: LabelMap) -> Picture:
    """Label map `[H, W]` as a picture: background black, ignored pixels grey, numbers next to each other told apart."""
    values = as_label_array(label, "label")
    present, inverse = np.unique(values, return_inverse=True)
    table = np.zeros((len(present), 3), dtype=np.uint8)
    table[present > 0] = label_colours(present[present > 0])
    table[present == IGNORE] = _IGNORED_GREY
    return table[inverse.reshape(values.shape)]


def label_colours(labels: NDArray[np.integer]) -> Picture:
    """One bright colour `[K, 3]` per positive label `[K]`."""
    number = labels.astype(np.float64)
    hue = (number * _GOLDEN_RATIO) % 1
    saturation = 0.55 + 0.4 * ((number * 0.37) % 1)
    value = 0.75 + 0.25 * ((number * 0.71) % 1)
    return (hsv_to_rgb(np.stack([hue, saturation, value], axis=-1)) * 255).round().astype(np.uint8)


def image_to_rgb(image: Tensor) -> Picture:
    """Image `[3, H, W]` in 0..1 as a picture."""
    scaled = image.detach().cpu().float().clamp(0, 1) * 255
    return scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def overlay(image: Tensor, label: LabelMap, *, tint: float = 0.25) -> Picture:
    """The image `[3, H, W]` in 0..1 with every instance of `label` `[H, W]` tinted and its contour drawn in its colour.

    Args:
        tint: share of the colour inside the contours, 0..1.
    """
    values = as_label_array(label, "label")
    picture = image_to_rgb(image)
    if values.shape != picture.shape[:2]:
        raise ValueError(f"overlay: image is {list(picture.shape[:2])}, label is {list(values.shape)}")
    colours = label_to_rgb(values)
    inside = values > 0
    mixed = (1 - tint) * picture[inside] + tint * colours[inside]
    picture[inside] = mixed.round().astype(np.uint8)
    contour = find_boundaries(values, mode="inner", background=0) & inside
    picture[contour] = colours[contour]
    return picture


def _sampled_rows(embedding: Tensor | NDArray[np.floating], number: int) -> Tensor:
    """About `number` evenly spaced finite pixels of `[D, H, W]` as rows `[N, D]`."""
    values = torch.as_tensor(embedding).detach().to("cpu", torch.float32)
    rows = values.reshape(values.shape[0], -1).T
    rows = rows[:: max(1, len(rows) // max(1, number))]
    return rows[torch.isfinite(rows).all(dim=1)]
