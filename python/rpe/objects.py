"""What adds up over the pixels of objects, and the scores that follow from it.

Sums of the parts of an object, seen in different tiles, are those of the object: a score is the same whether an image
was decoded at once or tile by tile. Where objects lie is the business of `decode.py` and `joining.py`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .tiling import Tile, cells

Sums: TypeAlias = NDArray[np.float64]
"""`[K, 1 + C + 1 + D]`: pixels of each object, C values summed over them, its cells, and the embedding summed over
those."""


def object_sums(
    objects: NDArray[np.integer], embedding: Tensor, values: Tensor, stride: int, tile: Tile
) -> Sums:
    """Sums over objects 1..K, in the core of a tile alone; all maps are those of its view.

    Args:
        objects: `[H, W]`, 0 = background.
        embedding: `[D, h, w]` before grouping.
        values: `[C, H, W]`.
        stride: pixels per cell.
        tile: see `tiling.whole` for an image that is one tile.
    """
    count = int(objects.max(initial=0)) + 1

    def over(place: NDArray[np.integer], maps: Tensor) -> list[NDArray[Any]]:
        """Number of pixels or cells of each object, and sums of the maps over them."""
        channels = maps.cpu().numpy().reshape(len(maps), -1)
        return [np.bincount(place, weights, count) for weights in (None, *channels)]

    rows, columns = tile.core_in_view
    found = over(objects[rows, columns].reshape(-1), values[:, rows, columns])
    rows, columns = cells(rows, stride), cells(columns, stride)
    place = objects[::stride, ::stride][rows, columns].reshape(-1)
    found += over(place, embedding[:, rows, columns])
    return np.stack(found, axis=1)[1:].astype(np.float64)


def object_means(sums: Sums, num_values: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means `[K, C]` of the values and `[K, D]` of the embedding; zeros for an object without a pixel or cell."""
    pixels, values, number, embedding = np.split(sums, [1, 1 + num_values, 2 + num_values], axis=1)
    return values / np.maximum(pixels, 1), embedding / np.maximum(number, 1)


def object_scores(confidence: NDArray[np.floating], embedding: NDArray[np.floating]) -> NDArray[np.float32]:
    """Score `[K]` of each object: mean confidence `[K]` times mean similarity of its embeddings to their mean `[K, D]`.

    The similarity s = (1 + cos) / 2 is taken before grouping, so an object whose pixels agree without help scores high.
    The mean cosine of unit vectors with their mean's direction is the length of their mean.
    """
    similarity = (1 + np.linalg.norm(embedding, axis=1)) / 2
    return np.clip(confidence * similarity, 0, 1).astype(np.float32)
