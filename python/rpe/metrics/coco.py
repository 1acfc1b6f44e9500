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
from scipy.ndimage import find_objects

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
    size: tuple[int, int] | None = None,
) -> list[RunLength]:
    """One run-length code per label of a label map `[h, w]`, in the time of the labels' boxes.

    Args:
        label: the map; of a part of an image where `size` is given.
        values: labels.
        place: row and column of the part's first pixel in the image.
        size: (H, W) of the image.
    """
    found, index = np.unique(label, return_inverse=True)
    boxes = find_objects(index.reshape(label.shape) + 1)
    number = {int(value): position for position, value in enumerate(found)}
    boxes.append((slice(0, 0), slice(0, 0)))  # of a label that is nowhere
    codes = []
    for value in values:
        box = boxes[number.get(int(value), -1)]
        first = (place[0] + box[0].start, place[1] + box[1].start)
        codes.append(encode_part(label[box] == value, first, label.shape if size is None else size))
    return codes


def encode_part(mask: NDArray[np.bool_], first: tuple[int, int], size: tuple[int, ...]) -> RunLength:
    """The run-length code of a mask whose first pixel lies at a row and column of an image (H, W): lengths of runs of
    0 and 1 in turns, column by column."""
    height, width = size
    column, row = np.nonzero(mask.T)
    pixel = (column + first[1]) * height + row + first[0]
    begins = np.flatnonzero(np.diff(pixel, prepend=-2) > 1)
    last = np.append(begins[1:], len(pixel))[: len(begins)] - 1  # of no pixel no run
    starts, ends = pixel[begins], pixel[last] + 1
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    counts = np.diff(edges, prepend=0, append=height * width)
    code: RunLength = run_length.frPyObjects(
        {"size": [height, width], "counts": counts.tolist()}, height, width
    )
    return code


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
        before, after = run_length.area(found), run_length.area(inside)
        best = _best_iou(inside, targets)
        outside = after >= (1 - _IGNORED_SHARE) * before
        kept = [k for k in kept if after[k] > 0 and (outside[k] or best[k] >= 0.5)]
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


def _best_iou(detections: Sequence[RunLength], targets: Sequence[RunLength]) -> NDArray[np.float64]:
    if not targets:
        return np.zeros(len(detections))
    return np.asarray(run_length.iou(list(detections), list(targets), [0] * len(targets))).max(axis=1)
