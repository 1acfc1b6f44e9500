"""One blurring step: naive PyTorch, attention (the strongest peer, Q = K = V = X) and rpe_ops."""

from __future__ import annotations

import pytest
import torch
from peers import attention_providers, compiled_provider, naive_mean_shift
from torch import Tensor

import rpe_ops
from harness import Case, Provider, Result
from inputs import (
    embedding_and_label,
    exact_backend,
    operator_providers,
    with_gradient,
    without_gradient,
)


@pytest.mark.parametrize("mode", ["forward", "forward+backward"])
def test_mean_shift(mode, case_shape, kappa, bench, with_compiled):
    case = Case("mean_shift", mode, *case_shape, kappa)
    embedding, _ = embedding_and_label(case)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(embedding.shape, generator=generator).to(embedding)

    def run(compute, points: Tensor = embedding) -> Result:
        if mode == "forward":
            return without_gradient(compute, points)
        return with_gradient(compute, points, upstream.to(points.dtype))

    def plain(points: Tensor) -> Tensor:
        return naive_mean_shift(points, kappa)

    def step(backend: str):
        return lambda points: rpe_ops.mean_shift(points, kappa=kappa, backend=backend)

    # Besides the kernel, autograd keeps its exponent, and the backward makes a gradient of each.
    square_tensors = 2 if mode == "forward" else 4
    providers = [
        Provider("naive PyTorch", lambda: run(plain), square_tensors),
        *([compiled_provider(plain, run, square_tensors)] if with_compiled else []),
        *attention_providers(case, kappa, run, with_compiled),
        *operator_providers(case, lambda backend: run(step(backend))),
    ]
    expected = run(step(exact_backend(case)), embedding.double())
    bench(case, providers, expected)
