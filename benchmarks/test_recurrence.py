"""Five blurring steps with the gradient through all of them, as training uses them: naive PyTorch, a loop of attention
steps and rpe_ops."""

from __future__ import annotations

import torch
from peers import attention_providers, compiled_provider, naive_mean_shift
from torch import Tensor

import rpe_ops
from harness import Case, Provider, Result
from inputs import embedding_and_label, exact_backend, operator_providers, with_gradient

NUM_STEPS = 5
# conftest.py takes these instead of the usual sizes: a call costs five times that of one step.
SIZES = {"cpu": (4_096,), "cuda": (16_384, 65_536)}


def test_recurrence(case_shape, kappa, bench, with_compiled):
    case = Case(f"mean_shift T={NUM_STEPS}", "forward+backward", *case_shape, kappa)
    embedding, _ = embedding_and_label(case)
    upstream = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1)).to(embedding)

    def run(compute, points: Tensor = embedding) -> Result:
        return with_gradient(compute, points, upstream.to(points.dtype))

    def plain(points: Tensor) -> Tensor:
        return naive_mean_shift(points, kappa, NUM_STEPS)

    def steps(backend: str):
        return lambda points: rpe_ops.mean_shift(points, kappa=kappa, num_steps=NUM_STEPS, backend=backend)

    # Autograd keeps the kernel of every step; the backward of one step adds what it adds in test_mean_shift.py.
    square_tensors = NUM_STEPS + 3
    providers = [
        Provider("naive PyTorch", lambda: run(plain), square_tensors),
        *([compiled_provider(plain, run, square_tensors)] if with_compiled else []),
        *attention_providers(case, kappa, run, with_compiled, NUM_STEPS),
        *operator_providers(case, lambda backend: run(steps(backend))),
    ]
    expected = run(steps(exact_backend(case)), embedding.double())
    bench(case, providers, expected)
