"""Ranked average precision of scored masks with classes: AP^r of the VOC literature, and COCO's AP.

Both rest on pycocotools' matching (`coco_matching.py`). They are not the unranked TP / (TP + FP + FN) of `matching.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coco import ScoredMasks
from .coco_matching import Matches, accumulate, matched
from .matching import IOU_THRESHOLDS

DETECTIONS = 100
"""COCO's number of detections per image and class."""


def region_ap(
    images: Sequence[ScoredMasks | Matches], classes: Sequence[str], threshold: float = 0.5
) -> dict[str, Any]:
    """AP^r (Hariharan et al., Simultaneous Detection and Segmentation, ECCV 2014): the area under the precision-recall
    curve of each class, detections of all images ranked by score, a mask right where its IoU reaches the threshold.

    The area is that of VOC since 2010: under the curve made non-increasing, at every recall that occurs. COCO's
    (`coco_ap`) samples the same curve at 101 recalls.

    Args:
        images: masks with classes, or what `match_image` with `use_classes=True` made of them.
        classes: names; index 0 is the background.
        threshold: IoU, one of `IOU_THRESHOLDS`.

    Returns:
        {"mean": mean over the classes that occur in the truth, "by_class": {name: AP},
        "curves": {name: {"recall": [...], "precision": [...]}}}; None without a true instance.
    """
    by_class: dict[str, float] = {}
    curves: dict[str, dict[str, list[float]]] = {}
    found = matched(images, use_classes=True)
    if any(image.num_targets for image in found):
        place = IOU_THRESHOLDS.index(threshold)
        for index, name in enumerate(classes):
            entries = [image.entries[index] for image in found if index in image.entries]
            hits, number = _ranked(entries, place)
            if index and number:
                recall, precision = _curve(hits, number)
                by_class[name] = _area(recall, precision)
                curves[name] = {"recall": recall.tolist(), "precision": precision.tolist()}
    return {"mean": _mean(list(by_class.values())), "by_class": by_class, "curves": curves}


def coco_ap(images: Sequence[ScoredMasks | Matches]) -> dict[str, float | None]:
    """COCO's mask AP over all sizes with at most 100 detections per image and class; `images` as for `region_ap`.

    Returns:
        {"ap": mean over IoU 0.50, 0.55, ..., 0.95 and classes, "ap50", "ap75"}; None without a true instance.
    """
    found = matched(images, use_classes=True, most=DETECTIONS)
    if not any(image.num_targets for image in found):
        return {"ap": None, "ap50": None, "ap75": None}
    precision = accumulate(found, [DETECTIONS])["precision"][..., 0, -1]

    def mean(values: NDArray[np.float64]) -> float | None:
        known = values[values > -1]
        return float(known.mean()) if known.size else None

    return {
        "ap": mean(precision),
        "ap50": mean(precision[IOU_THRESHOLDS.index(0.5)]),
        "ap75": mean(precision[IOU_THRESHOLDS.index(0.75)]),
    }


def _ranked(entries: Sequence[dict[str, NDArray[Any]]], place: int) -> tuple[NDArray[np.bool_], int]:
    """Of one class at one IoU: right or wrong by descending score, those that count; and the number of true
    instances."""
    scores = np.concatenate([np.zeros(0), *(entry["dtScores"] for entry in entries)])
    hit = np.concatenate([np.zeros(0, bool), *(entry["dtMatches"][place] for entry in entries)])
    ignored = np.concatenate([np.zeros(0, bool), *(entry["dtIgnore"][place] for entry in entries)])
    order = np.argsort(-scores, kind="stable")
    number = sum(int((~entry["gtIgnore"]).sum()) for entry in entries)
    return hit[order][~ignored[order]], number


def _curve(hits: NDArray[np.bool_], number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision after each detection."""
    right = np.cumsum(hits)
    return right / number, right / np.arange(1, len(hits) + 1)


def _area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under the curve, the precision at a recall being the best at that recall or beyond."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
