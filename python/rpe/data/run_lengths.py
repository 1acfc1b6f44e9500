"""Masks of COCO annotations: polygons and both run-length forms to runs over the columns of an image, checked first.

pycocotools turns polygons into runs and compressed strings; its C code trusts its input (a NaN in a polygon or a torn
string takes the whole process down), so nothing reaches it here before it has been checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_LOWEST_CHARACTER = 48
_MOST_GROUPS = 7
"""Groups of five bits that a run length may have: 35 bits."""


def run_lengths(segmentation: Any, height: int, width: int) -> NDArray[np.int64]:
    """Lengths of the runs outside, inside, outside, ... the mask, down the columns of an image of this size.

    Args:
        segmentation: polygons `[[x, y, x, y, ...], ...]`, whose union is the mask; or an RLE
            `{"size": [height, width], "counts": ...}` with a list of lengths or pycocotools' compressed string.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: what is wrong with the segmentation.
    """
    if isinstance(segmentation, dict):
        if list(segmentation.get("size", ())) != [height, width]:
            raise ValueError(f"its RLE has the size {segmentation.get('size')}, its image {[height, width]}")
        counts = segmentation.get("counts")
        runs = decode_counts(counts) if isinstance(counts, (str, bytes)) else _listed_counts(counts)
    elif isinstance(segmentation, list):
        polygons = [_checked_polygon(polygon, height, width) for polygon in segmentation]
        if not polygons:
            raise ValueError("its segmentation is empty")
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        runs = decode_counts(rle["counts"])
    else:
        raise ValueError(f"its segmentation is neither polygons nor an RLE but {type(segmentation).__name__}")
    if runs.size and int(runs.min()) < 0:
        raise ValueError("its RLE has a negative run")
    if int(runs.sum()) != height * width:
        raise ValueError(f"its RLE covers {int(runs.sum())} pixels, its image has {height * width}")
    return runs


def decode_counts(counts: str | bytes) -> NDArray[np.int64]:
    """Run lengths of a compressed string: five bits a character, low ones first, the sixth bit says that more follow;
    from the fourth run on a number is the difference to the last but one.

    Raises:
        ValueError: not such a string.
    """
    data = counts.encode() if isinstance(counts, str) else counts
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - _LOWEST_CHARACTER
    if not codes.size:
        raise ValueError("its RLE string is empty")
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its RLE string is torn or holds characters that no such string has")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if groups.max() > _MOST_GROUPS:
        raise ValueError("its RLE string holds a number that is too large")
    shift = 5 * (np.arange(codes.size) - np.repeat(first, groups))
    runs = np.add.reduceat((codes & 31) << shift, first)
    runs -= np.where(codes[last] & 16, np.int64(1) << (5 * groups), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def encode_runs(runs: NDArray[np.int64], height: int, width: int) -> dict[str, Any]:
    """Run lengths as pycocotools' compressed RLE `{"size": [height, width], "counts": bytes}`."""
    encoded: dict[str, Any] = coco_mask.frPyObjects(
        {"size": [height, width], "counts": runs.tolist()}, height, width
    )
    return encoded


def pixels_inside(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the mask's pixels, counted down the columns: row + height * column."""
    ends = np.cumsum(runs)
    inside = runs[1::2]
    starts = ends[1::2] - inside
    within = np.arange(int(inside.sum())) - np.repeat(np.cumsum(inside) - inside, inside)
    return np.repeat(starts, inside) + within


def _listed_counts(counts: Any) -> NDArray[np.int64]:
    """The uncompressed form."""
    if not isinstance(counts, list) or not counts or any(type(count) is not int for count in counts):
        raise ValueError("the counts of its RLE are neither a string nor a list of whole numbers")
    if max(counts) > np.iinfo(np.int32).max:
        raise ValueError("its RLE has a run that is longer than any image")
    return np.array(counts, dtype=np.int64)


def _checked_polygon(polygon: Any, height: int, width: int) -> list[float]:
    """A polygon that pycocotools may be given: at least three points, all near the image."""
    is_numbers = isinstance(polygon, list) and all(type(value) in (int, float) for value in polygon)
    if not is_numbers or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon of it is no list x, y, x, y, ... of at least three points")
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    size = np.array([width, height])
    if not np.all((points >= -size) & (points <= 2 * size)):
        raise ValueError(f"a polygon of it has a point far outside its image of {width} x {height} pixels")
    return [float(value) for value in polygon]
