"""Seeds that climb the density of fixed points, as robotics code finds unseen objects (kappa 20, 10 iterations, no
gradient): its loop in plain PyTorch, KeOps and rpe_ops."""

from __future__ import annotations

import torch
from peers import failure, keops_attention
from torch import Tensor
from torch.nn import functional as F

import rpe_ops
from harness import Case, Provider, Result
from inputs import embedding_and_label, exact_backend, operator_providers, without_gradient

NUM_SEEDS = 200
KAPPA = 20.0
ITERATIONS = 10
# Pixels of 160 x 120, 320 x 240 and 640 x 480; conftest.py takes these instead of the usual sizes.
SIZES = {"cpu": (19_200, 76_800), "cuda": (76_800, 307_200)}


def seeded_loop(points: Tensor, seeds: Tensor) -> Tensor:
    """The formula as one writes it down: seeds x points in memory, no guard against overflow in half types."""
    x, z = F.normalize(points, dim=1), F.normalize(seeds, dim=1)
    for _ in range(ITERATIONS):
        kernel = torch.exp(KAPPA * (z @ x.T))
        z = F.normalize(kernel @ x / kernel.sum(1, keepdim=True), dim=1)
    return z


def keops_loop(points: Tensor, seeds: Tensor) -> Tensor:
    x, z = F.normalize(points, dim=1), F.normalize(seeds, dim=1)
    for _ in range(ITERATIONS):
        z = F.normalize(keops_attention(z, x, KAPPA), dim=1)
    return z


def test_seeded(case_shape, bench):
    case = Case("mean_shift seeds", "forward", *case_shape, KAPPA)
    embedding, _ = embedding_and_label(case)
    # Every so many points one, as a grid of pixels would be.
    seeds = embedding[:: max(1, case.num_points // NUM_SEEDS)][:NUM_SEEDS]

    def run(climb, points: Tensor = embedding) -> Result:
        return without_gradient(lambda rows: climb(rows, seeds.to(rows.dtype)), points)

    def climb(backend: str):
        return lambda points, start: rpe_ops.mean_shift(
            points, kappa=KAPPA, num_steps=ITERATIONS, seeds=start, backend=backend
        )

    without_keops = failure(lambda rows: keops_loop(rows, rows[:8]), case, backward=False)
    providers = [
        Provider("loop in PyTorch", lambda: run(seeded_loop)),
        Provider(
            "KeOps",
            None if without_keops else lambda: run(keops_loop),
            absent=without_keops,
            may_be_slow=True,
        ),
        *operator_providers(case, lambda backend: run(climb(backend))),
    ]
    expected = run(climb(exact_backend(case)), embedding.double())
    bench(case, providers, expected)
