"""Spherical codes by computation: a numerical packing for moderate sizes, a guaranteed bound for large ones.

Serves `margins.py` alone. Deterministic: fixed seeds, float64, CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# All random starts descend together while the smooth maximum of the cosines sharpens over this range; the best few are
# then polished, the last sharpness putting them within 1e-4 of the minimum of the true maximum.
_DESCENT_STEPS = 600
_DESCENT_SHARPNESS = (5.0, 400.0)
_DESCENT_RATE = (0.1, 1e-3)
_POLISH_SHARPNESS = (1e3, 1e4, 1e5)
_POLISHED_STARTS = 3
_MAX_STARTS = 64
_PAIRS_OF_ALL_STARTS = 30_000  # bounds the time, and keeps each operation on one thread


def packed_cosine(num_points: int, dim: int) -> float:
    """Largest cosine between `num_points` unit vectors in `dim` dimensions, minimised from many random starts."""
    starts = max(1, min(_MAX_STARTS, _PAIRS_OF_ALL_STARTS // num_points**2))
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(starts, num_points, dim, generator=generator, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.Adam([points])
    with torch.enable_grad():
        for step in range(_DESCENT_STEPS):
            progress = step / (_DESCENT_STEPS - 1)
            optimiser.param_groups[0]["lr"] = _between(_DESCENT_RATE, progress)
            optimiser.zero_grad()
            _smooth_maximum(points, _between(_DESCENT_SHARPNESS, progress)).sum().backward()
            optimiser.step()
    reached = _cosines(points.detach()).amax(-1)
    best = reached.topk(min(_POLISHED_STARTS, starts), largest=False).indices
    return min(_polished(points.detach()[index]) for index in best.tolist())


def shannon_wyner_cosine(num_points: int, dim: int) -> float:
    """A cosine that some code of `num_points` points reaches: caps of its angle cannot cover the sphere with fewer.

    A code to which no point can be added at angle t has caps of angular radius t that cover the sphere, so it has at
    least 1 / (share of one cap) points (Shannon 1959, Wyner 1965).
    """
    angle = torch.linspace(0.0, math.pi, 200_001, dtype=torch.float64)
    share = torch.cumulative_trapezoid(angle.sin().pow(dim - 2), angle)
    share = share / share[-1]
    index = int(torch.searchsorted(share, torch.tensor(1.0 / num_points, dtype=torch.float64)))
    return math.cos(float(angle[index]))


def _polished(points: Tensor) -> float:
    """The largest cosine of one start `[N, D]` after quasi-Newton steps on sharper and sharper maxima."""
    free = points.clone().requires_grad_()
    best = float(_cosines(points).max())
    with torch.enable_grad():
        for sharpness in _POLISH_SHARPNESS:
            optimiser = torch.optim.LBFGS(
                [free], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-12
            )

            def closure(optimiser: torch.optim.Optimizer = optimiser, sharpness: float = sharpness) -> Tensor:
                optimiser.zero_grad()
                value = _smooth_maximum(free, sharpness)
                value.backward()
                return value

            optimiser.step(closure)
            best = min(best, float(_cosines(free.detach()).max()))
    return best


def _cosines(points: Tensor) -> Tensor:
    """Cosines of all pairs, `[..., N (N - 1) / 2]`, of rows `[..., N, D]`."""
    unit = points / points.norm(dim=-1, keepdim=True)
    first, second = torch.triu_indices(points.shape[-2], points.shape[-2], 1)
    return (unit @ unit.mT)[..., first, second]


def _smooth_maximum(points: Tensor, sharpness: float) -> Tensor:
    """A smooth upper bound of the largest cosine, exact as `sharpness` grows."""
    return torch.logsumexp(sharpness * _cosines(points), -1) / sharpness


def _between(ends: tuple[float, float], progress: float) -> float:
    """Geometric interpolation."""
    return ends[0] * (ends[1] / ends[0]) ** progress
