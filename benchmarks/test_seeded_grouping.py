"""What stands around the seeded mean shift in robotics code: seeds by farthest points, and all of it from an image to
labels (seeds, 10 iterations at kappa 20, near modes merged, each point to its nearest). Its loop in plain PyTorch,
scikit-learn's MeanShift from the same seeds, and rpe_ops."""

from __future__ import annotations

import importlib.util

import torch
from test_seeded import ITERATIONS, KAPPA, NUM_SEEDS, seeded_loop
from torch import Tensor
from torch.nn import functional as F

import rpe_ops
from harness import Case, Provider, Result
from inputs import embedding_and_label, exact_backend, operator_providers, without_gradient

THRESHOLD = 0.95
# Radius of scikit-learn's ball: inside one group of these points, short of the next.
BANDWIDTH = 0.7
# Pixels of 160 x 120 and 640 x 480; conftest.py takes these instead of the usual sizes.
SIZES = {"cpu": (19_200,), "cuda": (307_200,)}


def farthest_loop(points: Tensor) -> Tensor:
    """`NUM_SEEDS` rows, the first of which is the first point; the loop asks the device for every one of them."""
    x = F.normalize(points, dim=1)
    index = [0]
    nearest = x @ x[0]
    for _ in range(NUM_SEEDS - 1):
        index.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, x @ x[index[-1]])
    return torch.tensor(index, device=points.device)


def merge_loop(modes: Tensor) -> Tensor:
    """A label for each mode: that of most near modes that have one, else a new one. It depends on their order."""
    label = torch.full((len(modes),), -1, device=modes.device)
    for mode in range(len(modes)):
        near = (1 + modes @ modes[mode]) / 2 >= THRESHOLD
        taken = label[near & (label >= 0)]
        label[near & (label < 0)] = taken.mode().values if len(taken) else label.max() + 1
    return label


def grouping_loop(points: Tensor) -> Tensor:
    modes = seeded_loop(points, points[farthest_loop(points)])
    return merge_loop(modes)[(F.normalize(points, dim=1) @ modes.T).argmax(1)]


def scikit_learn(points: Tensor) -> Tensor:
    """Another kernel, flat and Euclidean, so that its modes are others; the groups found must be the same."""
    from sklearn.cluster import MeanShift

    x = F.normalize(points, dim=1)
    estimator = MeanShift(bandwidth=BANDWIDTH, seeds=x[farthest_loop(x)].cpu().numpy(), max_iter=ITERATIONS)
    return torch.from_numpy(estimator.fit(x.cpu().numpy()).labels_).to(points.device)


def gaps(points: Tensor, index: Tensor) -> Tensor:
    """The largest cosine `[M-1]` of each seed with those before it, in float64. Another choice between equally far
    points does not change it."""
    seeds = F.normalize(points[index].double(), dim=1)
    cosine = (seeds @ seeds.T).masked_fill(
        ~torch.ones(len(seeds), len(seeds)).tril(-1).bool().to(seeds.device), -2
    )
    return cosine[1:].amax(1)


def nearness(points: Tensor, label: Tensor) -> Tensor:
    """The cosine of points with the mean direction of their group, in float64: no numbering of groups in it. Of every
    64th point, so that it takes no time."""
    x, label = F.normalize(points[::64].double(), dim=1), label[::64]
    mean = x.new_zeros(int(label.max()) + 1, x.shape[1]).index_add(0, label, x)
    return (x * F.normalize(mean, dim=1)[label]).sum(1)


def test_select_seeds(case_shape, bench):
    case = Case(f"select_seeds M={NUM_SEEDS}", "forward", *case_shape)
    embedding, _ = embedding_and_label(case)

    def run(select, points: Tensor = embedding) -> Result:
        return without_gradient(lambda rows: gaps(rows, select(rows)), points)

    def select(backend: str):
        return lambda points: rpe_ops.select_seeds(points, NUM_SEEDS, first=0, backend=backend)

    providers = [
        Provider("loop in PyTorch", lambda: run(farthest_loop)),
        *operator_providers(case, lambda backend: run(select(backend))),
    ]
    bench(case, providers, run(select("torch"), embedding.double()))


def test_grouping(case_shape, bench):
    case = Case("seeded grouping", "forward", *case_shape, KAPPA)
    embedding, _ = embedding_and_label(case)

    def run(group, points: Tensor = embedding) -> Result:
        return without_gradient(lambda rows: nearness(embedding, group(rows)), points)

    def group(backend: str):
        def three_calls(points: Tensor) -> Tensor:
            seeds = points[rpe_ops.select_seeds(points, NUM_SEEDS, first=0, backend=backend)]
            modes = rpe_ops.mean_shift(
                points, kappa=KAPPA, num_steps=ITERATIONS, seeds=seeds, backend=backend
            )
            return rpe_ops.assign_to_modes(points, modes, threshold=THRESHOLD, backend=backend)

        return three_calls

    missing = None if importlib.util.find_spec("sklearn") else "scikit-learn is not installed"
    providers = [
        Provider("loop in PyTorch", lambda: run(grouping_loop)),
        Provider("scikit-learn MeanShift", None if missing else lambda: run(scikit_learn), absent=missing),
        *operator_providers(case, lambda backend: run(group(backend))),
    ]
    bench(case, providers, run(group(exact_backend(case)), embedding.double()))
