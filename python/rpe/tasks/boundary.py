"""Task `boundary`: boundary probabilities from embeddings of few dimensions at several depths, and from their fusion.

The prediction is the mean of all of them, as in the authors' released demonstration. As there, it is thinned by
non-maximum suppression before it is scored (`ridges.py`), and at each threshold as the benchmark does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as planar_components
from skimage.morphology import thin

from ..classes import Classes
from ..config import DecodeConfig
from ..data import Dataset, Sample
from ..data.void import close_bands
from ..decode import enlarged
from ..grouping import RecurrentGrouping
from ..losses import label_boundaries
from ..metrics import boundary_scores, count_boundaries
from ..metrics.boundary import NUM_THRESHOLDS, BoundaryCounts, best_f
from ..model import Output
from ..prediction import Prediction
from ..report import Picture
from ..tiling import Tile
from .base import Task
from .plots import precision_plot
from .ridges import ridges

_REGION_THRESHOLD = 0.5
"""Boundary probability that parts two regions of `Prediction.labels`."""
_ROWS = 512
"""Rows whose regions are measured at once."""
_THRESHOLDS = NUM_THRESHOLDS
_DEPTH_THRESHOLDS = 19
"""Thresholds for the single depths and the fusion, whose numbers stand beside the main one; it has the benchmark's
99."""


class BoundaryTask(Task):
    """Boundaries between the regions of all annotators."""

    name = "boundary"
    groups = False

    def training_sample(self, sample: Sample) -> Sample:
        """With the labels on both sides of a void band grown into it: the boundary lies where they meet."""
        return replace(sample, label=close_bands(sample.label))

    def mosaic(
        self, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> BoundaryMosaic:
        return BoundaryMosaic(size)

    def evaluator(self, dataset: Dataset) -> BoundaryEvaluator:
        return BoundaryEvaluator()

    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        assert prediction.boundary is not None and prediction.boundary_depths is not None
        truth = np.mean(annotators(sample), axis=0)
        single = [
            (name, _grey(probability))
            for name, probability in zip(
                depth_names(len(prediction.boundary_depths)), prediction.boundary_depths, strict=True
            )
        ]
        return [
            ("boundary probability", _grey(prediction.boundary)),
            ("thinned", _grey(ridges(prediction.boundary))),
            ("all annotators", _grey(truth)),
            *single,
        ]

    def pictures(self, prediction: Prediction) -> dict[str, NDArray[Any]]:
        assert prediction.boundary is not None and prediction.boundary_depths is not None
        maps = {"boundary": prediction.boundary, "thin": ridges(prediction.boundary)}
        names = depth_names(len(prediction.boundary_depths))
        maps |= dict(zip(names, prediction.boundary_depths, strict=True))
        return {name.replace(" ", "-"): _bytes(probability) for name, probability in maps.items()}

    def describe(self, prediction: Prediction, classes: Classes) -> str:
        return f"boundaries of {len(prediction.scores)} regions"


class BoundaryMosaic:
    """The probabilities at all depths of an image of `size` (H, W); regions are those of the whole image."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._depths: NDArray[np.float32] | None = None

    def add(self, tile: Tile, output: Output) -> None:
        if output.boundary is None:
            raise ValueError("the model has no boundary head; train it with task = 'boundary'")
        if self._depths is None:
            self._depths = np.empty((output.boundary.shape[1], *self.size), dtype=np.float32)
        rows, columns = tile.core_in_view
        probability = enlarged(output.boundary[0], tile.size)[:, rows, columns].sigmoid()
        rows, columns = tile.core
        self._depths[:, rows, columns] = probability.cpu().numpy()

    def finish(self, embedding: NDArray[np.float32]) -> Prediction:
        assert self._depths is not None, "no tile was added"
        boundary = self._depths.mean(axis=0)
        labels, number = planar_components(boundary < _REGION_THRESHOLD, output=np.int32)
        total = np.zeros((2, number + 1))
        for start in range(0, len(labels), _ROWS):
            index = labels[start : start + _ROWS].reshape(-1)
            certainty = 1 - boundary[start : start + _ROWS].reshape(-1)
            total += [np.bincount(index, certainty, number + 1), np.bincount(index, minlength=number + 1)]
        return Prediction(
            labels,
            (total[0] / np.maximum(total[1], 1))[1:].astype(np.float32),
            embedding,
            boundary=boundary,
            boundary_depths=self._depths,
        )


