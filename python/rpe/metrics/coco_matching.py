"""pycocotools' matching of scored masks, image by image, and its accumulation over images.

Of an image that is matched no mask is kept: a detection is a score, and two bytes at each IoU.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .coco import RunLength, ScoredMasks
from .matching import IOU_THRESHOLDS

_ANY_CLASS = -1
"""pycocotools' name for all of them together."""
_NO_SIZE_LIMIT = [0.0, 1e10]


@dataclass(frozen=True, eq=False)
class Matches:
    """What `match_image` found in one image."""

    entries: dict[int, dict[str, NDArray[Any]]]
    """By class (-1 for all together) pycocotools' results for D detections, best first, and G true masks at the IoUs in
    `IOU_THRESHOLDS`: "dtScores" `[D]`, bool "dtMatches" and "dtIgnore" `[10, D]`, bool "gtIgnore" `[G]`."""
    use_classes: bool
    """Masks of one class only were compared."""
    most: int | None
    """Detections of a class that were compared, best first; None for all."""
    num_targets: int
    """True masks, crowds included."""


def match_image(image: ScoredMasks, *, use_classes: bool, most: int | None = None) -> Matches:
    """Match the detections of one image with its true masks.

    Args:
        image: masks.
        use_classes: compare masks of one class only (`useCats`).
        most: number of detections of a class, best first (`maxDets`); None takes all.
    """
    truth, found = _coco(image)
    evaluation = COCOeval(truth, found, iouType="segm")
    _set(evaluation, use_classes, [max(1, len(image.detections) if most is None else most)])
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    entries = {
        int(entry["category_id"]): {
            "dtScores": np.asarray(entry["dtScores"], dtype=np.float64),
            "dtMatches": np.asarray(entry["dtMatches"]) > 0,
            "dtIgnore": np.asarray(entry["dtIgnore"]) > 0,
            "gtIgnore": np.asarray(entry["gtIgnore"]) > 0,
        }
        for entry in evaluation.evalImgs
        if entry is not None
    }
    return Matches(entries, use_classes, most, len(image.targets))


def matched(
    images: Iterable[ScoredMasks | Matches], *, use_classes: bool, most: int | None = None
) -> list[Matches]:
    """Images that are not matched yet are; arguments as for `match_image`.

    Raises:
        ValueError: one was matched otherwise, or with fewer detections.
    """
    found = [
        match_image(image, use_classes=use_classes, most=most) if isinstance(image, ScoredMasks) else image
        for image in images
    ]
    for image in found:
        fewer = image.most is not None and (most is None or image.most < most)
        if image.use_classes != use_classes or fewer:
            raise ValueError(
                f"expected images that are matched with use_classes={use_classes}, most={most}, got one with "
                f"use_classes={image.use_classes}, most={image.most}; use match_image with the former, or pass masks"
            )
    return found


def accumulate(images: Sequence[Matches], numbers: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """pycocotools' tables over images that are matched alike, at least one, for numbers of detections per image and
    class: "precision" `[IoU, recall, class, 1, number]`, "recall" `[IoU, class, 1, number]`."""
    kinds = sorted({kind for image in images for kind in image.entries})
    evaluation = COCOeval(iouType="segm")
    _set(evaluation, images[0].use_classes, numbers)
    evaluation.params.imgIds, evaluation.params.catIds = list(range(len(images))), kinds
    evaluation.evalImgs = [image.entries.get(kind) for kind in kinds for image in images]
    evaluation._paramsEval = evaluation.params
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    tables: dict[str, NDArray[np.float64]] = evaluation.eval
    return tables


def _set(evaluation: COCOeval, use_classes: bool, numbers: Sequence[int]) -> None:
    evaluation.params.useCats = int(use_classes)
    evaluation.params.iouThrs = np.array(IOU_THRESHOLDS)
    evaluation.params.maxDets = sorted(numbers)
    evaluation.params.areaRng = [_NO_SIZE_LIMIT]
    evaluation.params.areaRngLbl = ["all"]


def _coco(image: ScoredMasks) -> tuple[COCO, COCO]:
    """The image as two COCO data sets, true and detected."""
    targets, detections = [], []
    classes = image.target_classes or [1] * len(image.targets)
    crowds = image.is_crowd or [False] * len(image.targets)
    for code, kind, crowd in zip(image.targets, classes, crowds, strict=True):
        targets.append({**_annotation(code, kind), "iscrowd": int(crowd)})
    classes = image.classes or [1] * len(image.detections)
    for code, kind, score in zip(image.detections, classes, image.scores, strict=True):
        detections.append({**_annotation(code, kind), "iscrowd": 0, "score": score})
    present = sorted({annotation["category_id"] for annotation in targets + detections} | {1})
    categories = [{"id": kind, "name": str(kind)} for kind in present]
    described = {"id": 0, "height": image.size[0], "width": image.size[1]}
    return _index(described, targets, categories), _index(described, detections, categories)


def _annotation(code: RunLength, kind: int) -> dict[str, Any]:
    return {
        "image_id": 0,
        "category_id": kind,
        "segmentation": code,
        "area": float(run_length.area(code)),
    }


def _index(
    described: dict[str, int], annotations: list[dict[str, Any]], categories: list[dict[str, Any]]
) -> COCO:
    data = COCO()
    data.dataset = {
        "images": [described],
        "categories": categories,
        "annotations": [
            {**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
    return data
