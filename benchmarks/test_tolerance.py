"""Deep recurrences on clusters, as trained embeddings have them: every pair, and within a tolerance of 1e-3 (`tol`).

The scene is an image of round objects on a background: rows lie near the direction of their object, those at borders
between two. Cost against N: `--bench-points 16384 65536 262144` (the last takes minutes).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import rpe_ops
from harness import Case, Provider, Result
from inputs import with_gradient, without_gradient

NUM_OBJECTS = 40
TOLERANCE = 1e-3
NUM_STEPS = {"forward": 10, "forward+backward": 5}
# conftest.py takes these instead of the usual sizes: squares of these many pixels.
SIZES = {"cpu": (16_384,), "cuda": (65_536, 262_144)}


def scene(case: Case) -> Tensor:
    """Embedding `[N, D]` of a square image, row by row; seeded."""
    generator = torch.Generator().manual_seed(case.dim)
    side = math.isqrt(case.num_points)
    label = torch.zeros(side, side, dtype=torch.int64)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for index in range(1, NUM_OBJECTS + 1):
        center_y, center_x, size = torch.rand(3, generator=generator).tolist()
        radius = side * (0.05 + 0.06 * size)
        label[(y - side * center_y) ** 2 + (x - side * center_x) ** 2 < radius**2] = index
    directions = F.normalize(torch.randn(NUM_OBJECTS + 1, case.dim, generator=generator), dim=1)
    rows = F.avg_pool2d(directions[label].permute(2, 0, 1), 3, stride=1, padding=1).flatten(1).T
    noise = torch.randn(rows.shape, generator=generator) * (0.2 / case.dim**0.5)
    return F.normalize(rows + noise, dim=1).to(case.device, case.dtype).contiguous()


@pytest.mark.parametrize("mode", NUM_STEPS)
def test_tolerance(case_shape, mode, bench):
    num_steps = NUM_STEPS[mode]
    case = Case(f"mean_shift T={num_steps} scene", mode, *case_shape, kappa=25.0)
    if math.isqrt(case.num_points) ** 2 != case.num_points:
        pytest.skip("no square image has as many pixels")
    embedding = scene(case)
    upstream = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1)).to(embedding)

    def run(backend: str, tol: float, points: Tensor = embedding) -> Result:
        def steps(rows: Tensor) -> Tensor:
            return rpe_ops.mean_shift(
                rows, kappa=case.kappa, num_steps=num_steps, tol=tol, normalize=False, backend=backend
            )

        if mode == "forward":
            return without_gradient(steps, points)
        return with_gradient(steps, points, upstream.to(points.dtype))

    backends = ("cpu",) if case.device.type == "cpu" else ("triton", "cuda")
    reasons = rpe_ops.available_backends(case.device)
    providers = [
        Provider(
            f"rpe_ops {name}{suffix}",
            None if reasons[name] else lambda name=name, tol=tol: run(name, tol),
            absent=reasons[name],
        )
        for name in backends
        for suffix, tol in (("", 0.0), (f" tol={TOLERANCE:g}", TOLERANCE))
    ]
    exact = "cpu" if case.device.type == "cpu" and reasons["cpu"] is None else "torch"
    bench(case, providers, run(exact, 0.0, embedding.double()))
