"""Average recall of scored masks by number of proposals, through pycocotools.

Class-agnostic (useCats = 0), over all sizes, with its own IoU thresholds and numbers of proposals. Matching is
pycocotools' alone; this file only turns label maps into run-length codes and reads the recall table.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .matching import IOU_THRESHOLDS
from .overlap import IntArray

PROPOSALS = (10, 30, 60, 100)
_NO_SIZE_LIMIT = [0.0, 1e10]


@dataclass(frozen=True)
class ProposalImage:
    """One image for average recall: run-length codes of its targets, and of its proposals with their scores."""

    size: tuple[int, int]
    targets: list[dict[str, Any]]
    proposals: list[dict[str, Any]]
    scores: list[float]


def proposal_image(
    prediction: IntArray,
    predicted_labels: IntArray,
    scores: Sequence[float],
    target: IntArray,
    target_labels: IntArray,
) -> ProposalImage:
    """Label maps `[H, W]` as masks; `scores[k]` belongs to `predicted_labels[k]`, larger is better."""
    size = (target.shape[0], target.shape[1])
    return ProposalImage(
        size, _encode(target, target_labels), _encode(prediction, predicted_labels), list(scores)
    )


def average_recall(
    images: Sequence[ProposalImage], proposals: Sequence[int] = PROPOSALS
) -> dict[str, dict[str, float | None]]:
    """Share of target instances that the first n proposals of their image find, pooled over images.

    Returns:
        `{"0.50": {"10": recall, ...}, "0.50:0.95": {...}}`: at IoU 0.5, and the mean over 0.50, 0.55, ..., 0.95; None
        without target instances.
    """
    if not any(image.targets for image in images):
        nothing: dict[str, float | None] = {str(number): None for number in proposals}
        return {"0.50": dict(nothing), "0.50:0.95": dict(nothing)}
    truth, found = _coco(images)
    evaluation = COCOeval(truth, found, iouType="segm")
    evaluation.params.useCats = 0
    evaluation.params.iouThrs = np.array(IOU_THRESHOLDS)
    evaluation.params.maxDets = sorted(proposals)
    evaluation.params.areaRng = [_NO_SIZE_LIMIT]
    evaluation.params.areaRngLbl = ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0, 0, :]  # [IoU thresholds, numbers of proposals]
    columns = [str(number) for number in sorted(proposals)]
    return {
        "0.50": dict(zip(columns, map(float, recall[0]), strict=True)),
        "0.50:0.95": dict(zip(columns, map(float, recall.mean(axis=0)), strict=True)),
    }


def _encode(label: IntArray, values: IntArray) -> list[dict[str, Any]]:
    """One run-length code per label."""
    return [run_length.encode(np.asfortranarray(label == value, dtype=np.uint8)) for value in values]


def _coco(images: Sequence[ProposalImage]) -> tuple[COCO, COCO]:
    """The images as two COCO data sets of one category, targets and proposals."""
    described = [
        {"id": number, "height": image.size[0], "width": image.size[1]} for number, image in enumerate(images)
    ]
    targets, proposals = [], []
    for number, image in enumerate(images):
        targets += [_annotation(number, code) for code in image.targets]
        proposals += [
            {**_annotation(number, code), "score": score}
            for code, score in zip(image.proposals, image.scores, strict=True)
        ]
    return _index(described, targets), _index(described, proposals)


def _annotation(image: int, code: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": code,
        "area": float(run_length.area(code)),
    }


def _index(described: list[dict[str, int]], annotations: list[dict[str, Any]]) -> COCO:
    data = COCO()
    data.dataset = {
        "images": described,
        "categories": [{"id": 1, "name": "instance"}],
        "annotations": [
            {**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
    return data
