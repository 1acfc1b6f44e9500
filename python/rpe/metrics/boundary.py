"""Boundary detection scored as the Berkeley benchmark does: ODS, OIS and AP against all annotators.

A probability map is cut at 99 thresholds and thinned; its pixels are matched one to one with those of each annotator
within 0.0075 of the image's diagonal. A pixel is right when any annotator has it; recall counts every annotator's
pixels. (Martin, Fowlkes, Malik, TPAMI 2004; Arbelaez et al., TPAMI 2011.) The benchmark's matching minimises distance
too; here only the number of pairs is maximal, which is all that the counts depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow
from scipy.spatial import cKDTree
from skimage.morphology import thin

Mask = NDArray[np.bool_]

MAX_DISTANCE = 0.0075
"""Largest distance of a matched pair, as a share of the image's diagonal."""
NUM_THRESHOLDS = 99
_BETWEEN = 100
"""Points on the line between two thresholds at which the best F is looked for."""


@dataclass(frozen=True, eq=False)
class BoundaryCounts:
    """Pixels of one image, or summed over images, at each threshold: int64 `[thresholds]` each."""

    matched_truth: NDArray[np.int64]
    truth: NDArray[np.int64]
    matched_predicted: NDArray[np.int64]
    predicted: NDArray[np.int64]

    def recall(self) -> NDArray[np.float64]:
        """Matched pixels of all annotators over all their pixels; 0 where there are none."""
        return _ratio(self.matched_truth, self.truth)

    def precision(self) -> NDArray[np.float64]:
        """Predicted pixels that any annotator matches, over all predicted; 0 where there are none."""
        return _ratio(self.matched_predicted, self.predicted)


def thresholds(number: int = NUM_THRESHOLDS) -> NDArray[np.float64]:
    """`number` thresholds between 0 and 1, both left out."""
    return np.arange(1, number + 1) / (number + 1)


def count_boundaries(
    probability: NDArray[np.floating],
    annotators: Sequence[Mask],
    *,
    num_thresholds: int = NUM_THRESHOLDS,
    max_distance: float = MAX_DISTANCE,
) -> BoundaryCounts:
    """Counts of one image.

    Args:
        probability: `[H, W]` in 0..1, not thinned.
        annotators: boundaries `[H, W]`, one pixel wide, one map per annotator.
        num_thresholds: cuts of the probability.
        max_distance: share of the diagonal.

    Raises:
        ValueError: no annotator, or sizes differ.
    """
    if not annotators or any(truth.shape != probability.shape for truth in annotators):
        raise ValueError(
            f"count_boundaries: expected at least one annotator of size {list(probability.shape)}, "
            f"got {[list(truth.shape) for truth in annotators]}"
        )
    radius = max_distance * float(np.hypot(*probability.shape))
    places = [np.argwhere(truth) for truth in annotators]
    trees = [cKDTree(place) for place in places]
    total = sum(len(place) for place in places)
    columns = np.zeros((4, num_thresholds), dtype=np.int64)
    columns[1] = total
    previous, row = None, np.zeros(3, dtype=np.int64)
    for index, threshold in enumerate(thresholds(num_thresholds)):
        above = probability >= threshold
        if previous is None or not np.array_equal(above, previous):
            row = _compare(thin(above), trees, radius)
            previous = above
        columns[[0, 2, 3], index] = row
    return BoundaryCounts(*columns)


def match_boundaries(
    predicted: Mask, truth: Mask, *, max_distance: float = MAX_DISTANCE
) -> tuple[Mask, Mask]:
    """Pixels of both maps `[H, W]` in a largest set of one-to-one pairs within `max_distance` of the diagonal."""
    radius = max_distance * float(np.hypot(*predicted.shape))
    here, there = np.argwhere(predicted), np.argwhere(truth)
    partner = _partners(cKDTree(here), cKDTree(there), radius)
    matched, found = np.zeros_like(predicted), np.zeros_like(truth)
    matched[tuple(here[partner >= 0].T)] = True
    found[tuple(there[partner[partner >= 0]].T)] = True
    return matched, found


