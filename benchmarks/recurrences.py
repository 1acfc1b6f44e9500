"""Ten steps, and five with their gradient, within a tolerance, beside one step of all pairs, which no input changes.

What is checked, since float64 of all pairs would take hours: sampled points of the last step, against float64 of all
pairs of the step before it, and that the gradient is finite. Shared by the benchmarks of large images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import rpe_ops
from harness import Case, Provider, Result
from inputs import TOLERANCE, with_gradient, without_gradient

NUM_CHECKED = 500
NUM_STEPS = {"forward": 10, "forward+backward": 5}
KAPPAS = (25.0, 100.0)


def compare_with_one_step(bench: Callable[..., None], case: Case, embedding: Tensor) -> None:
    """Both recurrences of `case`, whose operation names the input: unit rows `embedding [N, D]`."""
    reason = rpe_ops.available_backends(case.device)
    names = ["cpu"] if case.device.type == "cpu" else ["triton", "cuda"]
    checked = torch.randperm(case.num_points, generator=torch.Generator().manual_seed(2))[:NUM_CHECKED]
    upstream = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1)).to(embedding)

    def moved(points: Tensor, num_steps: int, tol: float, backend: str) -> Tensor:
        return rpe_ops.mean_shift(
            points, kappa=case.kappa, num_steps=num_steps, tol=tol, normalize=False, backend=backend
        )

    def run(num_steps: int, tol: float, backend: str) -> Result:
        def steps(points: Tensor) -> Tensor:
            return moved(points, num_steps, tol, backend)

        if case.mode == "forward":
            (result,) = without_gradient(steps, embedding)
        else:
            result, gradient = with_gradient(steps, embedding, upstream)
            assert bool(gradient.isfinite().all())
        return (result[checked],)

    served = next((name for name in names if reason[name] is None), "torch")
    many = NUM_STEPS[case.mode]
    for operation, num_steps, tol in (
        (f"mean_shift one step {case.operation}", 1, 0.0),
        (f"mean_shift T={many} {case.operation} tol={TOLERANCE:g}", many, TOLERANCE),
    ):
        with torch.no_grad():
            before = embedding if num_steps == 1 else moved(embedding, num_steps - 1, tol, served)
            exact = rpe_ops.mean_shift(
                before.double(), kappa=case.kappa, seeds=before[checked].double(), normalize=False
            )
        providers = [
            Provider(
                f"rpe_ops {name}",
                None if reason[name] else lambda n=num_steps, t=tol, name=name: run(n, t, name),
                absent=reason[name],
            )
            for name in names
        ]
        bench(replace(case, operation=operation), providers, (exact,))
