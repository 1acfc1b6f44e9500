"""Task `proposals`: class-agnostic object masks, ranked; they may overlap, and an object may have several.

Every concentration in `decode.kappas` with every threshold in `decode.thresholds` gives a label map; its objects are
proposals. Their score is that of `objects.object_scores`; of duplicates the best stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as run_length
from torch import Tensor

from ..classes import Classes
from ..config import DecodeConfig
from ..data import Dataset, Sample
from ..grouping import RecurrentGrouping
from ..joining import ObjectJoiner
from ..metrics import Matches, average_recall, decode_mask, encode_labels, match_image
from ..metrics.coco import RunLength
from ..model import Output
from ..objects import object_means, object_scores
from ..prediction import Prediction
from ..report import Picture
from ..tiling import Tile
from .base import Task
from .instance import ObjectMosaic
from .plots import recall_plot
from .truth import scored_masks


class ProposalsTask(Task):
    """Ranked object proposals."""

    name = "proposals"

    def mosaic(
        self, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> ProposalsMosaic:
        return ProposalsMosaic(self, size, grouping, rules)

    def evaluator(self, dataset: Dataset) -> ProposalsEvaluator:
        return ProposalsEvaluator(dataset)

    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        return []

    def describe(self, prediction: Prediction, classes: Classes) -> str:
        return f"{len(prediction.scores)} proposals"


class ProposalsMosaic(ObjectMosaic):
    """For each concentration with each threshold the objects of tiles, joined; kept as run-length codes."""

    def __init__(
        self, task: Task, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> None:
        super().__init__(task, size, grouping, rules)
        kappas = rules.kappas or (float(grouping.kappa),)
        thresholds = rules.thresholds or (rules.threshold,)
        self._joiners = {pair: ObjectJoiner(*size, rules.connected) for pair in product(kappas, thresholds)}
        self._parts: dict[tuple[float, float], list[RunLength]] = {pair: [] for pair in self._joiners}

    def add(self, tile: Tile, output: Output) -> None:
        moved: dict[float, RecurrentGrouping] = {}
        for (kappa, threshold), joiner in self._joiners.items():
            grouping = moved.setdefault(kappa, _RememberingGrouping(self.grouping, kappa))
            rules = replace(self.rules, threshold=threshold)
            labels, sums, clusters = self.objects_of(tile, output, grouping, rules)
            parts = self._parts[kappa, threshold]
            core = joiner.add(tile, labels, sums, clusters)
            numbers = range(len(parts) + 1, len(parts) + len(sums) + 1)
            parts += encode_labels(core, numbers, (tile.rows.start, tile.columns.start), self.size)

    def finish(self, embedding: NDArray[np.float32]) -> Prediction:
        masks: list[RunLength] = []
        scores: list[float] = []
        for pair, joiner in self._joiners.items():
            number, sums = joiner.join(self.rules.min_size, self.rules.background == "largest")
            parts: list[list[RunLength]] = [[] for _ in sums]
            for part, code in zip(number[1:], self._parts[pair], strict=True):
                if part:
                    parts[part - 1].append(code)
            masks += [codes[0] if len(codes) == 1 else run_length.merge(codes) for codes in parts]
            confidence, centre = object_means(sums, 1)
            scores += object_scores(confidence[:, 0], centre).tolist()
        kept = without_duplicates(masks, scores, self.rules.duplicate_iou, self.rules.max_proposals)
        labels = np.zeros(self.size, dtype=np.int32)
        for place, index in reversed(list(enumerate(kept, start=1))):
            labels[decode_mask(masks[index])] = place
        return Prediction(
            labels,
            np.array([scores[index] for index in kept], dtype=np.float32),
            embedding,
            proposals=tuple(masks[index] for index in kept),
        )


class ProposalsEvaluator:
    """Average recall by number of proposals."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._images: list[Matches] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        masks = scored_masks(
            self.dataset, index, sample, prediction.proposals or (), prediction.scores.tolist()
        )
        matches = match_image(masks, use_classes=False)
        self._images.append(matches)
        instances, most = len(masks.targets) - sum(masks.is_crowd), max(1, len(masks.detections))
        self._rows.append(
            {
                "name": sample.name,
                "kind": sample.kind,
                "height": sample.size[0],
                "width": sample.size[1],
                "instances": instances,
                "predicted": len(prediction.scores),
                "recall50": average_recall([matches], [most])["0.50"][str(most)] if instances else None,
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


def without_duplicates(
    masks: Sequence[RunLength], scores: Sequence[float], most: float, number: int
) -> list[int]:
    """Numbers of up to `number` masks to keep, best score first: a mask goes whose IoU with a better one kept is
    `most` or more."""
    kept: list[int] = []
    for index in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist():
        if len(kept) == number:
            break
        better = [masks[other] for other in kept]
        if not better or run_length.iou([masks[index]], better, [0] * len(better)).max() < most:
            kept.append(index)
    return kept


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
        self.train(grouping.training).to(grouping.log_kappa.device)
        self._known: list[tuple[Tensor, list[Tensor]]] = []

    def forward(
        self, points: Tensor, offsets: Tensor, num_steps: int | None = None, tol: float | None = None
    ) -> list[Tensor]:
        for known, trajectory in self._known:
            if known.shape == points.shape and torch.equal(known, points):
                return trajectory
        trajectory = super().forward(points, offsets, num_steps, tol)
        self._known.append((points, trajectory))
        return trajectory


TASK = ProposalsTask()
