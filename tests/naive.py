"""The published formulas written the obvious way, for the tests: literal loops, and N x N tensors under autograd.

Nothing here knows rpe_ops. The loops are the bottom of the chain of trust; the N x N functions give the float64 truth
of every comparison and, in the dtype at hand, the error of eager PyTorch that `numerics.py` measures others by.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _compute(rows: Tensor, half_products: bool = False) -> Tensor:
    if half_products:
        return rows
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of length one; a zero row stays zero and has no gradient."""
    length = rows.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, rows / torch.where(length > 0, length, 1.0), 0.0)


def loss_weights(label: Tensor, weight: str | Tensor, ignore_index: int | None, dtype: torch.dtype) -> Tensor:
    """w_i `[N]`, 0 for ignored points."""
    taking_part = torch.ones_like(label, dtype=torch.bool) if ignore_index is None else label != ignore_index
    if isinstance(weight, Tensor):
        values = weight.to(dtype)
    elif weight == "uniform":
        values = torch.ones(label.shape, dtype=dtype)
    else:
        values = 1.0 / (label[:, None] == label[None, :]).sum(1).to(dtype)
    return torch.where(taking_part, values, 0.0)


def normalizer_of(weights: Tensor, label: Tensor, normalizer: str, ignore_index: int | None) -> float:
    """Z_k of one image; 1 where it would be 0."""
    if normalizer == "none":
        return 1.0
    if normalizer == "weights":
        return float(weights.double().sum()) ** 2 or 1.0
    return float(label.numel() if ignore_index is None else (label != ignore_index).sum()) or 1.0


def pairwise_loss(
    embedding: Tensor,
    label: Tensor,
    *,
    margin: float = 0.5,
    weight: str | Tensor = "instance",
    normalizer: str = "points",
    ignore_index: int | None = None,
    normalize: bool = True,
    half_products: bool = False,
) -> Tensor:
    """The loss of one image `[N, D]`, every pair in memory; `half_products` keeps half types as they are."""
    rows = _compute(embedding, half_products)
    x = unit_rows(rows) if normalize else rows
    w = loss_weights(label, weight, ignore_index, x.dtype)
    similarity = (1.0 + x @ x.T) / 2.0
    same = label[:, None] == label[None, :]
    pair = torch.where(same, 1.0 - similarity, torch.relu(similarity - margin))
    total = (w[:, None] * w[None, :] * pair).sum()
    return total / normalizer_of(w, label, normalizer, ignore_index)


def looped_pairwise_loss(
    embedding: list[list[float]],
    label: list[int],
    margin: float,
    weight: str | list[float],
    normalizer: str,
    ignore_index: int | None,
) -> float:
    """The equation of the paper, term by term, in Python floats."""
    taking_part = [i for i, y in enumerate(label) if ignore_index is None or y != ignore_index]
    if weight == "instance":
        w = [1.0 / label.count(y) for y in label]
    else:
        w = [1.0] * len(label) if weight == "uniform" else list(map(float, weight))
    total = 0.0
    for i in taking_part:
        for j in taking_part:
            s = (1.0 + _cosine(embedding[i], embedding[j])) / 2.0
            total += w[i] * w[j] * (1.0 - s if label[i] == label[j] else max(0.0, s - margin))
    divisor = {"points": float(len(taking_part)), "weights": sum(w[i] for i in taking_part) ** 2, "none": 1.0}
    return total / divisor[normalizer] if divisor[normalizer] else 0.0


def mean_shift_step(
    points: Tensor, sources: Tensor | None, mass: Tensor | None, kappa: float | Tensor, eta: float | Tensor
) -> Tensor:
    """One step of unit rows `[M, D]` of one image; sources None: the points themselves."""
    y = points if sources is None else sources
    if y.shape[0] == 0:
        return unit_rows(points)
    logit = kappa * (points @ y.T)
    if mass is None:
        probability = logit.softmax(1)
    else:
        nearest = torch.where(mass > 0, logit, -torch.inf).amax(1, keepdim=True).detach()
        kernel = mass * torch.exp(logit - nearest)
        probability = kernel / kernel.sum(1, keepdim=True)
    return unit_rows(eta * (probability @ y) + (1.0 - eta) * points)


def mean_shift(
    embedding: Tensor,
    *,
    kappa: float | Tensor,
    eta: float | Tensor = 1.0,
    num_steps: int = 1,
    seeds: Tensor | None = None,
    weight: Tensor | None = None,
    half_products: bool = False,
) -> Tensor:
    """The recurrence on one image `[N, D]`; `half_products` keeps half types as they are."""
    points = unit_rows(_compute(embedding, half_products))
    sources = None if seeds is None else points
    moving = points if seeds is None else unit_rows(_compute(seeds, half_products))
    mass = None if weight is None else weight.to(points.dtype)
    for _ in range(num_steps):
        moving = mean_shift_step(moving, sources, mass, kappa, eta)
    return moving.to(embedding.dtype)


def looped_mean_shift_step(
    points: list[list[float]], sources: list[list[float]], mass: list[float], kappa: float, eta: float
) -> list[list[float]]:
    """One step, term by term, in Python floats; all rows are unit vectors."""
    moved = []
    for x in points:
        kernel = [m * math.exp(kappa * _dot(x, y)) for m, y in zip(mass, sources, strict=True)]
        density = sum(kernel)
        mean = [sum(k * y[d] for k, y in zip(kernel, sources, strict=True)) / density for d in range(len(x))]
        blended = [eta * m + (1.0 - eta) * c for m, c in zip(mean, x, strict=True)]
        length = math.sqrt(_dot(blended, blended))
        moved.append([b / length for b in blended])
    return moved


def looped_components(embedding: list[list[float]], threshold: float) -> list[int]:
    """Labels in order of first appearance, by walking the graph from each point that has no label yet."""
    label = [-1] * len(embedding)
    components = 0
    for start in range(len(embedding)):
        if label[start] >= 0:
            continue
        label[start] = components
        waiting = [start]
        while waiting:
            i = waiting.pop()
            for j in range(len(embedding)):
                if label[j] < 0 and (1.0 + _cosine(embedding[i], embedding[j])) / 2.0 >= threshold:
                    label[j] = components
                    waiting.append(j)
        components += 1
    return label


def looped_farthest_points(embedding: list[list[float]], num_seeds: int, first: int | None) -> list[int]:
    """Farthest-point seeding, point by point; all points are different. None: farthest from the mean direction."""
    unit = [[c / math.sqrt(_dot(x, x)) for c in x] for x in embedding]
    if first is None:
        mean = [math.fsum(x[d] for x in unit) for d in range(len(unit[0]))]
        first = min(range(len(unit)), key=lambda i: _dot(unit[i], mean))
    chosen = [first]
    while len(chosen) < num_seeds:
        left = [i for i in range(len(unit)) if i not in chosen]
        chosen.append(min(left, key=lambda i: max(_dot(unit[i], unit[j]) for j in chosen)) if left else first)
    return chosen


def looped_assignment(embedding: list[list[float]], modes: list[list[float]], threshold: float) -> list[int]:
    """The component's number of the mode with the largest cosine, point by point."""
    label = looped_components(modes, threshold)
    return [label[max(range(len(modes)), key=lambda j: _cosine(x, modes[j]))] for x in embedding]


def _dot(a: list[float], b: list[float]) -> float:
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def _cosine(a: list[float], b: list[float]) -> float:
    lengths = math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b))
    return _dot(a, b) / lengths if lengths else 0.0
