"""Scored masks of one image beside the true ones; a mask is a run-length code.

Matching them is `coco_matching.py`; what ranks, averages and names the numbers is `recall.py` and `precision.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_length

from .overlap import IntArray

RunLength = dict[str, Any]
"""A mask as pycocotools encodes it: {"size": [H, W], "counts": bytes or str}."""

_IGNORED_SHARE = 0.5
"""A detection with more of it in ignored pixels is left out where it finds nothing: COCO's rule for crowds."""


@dataclass(frozen=True)
class ScoredMasks:
    """The true masks of one image, and the detected ones with their scores; classes are 1 where nothing is said.

    `is_crowd` marks true masks that are neither found nor missed (COCO's crowds).
    """

    size: tuple[int, int]
    targets: list[RunLength]
    detections: list[RunLength]
    scores: list[float]
    target_classes: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    is_crowd: list[bool] = field(default_factory=list)


def encode_mask(mask: NDArray[np.bool_]) -> RunLength:
    """`[H, W]` as a run-length code."""
    code: RunLength = run_length.encode(np.asfortranarray(mask, dtype=np.uint8))
    return code


def decode_mask(code: RunLength) -> NDArray[np.bool_]:
    """A run-length code as `[H, W]`."""
    return np.asarray(run_length.decode(code), dtype=np.bool_)


def encode_labels(
    label: NDArray[np.integer],
    values: Sequence[int] | IntArray,
    place: tuple[int, int] = (0, 0),
    size: tuple[int, ...] | None = None,
) -> list[RunLength]:
    """One run-length code per label of a label map `[h, w]`, in one pass over the map however many labels there are.

    Args:
        label: the map; of a part of an image where `size` is given.
        values: labels.
        place: row and column of the part's first pixel in the image.
        size: (H, W) of the image.
    """
    rows = label.shape[0]
    height, width = label.shape if size is None else size
    columns = label.T.reshape(-1)  # runs go down the columns, in a part of the image to the end of one
    is_start = np.diff(columns, prepend=0) != 0
    is_start[:1] = True
    if 0 < rows < height:
        is_start[::rows] = True
    start = np.flatnonzero(is_start)
    length = np.diff(start, append=columns.size)
    order = np.argsort(columns[start], kind="stable")
    start, length, value = start[order], length[order], columns[start][order]
    first = (start // max(rows, 1) + place[1]) * height + start % max(rows, 1) + place[0]
    before = np.append(0, first + length)[:-1]
    before[np.diff(value, prepend=value[:1]) != 0] = 0
    counts = np.stack([first - before, length], axis=1).reshape(-1)  # of 0 and 1 in turns, label by label
    begins, ends = np.searchsorted(value, values, "left"), np.searchsorted(value, values, "right")
    codes = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        rest = height * width - (int(first[end - 1] + length[end - 1]) if end > begin else 0)
        last = [rest] if rest or begin == end else []
        codes.append({"size": [height, width], "counts": counts[2 * begin : 2 * end].tolist() + last})
    return list(run_length.frPyObjects(codes, height, width)) if codes else []


def encode_part(mask: NDArray[np.bool_], first: tuple[int, int], size: tuple[int, ...]) -> RunLength:
    """The run-length code of a mask whose first pixel lies at a row and column of an image (H, W)."""
    return encode_labels(mask.astype(np.int8), [1], first, size)[0]


def masks_of_label_map(
    detections: Sequence[RunLength],
    scores: Sequence[float],
    target: IntArray,
    *,
    classes: Sequence[int] = (),
    instance_class: Mapping[int, int] | None = None,
) -> ScoredMasks:
    """Detections against a label map `[H, W]` (0 = background, -1 = ignored).

    Ignored pixels are taken out of the detections. One that lay mostly in them, and reaches an IoU of 0.5 with no true
    instance without them, is left out with its score.
    """
    labels = np.unique(target)
    labels = labels[labels > 0]
    targets = encode_labels(target, labels)
    found, kept = list(detections), list(range(len(detections)))
    ignored = target < 0
    if found and ignored.any():
        counted = encode_mask(~ignored)
        inside = [run_length.merge([code, counted], intersect=True) for code in found]
        # One by one: pycocotools' area of more than 255 masks at once fails with numpy 2.
        before, after = (np.array([run_length.area(code) for code in codes]) for codes in (found, inside))
        kept = np.flatnonzero(is_counted(before, after, _best_iou(inside, targets))).tolist()
        found = [inside[k] for k in kept]
    known = instance_class or {}
    return ScoredMasks(
        (target.shape[0], target.shape[1]),
        targets,
        found,
        [float(scores[k]) for k in kept],
        [int(known.get(int(label), 1)) for label in labels],
        [int(classes[k]) for k in kept] if len(classes) else [],
    )


def is_counted(
    before: NDArray[np.integer], after: NDArray[np.integer], best_iou: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Which detections are not left out, from their pixels before and after the ignored ones were taken out, and their
    best IoU with a true instance after that."""
    return (after > 0) & ((after >= (1 - _IGNORED_SHARE) * before) | (best_iou >= 0.5))


def _best_iou(detections: Sequence[RunLength], targets: Sequence[RunLength]) -> NDArray[np.float64]:
    if not targets:
        return np.zeros(len(detections))
    return np.asarray(run_length.iou(list(detections), list(targets), [0] * len(targets))).max(axis=1)
