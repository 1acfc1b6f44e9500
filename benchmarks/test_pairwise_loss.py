"""The loss with its gradient, instance weights, margin 0.5: naive PyTorch and rpe_ops."""

from __future__ import annotations

import torch
from peers import compiled_provider
from torch import Tensor
from torch.nn import functional as F

import rpe_ops
from harness import Case, Provider
from inputs import embedding_and_label, exact_backend, operator_providers, with_gradient

MARGIN = 0.5


def naive(embedding: Tensor, label: Tensor) -> Tensor:
    x = F.normalize(embedding, dim=1)
    similarity = 0.5 * (1.0 + x @ x.T)
    weight = 1.0 / torch.bincount(label)[label].float()
    same = label[:, None] == label[None, :]
    pair = torch.where(same, 1.0 - similarity, (similarity - MARGIN).clamp_min(0.0))
    return (weight[:, None] * weight[None, :] * pair).sum() / x.shape[0]


def test_pairwise_loss(case_shape, bench, with_compiled):
    case = Case("pairwise_loss", "forward+backward", *case_shape)
    embedding, label = embedding_and_label(case)

    def run(compute, points: Tensor = embedding):
        # An upstream gradient that is not one: a fused loss must scale by it. N keeps float16 gradients normal.
        upstream = torch.tensor(3.0 * case.num_points, dtype=torch.float32, device=points.device)
        return with_gradient(lambda leaf: compute(leaf) * upstream.to(leaf.device), points, None)

    def loss(backend: str):
        return lambda points: rpe_ops.pairwise_loss(points, label, margin=MARGIN, backend=backend)

    providers = [
        # Similarity, weights, the two branches and the gradients of three of them.
        Provider("naive PyTorch", lambda: run(lambda points: naive(points, label)), square_tensors=7),
        *([compiled_provider(lambda points: naive(points, label), run, 4)] if with_compiled else []),
        *operator_providers(case, lambda backend: run(loss(backend))),
    ]
    expected = run(loss(exact_backend(case)), embedding.double())
    bench(case, providers, expected)
