"""Deep recurrences on clusters, as trained embeddings have them: every pair, and within a tolerance of 1e-3 (`tol`).

`--bench-scaling` takes it to 65,536 points, whose exponents of cost against N are printed; a whole 512 x 512 image is
in test_full_resolution.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import rpe_ops
from harness import Case, Provider, Result
from inputs import TOLERANCE, scene, with_gradient, without_gradient

NUM_STEPS = {"forward": 10, "forward+backward": 5}
# conftest.py takes these instead of the usual sizes: squares of these many pixels.
SIZES = {"cpu": (16_384,), "cuda": (65_536, 262_144)}
# The same for `--bench-scaling`.
SCALING_SIZES = (4_096, 16_384, 65_536)


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