class BoundaryEvaluator:
    """ODS, OIS and AP against all annotators, of the mean map and of each depth."""

    def __init__(self) -> None:
        self._counts: list[BoundaryCounts] = []
        self._single: dict[str, list[BoundaryCounts]] = {}
        self._rows: list[dict[str, Any]] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        assert prediction.boundary is not None and prediction.boundary_depths is not None
        truth = annotators(sample)
        counts = count_boundaries(ridges(prediction.boundary), truth, num_thresholds=_THRESHOLDS)
        self._counts.append(counts)
        maps = prediction.boundary_depths
        for name, probability in zip(depth_names(len(maps)), maps, strict=True):
            single = count_boundaries(ridges(probability), truth, num_thresholds=_DEPTH_THRESHOLDS)
            self._single.setdefault(name, []).append(single)
        self._rows.append(
            {
                "name": sample.name,
                "kind": sample.kind,
                "height": sample.size[0],
                "width": sample.size[1],
                "annotators": len(truth),
                "f": best_f(counts),
            }
        )

    def result(self) -> dict[str, Any]:
        scores = boundary_scores(self._counts)
        curve = scores.pop("curve")
        single = {name: boundary_scores(counts) for name, counts in self._single.items()}
        rows = [[name, each["ods"], each["ois"], each["ap"]] for name, each in single.items()]
        curves = {"mean of all": curve} if curve else {}
        curves |= {name: each["curve"] for name, each in single.items()}
        return {
            "overall": {
                "images": len(self._rows),
                **scores,
                "depths": {
                    name: {key: each[key] for key in ("ods", "ois", "ap")} for name, each in single.items()
                },
            },
            "images": self._rows,
            "columns": [
                ["ods", "ODS", "best F of one threshold for all images, all annotators"],
                ["ois", "OIS", "F with the best threshold of each image"],
                ["ap", "AP", "area under precision over recall"],
                ["ods_precision", "precision", "at the threshold of ODS"],
                ["ods_recall", "recall", "at the threshold of ODS"],
            ],
            "order": "f",
            "tables": {
                f"Depths and their fusion ({_DEPTH_THRESHOLDS} thresholds)": {
                    "head": ["prediction", "ODS", "OIS", "AP"],
                    "rows": rows,
                }
            }
            if rows
            else {},
            "plots": precision_plot(curves),
        }


def annotators(sample: Sample) -> list[NDArray[np.bool_]]:
    """Boundaries `[H, W]` of each annotator; where the data has label maps alone, those between labels grown into
    void bands, thinned."""
    if sample.boundaries:
        return [boundary.numpy() for boundary in sample.boundaries]
    maps = sample.annotations or (close_bands(sample.label),)
    return [np.asarray(thin(label_boundaries(label[None])[0].numpy())) for label in maps]


def depth_names(number: int) -> list[str]:
    """Names of `boundary_depths`: depth 1 is the finest."""
    return [*(f"depth {depth}" for depth in range(1, number)), "fused"]


def _grey(values: NDArray[np.floating]) -> Picture:
    """`[H, W]` in 0..1 as a picture, 1 white."""
    return np.repeat(_bytes(values)[:, :, None], 3, axis=2)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """`[H, W]` in 0..1 as 0..255."""
    return np.rint(values * 255).astype(np.uint8)


TASK = BoundaryTask()
