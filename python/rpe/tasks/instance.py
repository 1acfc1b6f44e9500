"""Task `instance`: a label map of objects, from the embedding, the grouping and the foreground head."""

from __future__ import annotations

from typing import Any

from ..config import DecodeConfig
from ..data import Dataset, Sample
from ..decode import decode
from ..grouping import RecurrentGrouping
from ..metrics import Evaluator
from ..model import Output
from ..prediction import Prediction
from ..report import Picture, find_mistakes
from .base import Task
from .plots import fate_table, recall_plot, threshold_plot


class InstanceTask(Task):
    """Instances without classes."""

    name = "instance"
    joins = True

    def decode(
        self, output: Output, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> Prediction:
        foreground = self.foreground(output)
        result = decode(output.embedding[0], foreground, size, grouping, rules)
        return Prediction(result.labels, result.scores, output.embedding[0].cpu().numpy())

    def evaluator(self, dataset: Dataset) -> InstanceEvaluator:
        return InstanceEvaluator(dataset)

    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        return []

    def describe(self, prediction: Prediction) -> str:
        return f"{len(prediction.scores)} objects"


class InstanceEvaluator:
    """`metrics.Evaluator` over predictions, with the fates of the true instances."""

    def __init__(self, dataset: Dataset, proposals: bool = True) -> None:
        self.has_background = dataset.has_background
        options: dict[str, Any] = {} if proposals else {"proposals": ()}
        self._evaluator = Evaluator(has_background=self.has_background, **options)
        self._fates: list[dict[str, int]] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        scores = prediction.scores.tolist()
        self._evaluator.add(sample.name, sample.kind, sample.size, prediction.labels, scores, sample.label)
        mistakes = find_mistakes(prediction.labels, sample.label, has_background=self.has_background)
        self._fates.append(mistakes.counts)

    def result(self) -> dict[str, Any]:
        result = self._evaluator.result()
        for row, fates in zip(result["images"], self._fates, strict=True):
            row["fates"] = fates
        fates = {name: sum(counts[name] for counts in self._fates) for name in (self._fates or [{}])[0]}
        result["overall"]["fates"] = fates
        result["tables"] = fate_table(fates)
        result["plots"] = threshold_plot(result["overall"]["ap"]) | recall_plot(result["overall"]["ar"])
        return result


TASK = InstanceTask()
