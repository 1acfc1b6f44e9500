"""Task `semantic_instance`: instances from the embedding, each with the class that its pixels vote for.

A pixel belongs to an object where the semantic head finds the background unlikely; inside a group every pixel votes
with its class probabilities, the background's left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..classes import Classes
from ..config import DecodeConfig
from ..data import Dataset, Sample
from ..grouping import RecurrentGrouping
from ..metrics import Matches, PanopticQuality, coco_ap, encode_labels, match_image, region_ap
from ..model import Output
from ..objects import object_means, object_scores
from ..prediction import Prediction
from ..report import Picture
from ..tiling import Tile
from .base import Task
from .instance import InstanceEvaluator, InstanceMosaic
from .plots import class_table, precision_plot
from .semantic import SemanticEvaluator, class_panels, class_probability
from .truth import scored_masks


class SemanticInstanceTask(Task):
    """Instances with classes."""

    name = "semantic_instance"

    def foreground(self, output: Output) -> Tensor:
        """Log-odds of any class against the background."""
        if output.semantic is None:
            raise ValueError("the model has no semantic head; train it with task = 'semantic_instance'")
        logit = output.semantic[0]
        return torch.logsumexp(logit[1:], dim=0, keepdim=True) - logit[:1]

    def mosaic(
        self, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> SemanticInstanceMosaic:
        return SemanticInstanceMosaic(self, size, grouping, rules)

    def evaluator(self, dataset: Dataset) -> SemanticInstanceEvaluator:
        return SemanticInstanceEvaluator(dataset)

    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        return class_panels(sample, prediction, Classes.of(dataset))

    def pictures(self, prediction: Prediction) -> dict[str, NDArray[Any]]:
        assert prediction.semantic is not None
        return {"classes": prediction.semantic.astype(np.uint16)}

    def describe(self, prediction: Prediction, classes: Classes) -> str:
        assert prediction.classes is not None
        found = classes.count(prediction.classes.tolist())
        return f"{len(prediction.scores)} objects{f' ({found})' if found else ''}"


class SemanticInstanceMosaic(InstanceMosaic):
    """Objects of tiles, joined; those of all tiles together vote for a class."""

    def __init__(
        self, task: Task, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> None:
        super().__init__(task, size, grouping, rules)
        self._semantic, self._num_classes = np.zeros(size, dtype=np.int64), 1

    def add(self, tile: Tile, output: Output) -> None:
        probability = class_probability(output, tile.size)  # [C, view]
        self._num_classes = len(probability)
        self.add_objects(tile, output, probability)
        rows, columns = tile.core_in_view
        self._semantic[tile.core] = probability[:, rows, columns].argmax(dim=0).cpu().numpy()

    def finish(self, embedding: NDArray[np.float32]) -> Prediction:
        labels, sums = self.objects()
        votes, centre = object_means(sums, self._num_classes)  # [K, C]
        classes = 1 + votes[:, 1:].argmax(axis=1)
        certainty = np.take_along_axis(votes, classes[:, None], axis=1)[:, 0]
        return Prediction(
            labels,
            object_scores(certainty, centre),
            embedding,
            classes=classes,
            semantic=self._semantic,
        )


class SemanticInstanceEvaluator:
    """AP^r, COCO AP, PQ and mIoU, beside the metrics of instances without classes."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._instances = InstanceEvaluator(dataset, proposals=False)
        self._semantic = SemanticEvaluator(dataset)
        self._panoptic = PanopticQuality(dataset.classes)
        self._matches: list[Matches] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        assert prediction.classes is not None and sample.instance_class is not None
        self._instances.add(index, sample, prediction)
        self._semantic.add(index, sample, prediction)
        kinds = prediction.classes.tolist()
        codes = encode_labels(prediction.labels, range(1, len(kinds) + 1))
        masks = scored_masks(self.dataset, index, sample, codes, prediction.scores.tolist(), kinds)
        self._matches.append(match_image(masks, use_classes=True))
        labels, dense = np.unique(np.maximum(sample.label.numpy(), 0), return_inverse=True)
        dense = dense.reshape(sample.size) + (0 if labels[0] == 0 else 1)
        wanted = np.where(sample.label.numpy() < 0, -1, dense)
        true_kinds = [int(sample.instance_class[int(label)]) for label in labels if label > 0]
        self._panoptic.add(prediction.labels, kinds, wanted, true_kinds)

    def result(self) -> dict[str, Any]:
        result, semantic = self._instances.result(), self._semantic.result()
        classes = self.dataset.classes
        region, panoptic, coco = (
            region_ap(self._matches, classes),
            self._panoptic.result(),
            coco_ap(self._matches),
        )
        result["overall"] |= {
            "apr50": region["mean"],
            "apr50_by_class": region["by_class"],
            "coco_ap": coco["ap"],
            "coco_ap50": coco["ap50"],
            "coco_ap75": coco["ap75"],
            "pq": panoptic["pq"],
            "sq": panoptic["sq"],
            "rq": panoptic["rq"],
            "pq_by_class": panoptic["by_class"],
            **{key: semantic["overall"][key] for key in ("miou", "accuracy", "iou")},
        }
        for row, other in zip(result["images"], semantic["images"], strict=True):
            row["miou"] = other["miou"]
        result["columns"] = [
            ["apr50", "AP^r@0.5", "area under precision over recall at IoU 0.5, mean over classes"],
            ["coco_ap", "COCO AP", "mean over IoU 0.50 to 0.95 and classes"],
            ["pq", "PQ", "panoptic quality, mean over classes without the background"],
            ["miou", "mIoU", "semantic head, mean over the classes that occur, background included"],
            *result["columns"],
        ]
        result["tables"] |= class_table(
            "Classes",
            {"AP^r@0.5": region["by_class"], "PQ": panoptic["by_class"], "IoU": semantic["overall"]["iou"]},
        )
        result["plots"] |= precision_plot(region["curves"])
        return result


TASK = SemanticInstanceTask()
