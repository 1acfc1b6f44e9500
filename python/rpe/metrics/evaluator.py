"""Collect predictions image by image, then one JSON-able result: overall, per kind, per image size, and per image.

`add` computes everything that belongs to one image and keeps numbers, neither label maps nor masks. `result` only
averages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .agreement import count_difference, foreground_ari, partition_ari, symmetric_best_dice
from .coco import ScoredMasks, encode_labels, is_counted
from .coco_matching import Matches, match_image
from .matching import IOU_THRESHOLDS, average_precision, match_instances
from .overlap import LabelMap, Overlap, as_label_array, count_overlap
from .recall import PROPOSALS, average_recall

COLUMNS = (
    ("ap50", "AP@0.5", "AP at IoU 0.5: TP / (TP + FP + FN), mean over images"),
    ("ap_mean", "AP mean", "mean over IoU 0.50, 0.55, ..., 0.95"),
    ("f1_50", "F1@0.5", "F1 at IoU 0.5, counts pooled over images"),
    ("ari", "ARI", "adjusted Rand index on foreground pixels"),
    ("sbd", "SBD", "symmetric best Dice"),
    ("abs_dic", "|DiC|", "absolute difference in count, mean over images"),
)
"""Key, heading and meaning of the numbers that stand in a summary."""
SMALL_IMAGE_PIXELS = 256 * 320
"""Images up to this many pixels form the group "small", all others "large"."""


@dataclass(frozen=True)
class _Image:
    row: dict[str, Any]
    ap: list[float]
    hits: int
    proposals: Matches | None


class Evaluator:
    """Metrics over a data set.

    Args:
        thresholds: IoU thresholds of the average precision.
        has_background: label 0 is background (`Dataset.has_background`).
        proposals: numbers of proposals for average recall; empty leaves it out (it takes most of the time).

    Example:
        >>> import torch
        >>> evaluator = Evaluator()
        >>> label = torch.tensor([[0, 1], [2, 2]])
        >>> evaluator.add("a", None, (2, 2), label, None, label)
        >>> evaluator.result()["overall"]["ap50"]
        1.0
    """

    def __init__(
        self,
        thresholds: Sequence[float] = IOU_THRESHOLDS,
        *,
        has_background: bool = True,
        proposals: Sequence[int] = PROPOSALS,
    ) -> None:
        self.thresholds = tuple(thresholds)
        self.has_background = has_background
        self.proposals = tuple(proposals)
        self._images: list[_Image] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(
        self,
        name: str,
        kind: str | None,
        size: tuple[int, int],
        prediction: LabelMap,
        scores: Sequence[float] | Tensor | None,
        target: LabelMap,
    ) -> None:
        """Evaluate one image.

        Args:
            name: name of the image, for its row.
            kind: group for the report, or None.
            size: (height, width) that decides the size group; usually the label maps' own.
            prediction: integer `[H, W]`, 0 = background.
            scores: one finite number per predicted instance in ascending order of their labels, larger is better;
                None ranks by area, larger first.
            target: integer `[H, W]`, -1 = ignored.

        Raises:
            ValueError: sizes differ, labels are illegal, or there are not as many scores as instances.
        """
        overlap = count_overlap(prediction, target, has_background=self.has_background)
        ap = average_precision(overlap, self.thresholds)
        hits = len(match_instances(overlap, 0.5)[0])
        row = {
            "name": name,
            "kind": kind,
            "height": int(size[0]),
            "width": int(size[1]),
            "instances": len(overlap.target_labels),
            "predicted": len(overlap.predicted_labels),
            "ap50": float(average_precision(overlap, [0.5])[0]),
            "ap_mean": float(ap.mean()),
            "ari": foreground_ari(prediction, target, has_background=self.has_background),
            "ari_all": partition_ari(prediction, target),
            "sbd": symmetric_best_dice(overlap),
            "dic": count_difference(overlap),
        }
        ranked = None
        if self.proposals:
            masks = self._ranked(prediction, scores, target, overlap)
            ranked = match_image(masks, use_classes=False, most=max(self.proposals))
        self._images.append(_Image(row, [float(value) for value in ap], hits, ranked))

    def _ranked(
        self,
        prediction: LabelMap,
        scores: Sequence[float] | Tensor | None,
        target: LabelMap,
        overlap: Overlap,
    ) -> ScoredMasks:
        """The true masks, and as many of the best that were found as are asked for. Ignored pixels are treated as by
        `masks_of_label_map`."""
        shift = 0 if self.has_background else 1
        predicted = as_label_array(prediction, "prediction") + shift
        wanted = as_label_array(target, "target")
        labels, areas = np.unique(predicted[predicted > 0], return_counts=True)
        if scores is None:
            values = areas.astype(np.float64)
        else:
            values = np.asarray(
                scores.detach().cpu() if isinstance(scores, Tensor) else scores, dtype=np.float64
            )
            if values.shape != labels.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"Evaluator.add: expected {len(labels)} finite scores, one per predicted instance, "
                    f"got {list(values.shape)}"
                )
        place = np.searchsorted(labels, overlap.predicted_labels)
        counted = is_counted(areas[place], overlap.predicted_sizes, overlap.iou.max(axis=1, initial=0.0))
        place = place[counted]
        best = place[np.argsort(-values[place], kind="stable")[: max(self.proposals)]]
        return ScoredMasks(
            (wanted.shape[0], wanted.shape[1]),
            encode_labels(wanted + shift, overlap.target_labels),
            encode_labels(np.where(wanted < 0, 0, predicted), labels[best]),
            values[best].tolist(),
        )

    def result(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`.

        Returns:
            `{"overall": group, "by_kind": {kind: group}, "by_size": {"small": ..., "large": ...}, "images": [row]}`,
            where a group has: images, instances, predicted (counts); ap (threshold -> mean over images), ap50, ap_mean;
            ap50_pooled, precision50, recall50, f1_50 (counts pooled over images, IoU 0.5); ari (foreground), ari_all,
            sbd, abs_dic (means over images); ar (IoU -> number of proposals -> recall). None = undefined. "columns" are
            those of a summary, and "order" is the key by which images are ranked, lower = worse.
        """
        return {
            "overall": self._group(self._images),
            "by_kind": self._groups(lambda row: row["kind"]),
            "by_size": self._groups(_size_group),
            "images": [dict(image.row) for image in self._images],
            "columns": [list(column) for column in COLUMNS],
            "order": "ap50",
        }

    def _groups(self, key: Callable[[dict[str, Any]], str | None]) -> dict[str, Any]:
        """One group per value of `key` over the rows, None left out."""
        names = sorted({name for image in self._images if (name := key(image.row)) is not None})
        return {
            name: self._group([image for image in self._images if key(image.row) == name]) for name in names
        }

    def _group(self, images: list[_Image]) -> dict[str, Any]:
        rows = [image.row for image in images]
        instances, predicted = (sum(row[key] for row in rows) for key in ("instances", "predicted"))
        hits = sum(image.hits for image in images)
        ap = (
            np.mean([image.ap for image in images], axis=0).tolist()
            if images
            else [None] * len(self.thresholds)
        )
        return {
            "images": len(images),
            "instances": instances,
            "predicted": predicted,
            "ap": {f"{threshold:.2f}": value for threshold, value in zip(self.thresholds, ap, strict=True)},
            "ap50": _mean([row["ap50"] for row in rows]),
            "ap_mean": _mean([row["ap_mean"] for row in rows]),
            "ap50_pooled": _ratio(hits, instances + predicted - hits),
            "precision50": _ratio(hits, predicted),
            "recall50": _ratio(hits, instances),
            "f1_50": _ratio(2 * hits, instances + predicted),
            "ari": _mean([row["ari"] for row in rows]),
            "ari_all": _mean([row["ari_all"] for row in rows]),
            "sbd": _mean([row["sbd"] for row in rows]),
            "abs_dic": _mean([abs(row["dic"]) for row in rows]),
            "ar": average_recall(
                [image.proposals for image in images if image.proposals is not None], self.proposals
            )
            if self.proposals
            else {},
        }


def _size_group(row: dict[str, Any]) -> str:
    return "small" if row["height"] * row["width"] <= SMALL_IMAGE_PIXELS else "large"


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the defined values; None without any."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
