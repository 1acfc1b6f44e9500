"""Task `proposals`: class-agnostic object masks, ranked; they may overlap, and an object may have several.

Every concentration in `decode.kappas` with every threshold in `decode.thresholds` gives a label map; its objects are
proposals. Their score is that of `decode.object_scores`; of duplicates the best stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as run_length
from torch import Tensor

from ..config import DecodeConfig
from ..data import Dataset, Sample
from ..decode import decode
from ..grouping import RecurrentGrouping
from ..metrics import ScoredMasks, average_recall, decode_mask, encode_labels
from ..metrics.coco import RunLength
from ..model import Output
from ..prediction import Prediction
from ..report import Picture
from .base import Task
from .plots import recall_plot
from .truth import scored_masks


class ProposalsTask(Task):
    """Ranked object proposals."""

    name = "proposals"

    def decode(
        self, output: Output, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> Prediction:
        foreground = self.foreground(output)
        masks: list[RunLength] = []
        scores: list[float] = []
        for kappa in rules.kappas or (float(grouping.kappa),):
            moved = _RememberingGrouping(grouping, kappa)
            for threshold in rules.thresholds or (rules.threshold,):
                one = DecodeConfig(**{**vars(rules), "threshold": threshold})
                result = decode(output.embedding[0], foreground, size, moved, one)
                masks += encode_labels(result.labels, range(1, len(result.scores) + 1))
                scores += result.scores.tolist()
        kept = without_duplicates(masks, scores, rules.duplicate_iou)[: rules.max_proposals]
        labels = np.zeros(size, dtype=np.int32)
        for number, index in reversed(list(enumerate(kept, start=1))):
            labels[decode_mask(masks[index])] = number
        return Prediction(
            labels,
            np.array([scores[index] for index in kept], dtype=np.float32),
            output.embedding[0].cpu().numpy(),
            proposals=tuple(masks[index] for index in kept),
        )

    def evaluator(self, dataset: Dataset) -> ProposalsEvaluator:
        return ProposalsEvaluator(dataset)

    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        return []

    def describe(self, prediction: Prediction) -> str:
        return f"{len(prediction.scores)} proposals"


class ProposalsEvaluator:
    """Average recall by number of proposals."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._images: list[ScoredMasks] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        masks = scored_masks(
            self.dataset, index, sample, prediction.proposals or (), prediction.scores.tolist()
        )
        self._images.append(masks)
        instances = len(masks.targets) - sum(masks.is_crowd)
        self._rows.append(
            {
                "name": sample.name,
                "kind": sample.kind,
                "height": sample.size[0],
                "width": sample.size[1],
                "instances": instances,
                "predicted": len(prediction.scores),
                "recall50": _recall(masks) if instances else None,
            }
        )

    def result(self) -> dict[str, Any]:
        recall = average_recall(self._images)
        overall: dict[str, Any] = {
            "images": len(self._rows),
            "instances": sum(row["instances"] for row in self._rows),
            "predicted": sum(row["predicted"] for row in self._rows),
            "ar": recall,
        }
        columns = []
        for number in ("10", "20", "30", "60", "100"):
            overall[f"ar50_{number}"] = recall["0.50"][number]
            columns.append(
                [f"ar50_{number}", f"AR@{number}", f"recall at IoU 0.5 with {number} proposals an image"]
            )
        overall["ar_100"] = recall["0.50:0.95"]["100"]
        columns.append(["ar_100", "AR mean@100", "mean over IoU 0.50 to 0.95 with 100 proposals an image"])
        return {
            "overall": overall,
            "images": self._rows,
            "columns": columns,
            "order": "recall50",
            "plots": recall_plot(recall),
        }


def without_duplicates(masks: Sequence[RunLength], scores: Sequence[float], most: float) -> list[int]:
    """Numbers of the masks to keep, best score first: a mask goes whose IoU with a better one kept is `most` or
    more."""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    if not len(order):
        return []
    ranked = [masks[index] for index in order]
    iou: NDArray[np.float64] = np.asarray(run_length.iou(ranked, ranked, [0] * len(ranked)))
    kept: list[int] = []
    for place in range(len(ranked)):
        if not kept or iou[place, kept].max() < most:
            kept.append(place)
    return [int(order[place]) for place in kept]


class _RememberingGrouping(RecurrentGrouping):
    """Another grouping's steps at a concentration of its own; equal points are moved once, whatever the threshold."""

    def __init__(self, grouping: RecurrentGrouping, kappa: float) -> None:
        super().__init__(
            num_steps=grouping.num_steps,
            kappa=kappa,
            eta=float(grouping.eta),
            backend=grouping.backend,
            tol=grouping.tol,
            training_tol=grouping.training_tol,
        )
        self.train(grouping.training)
        self._known: list[tuple[Tensor, list[Tensor]]] = []

    def forward(self, points: Tensor, offsets: Tensor, num_steps: int | None = None) -> list[Tensor]:
        for known, trajectory in self._known:
            if known.shape == points.shape and torch.equal(known, points):
                return trajectory
        trajectory = super().forward(points, offsets, num_steps)
        self._known.append((points, trajectory))
        return trajectory


def _recall(masks: ScoredMasks) -> float | None:
    """Recall of one image at IoU 0.5 with all its proposals."""
    most = max(1, len(masks.detections))
    return average_recall([masks], [most])["0.50"][str(most)]


TASK = ProposalsTask()
