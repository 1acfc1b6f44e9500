"""A 512 x 512 image of 40 objects, every pixel: ten steps, and five with their gradient, within a tolerance of 1e-3,
beside one step of all pairs, whose cost no input changes. Runs with `--bench-full-resolution`, for an hour on two
cores.

What is checked, since float64 of all pairs would take hours: sampled points of the last step, against float64 of all
pairs of the step before it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rpe_ops
from harness import Case, Provider, Result
from inputs import TOLERANCE, scene, with_gradient, without_gradient

NUM_POINTS = 512 * 512
NUM_CHECKED = 500
NUM_STEPS = {"forward": 10, "forward+backward": 5}
KAPPAS = (25.0, 100.0)


@pytest.mark.parametrize("mode", NUM_STEPS)
@pytest.mark.parametrize("scene_kappa", KAPPAS)
@pytest.mark.parametrize("dim", [16, 64])
def test_full_resolution(mode, dim, scene_kappa, bench, device):
    reason = rpe_ops.available_backends(device)
    names = ["cpu"] if device.type == "cpu" else ["triton", "cuda"]
    shape = (NUM_POINTS, dim, torch.float32, device, scene_kappa)
    embedding = scene(Case("", mode, *shape))
    checked = torch.randperm(NUM_POINTS, generator=torch.Generator().manual_seed(2))[:NUM_CHECKED]
    upstream = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1)).to(embedding)

    def moved(points: Tensor, num_steps: int, tol: float, backend: str) -> Tensor:
        return rpe_ops.mean_shift(
            points, kappa=scene_kappa, num_steps=num_steps, tol=tol, normalize=False, backend=backend
        )

    def run(num_steps: int, tol: float, backend: str) -> Result:
        def steps(points: Tensor) -> Tensor:
            return moved(points, num_steps, tol, backend)

        if mode == "forward":
            (result,) = without_gradient(steps, embedding)
        else:
            result, gradient = with_gradient(steps, embedding, upstream)
            assert bool(gradient.isfinite().all())
        return (result[checked],)

    for operation, num_steps, tol in (
        ("mean_shift one step scene", 1, 0.0),
        (f"mean_shift T={NUM_STEPS[mode]} scene tol={TOLERANCE:g}", NUM_STEPS[mode], TOLERANCE),
    ):
        served = next((name for name in names if reason[name] is None), "torch")
        with torch.no_grad():
            before = embedding if num_steps == 1 else moved(embedding, num_steps - 1, tol, served)
            exact = rpe_ops.mean_shift(
                before.double(), kappa=scene_kappa, seeds=before[checked].double(), normalize=False
            )
        providers = [
            Provider(
                f"rpe_ops {name}",
                None if reason[name] else lambda n=num_steps, t=tol, name=name: run(n, t, name),
                absent=reason[name],
            )
            for name in names
        ]
        bench(Case(operation, mode, *shape), providers, (exact,))
