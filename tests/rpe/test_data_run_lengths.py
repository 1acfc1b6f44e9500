"""Masks of COCO annotations: every form against pycocotools, every malformed one refused before its C code runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rpe.data.run_lengths import decode_counts, encode_runs, pixels_inside, run_lengths

SHAPES = [(1, 1), (5, 7), (40, 3), (200, 300)]


def random_mask(size: tuple[int, int], share: float) -> np.ndarray:
    random = np.random.default_rng([*size, int(100 * share)])
    return np.asfortranarray(random.random(size) < share, dtype=np.uint8)


def drawn(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    columns = np.zeros(size[0] * size[1], dtype=np.uint8)
    columns[pixels_inside(runs)] = 1
    return columns.reshape(size[1], size[0]).T


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_both_run_length_forms(size: tuple[int, int], share: float) -> None:
    mask = random_mask(size, share)
    rle = coco_mask.encode(mask)
    runs = run_lengths({"size": list(size), "counts": rle["counts"].decode()}, *size)
    np.testing.assert_array_equal(drawn(runs, size), mask)
    listed = run_lengths({"size": list(size), "counts": runs.tolist()}, *size)
    np.testing.assert_array_equal(listed, runs)
    assert encode_runs(runs, *size) == rle


@pytest.mark.parametrize("parts", [1, 3])
def test_polygons_are_united(parts: int) -> None:
    random = np.random.default_rng(parts)
    polygons = [random.uniform(-3, 60, 10).tolist() for _ in range(parts)]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 50, 40)))
    assert expected.any()
    np.testing.assert_array_equal(drawn(run_lengths(polygons, 50, 40), (50, 40)), expected)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "neither polygons nor an RLE but NoneType"),
        ([], "is empty"),
        ([[1, 1, 3, 1]], "at least three points"),
        ([[1, 1, 3, 1, 3, 3, 1]], "at least three points"),
        ([1, 1, 3, 1, 3, 3], "at least three points"),
        ([[1, 1, 3, "1", 3, 3]], "at least three points"),
        ([[1, 1, 3, 1, 3, math.nan]], "far outside its image of 4 x 5"),
        ([[1, 1, 3, 1, 3, 1e9]], "far outside its image"),
        ({"counts": [20]}, "has the size None, its image"),
        ({"size": [4, 5], "counts": [20]}, r"has the size \[4, 5\], its image \[5, 4\]"),
        ({"size": [5, 4]}, "neither a string nor a list"),
        ({"size": [5, 4], "counts": []}, "neither a string nor a list"),
        ({"size": [5, 4], "counts": [10.0, 10]}, "neither a string nor a list"),
        ({"size": [5, 4], "counts": [10, 9]}, "covers 19 pixels, its image has 20"),
        ({"size": [5, 4], "counts": [25, -5]}, "negative run"),
        ({"size": [5, 4], "counts": [2**70]}, "longer than any image"),
        ({"size": [5, 4], "counts": ""}, "string is empty"),
        ({"size": [5, 4], "counts": "ab z"}, "torn or holds characters"),
        ({"size": [5, 4], "counts": "ab\u20ac"}, "torn or holds characters"),
        ({"size": [5, 4], "counts": "0a"}, "torn"),
        ({"size": [5, 4], "counts": "o" * 30 + "0"}, "too large"),
        ({"size": [5, 4], "counts": "05"}, "covers 5 pixels"),
    ],
)
def test_malformed_segmentations(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_lengths(segmentation, 5, 4)


def test_any_torn_string_is_refused_or_decoded() -> None:
    """Whatever is cut off, no decoder runs past the end; a shorter string never covers the image."""
    counts = coco_mask.encode(random_mask((60, 50), 0.5))["counts"]
    for length in range(len(counts)):
        with pytest.raises(ValueError, match="its RLE"):
            run_lengths({"size": [60, 50], "counts": counts[:length]}, 60, 50)
    assert decode_counts(counts).sum() == 3000
