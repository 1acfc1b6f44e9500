"""One-to-one matching of predicted and target instances at an IoU, and the average precision of nuclei contests.

The convention is that of the Data Science Bowl 2018 and of stardist: AP = TP / (TP + FP + FN), without a ranking. It is
not the ranked AP of COCO. Works on the table of overlaps only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .overlap import IntArray, LabelMap, Overlap, count_overlap

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.50, 0.55, ..., 0.95."""


def match_instances(overlap: Overlap, threshold: float) -> tuple[IntArray, IntArray]:
    """Pair predicted with target instances one to one, only where IoU >= threshold (and some pixel is shared).

    The number of pairs is the largest possible, and among those choices the sum of IoU is. From 0.5 up there is
    hardly a choice: an instance can have an IoU above 0.5 with one partner alone.

    Returns:
        Rows and columns of the overlap table, int64 `[M]` each.
    """
    allowed = (overlap.iou >= threshold) & (overlap.intersection > 0)
    rows, columns = np.flatnonzero(allowed.any(axis=1)), np.flatnonzero(allowed.any(axis=0))
    if len(rows) == 0:
        return rows, columns
    candidate = allowed[np.ix_(rows, columns)]
    tie_break = overlap.iou[np.ix_(rows, columns)] / (2 * min(candidate.shape))
    row, column = linear_sum_assignment(np.where(candidate, 1.0 + tie_break, 0.0), maximize=True)
    kept = candidate[row, column]
    return rows[row[kept]], columns[column[kept]]


def average_precision(overlap: Overlap, thresholds: Sequence[float]) -> NDArray[np.float64]:
    """TP / (TP + FP + FN) of one image at each IoU threshold; 1 where there is nothing to find and nothing found."""
    num_predicted, num_target = overlap.intersection.shape
    scores = []
    for threshold in thresholds:
        hits = len(match_instances(overlap, threshold)[0])
        either = num_predicted + num_target - hits  # TP + FP + FN
        scores.append(hits / either if either else 1.0)
    return np.array(scores, dtype=np.float64)


def label_map_ap(
    prediction: LabelMap | Sequence[LabelMap],
    target: LabelMap | Sequence[LabelMap],
    thresholds: Sequence[float] = IOU_THRESHOLDS,
    *,
    has_background: bool = True,
) -> NDArray[np.float64]:
    """Average precision of label maps, TP / (TP + FP + FN) at each IoU threshold, mean over images.

    A pair counts from IoU >= threshold (as stardist does; the contest's rule is >, which differs on exact ties only).
    Both label maps empty: 1. One of them empty: 0. Pixels that the target ignores (-1) are taken out of both.

    Args:
        prediction: integer `[H, W]`, 0 = background, or a list or tuple of such maps.
        target: the same, in the same order; -1 = ignored.
        thresholds: IoU in (0, 1].
        has_background: False counts label 0 as an instance too.

    Returns:
        float64 `[len(thresholds)]`.

    Raises:
        ValueError: no image, different numbers of images, different sizes, or illegal labels or thresholds.

    Example:
        >>> import torch
        >>> target = torch.tensor([[1, 1, 2, 2]])
        >>> label_map_ap(torch.tensor([[1, 1, 2, 0]]), target, [0.5, 0.75]).round(2).tolist()
        [1.0, 0.33]
    """
    predictions, targets = _as_list(prediction), _as_list(target)
    if not predictions or len(predictions) != len(targets):
        raise ValueError(f"label_map_ap: got {len(predictions)} predictions for {len(targets)} targets")
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"label_map_ap: IoU thresholds must lie in (0, 1], got {list(thresholds)}")
    rows = [
        average_precision(count_overlap(one, other, has_background=has_background), thresholds)
        for one, other in zip(predictions, targets, strict=True)
    ]
    return np.mean(rows, axis=0)


def _as_list(label: LabelMap | Sequence[LabelMap]) -> list[LabelMap]:
    return [label] if isinstance(label, (Tensor, np.ndarray)) else list(label)