def boundary_scores(images: Sequence[BoundaryCounts]) -> dict[str, Any]:
    """The benchmark's numbers over a data set.

    Returns:
        {"ods": best F of one threshold for all images, "ods_threshold", "ods_precision", "ods_recall",
        "ois": F with the best threshold of each image, "ap": area under the precision-recall curve,
        "curve": {"threshold", "recall", "precision"}}; None for every number without images.
    """
    if not images:
        return dict.fromkeys(("ods", "ods_threshold", "ods_precision", "ods_recall", "ois", "ap", "curve"))
    names = ("matched_truth", "truth", "matched_predicted", "predicted")
    pooled = BoundaryCounts(*(np.sum([getattr(image, name) for image in images], axis=0) for name in names))
    cuts = thresholds(len(pooled.truth))
    recall, precision = pooled.recall(), pooled.precision()
    f, threshold, best_recall, best_precision = _best(cuts, recall, precision)
    chosen = np.array(
        [
            [
                getattr(image, name)[int(np.argmax(f_measure(image.recall(), image.precision())))]
                for name in names
            ]
            for image in images
        ]
    ).sum(axis=0)
    each = BoundaryCounts(*chosen[:, None])
    return {
        "ods": f,
        "ods_threshold": threshold,
        "ods_precision": best_precision,
        "ods_recall": best_recall,
        "ois": float(f_measure(each.recall(), each.precision())[0]),
        "ap": _area(recall, precision),
        "curve": {"threshold": cuts.tolist(), "recall": recall.tolist(), "precision": precision.tolist()},
    }


def best_f(counts: BoundaryCounts) -> float:
    """The best F of one image over the thresholds."""
    return float(f_measure(counts.recall(), counts.precision()).max())


def f_measure(recall: ArrayLike, precision: ArrayLike) -> NDArray[np.float64]:
    """2 P R / (P + R), 0 where both are."""
    recall, precision = np.asarray(recall, dtype=np.float64), np.asarray(precision, dtype=np.float64)
    both = recall + precision
    return 2 * recall * precision / np.where(both == 0, 1, both)


def _compare(thinned: Mask, trees: Sequence[cKDTree], radius: float) -> NDArray[np.int64]:
    """Matched truth, matched predicted and predicted pixels of one cut."""
    here = np.argwhere(thinned)
    right = np.zeros(len(here), dtype=np.bool_)
    matched_truth = 0
    if len(here):
        own = cKDTree(here)
        for tree in trees:
            found = _partners(own, tree, radius) >= 0
            matched_truth += int(found.sum())
            right |= found
    return np.array([matched_truth, right.sum(), len(here)], dtype=np.int64)


def _partners(here: cKDTree, there: cKDTree, radius: float) -> NDArray[np.int64]:
    """For each point its partner's number in a largest one-to-one matching within `radius`, -1 without one."""
    if here.n == 0 or there.n == 0:
        return np.full(here.n, -1, dtype=np.int64)
    near = here.sparse_distance_matrix(there, radius, output_type="coo_matrix")
    # A largest matching is a largest flow from a source through `here` and `there` to a sink. scipy's own
    # maximum_bipartite_matching takes seconds instead of milliseconds on some of these graphs.
    source, sink = 0, here.n + there.n + 1
    first, second = 1 + np.arange(here.n), 1 + here.n + np.arange(there.n)
    start = np.concatenate([np.full(here.n, source), first[near.row], second])
    end = np.concatenate([first, second[near.col], np.full(there.n, sink)])
    edges = csr_matrix((np.ones(len(start), dtype=np.int32), (start, end)), shape=(sink + 1, sink + 1))
    flow = maximum_flow(edges, source, sink, method="dinic").flow[1 : here.n + 1].tocoo()
    partner = np.full(here.n, -1, dtype=np.int64)
    used = flow.data > 0
    partner[flow.row[used]] = flow.col[used] - here.n - 1
    return partner


def _best(
    cuts: NDArray[np.float64], recall: NDArray[np.float64], precision: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Best F with its threshold, recall and precision, looked for between neighbouring thresholds too."""
    place = np.linspace(0, len(cuts) - 1, (len(cuts) - 1) * (_BETWEEN - 1) + 1)
    index = np.arange(len(cuts))
    threshold, r, p = (np.interp(place, index, values) for values in (cuts, recall, precision))
    f = f_measure(r, p)
    best = int(np.argmax(f))
    return float(f[best]), float(threshold[best]), float(r[best]), float(p[best])


def _area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under precision over recall at recalls 0, 0.01, ..., 1; 0 outside the recalls that were reached."""
    reached, first = np.unique(recall, return_index=True)
    at = np.linspace(0, 1, 101)
    return float(np.interp(at, reached, precision[first], left=0.0, right=0.0).sum() * 0.01)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return part / np.where(whole == 0, 1, whole)
