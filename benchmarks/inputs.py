"""Inputs of the benchmarks, the sizes they run at, and the rpe_ops backends as providers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import rpe_ops
from harness import Case, Provider, Result

NUM_INSTANCES = 20
# Standard deviation of a row around its instance's direction, as a share of that direction's length: neighbouring
# instances touch, so that a part of the hinge is active and the kernel is neither flat nor a lookup.
SPREAD = 0.5
# `--benchmark` alone is to end within ten minutes on two cores. At N = 16,384 all providers of both operators take some
# 100 seconds for one D, naive PyTorch and the float64 results most of it; so a CPU gets two dimensions, the usual and
# the widest, and `--bench-dims` has the others. Tests of more than one step name sizes of their own.
SIZES = {"cpu": (4_096, 16_384), "cuda": (16_384, 65_536, 262_144)}
DIMS = {"cpu": (16, 64), "cuda": (8, 16, 32, 64, 128)}
# `--bench-scaling`: N doubles until naive PyTorch lacks memory, and goes on without it.
SCALING_SIZES = tuple(1_024 << doubling for doubling in range(7))
SCALING_DIMS = (16,)
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float16, torch.float32)}
# Above this, float64 results come from the blocked backend (itself held against `reference` below it).
MAX_REFERENCE_POINTS = 4_096
# Objects of the scene, and what its recurrences may leave out (`tol`).
NUM_OBJECTS = 40
TOLERANCE = 1e-3


def embedding_and_label(case: Case) -> tuple[Tensor, Tensor]:
    """Rows `[N, D]` around random directions, one per instance, and the instance of each row `[N]`; seeded."""
    generator = torch.Generator().manual_seed(case.num_points + case.dim)
    label = torch.randint(NUM_INSTANCES, (case.num_points,), generator=generator)
    directions = F.normalize(torch.randn(NUM_INSTANCES, case.dim, generator=generator), dim=1)
    noise = torch.randn(case.num_points, case.dim, generator=generator) * (SPREAD / case.dim**0.5)
    embedding = directions[label] + noise
    return embedding.to(case.device, case.dtype), label.to(case.device)


def scene(case: Case) -> Tensor:
    """Embedding `[N, D]` of a square image of round objects on a background, row by row, as trained ones look: rows lie
    near the direction of their object, those at borders between two. Seeded."""
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


def exact_backend(case: Case) -> str:
    """The backend whose float64 results everything is held against."""
    return "reference" if case.num_points <= MAX_REFERENCE_POINTS else "torch"


def operator_providers(case: Case, run: Callable[[str], Result]) -> list[Provider]:
    """Every backend of rpe_ops but the reference, those that cannot run here with their reasons."""
    reasons = rpe_ops.available_backends(case.device)
    return [
        Provider(f"rpe_ops {name}", None if reason else lambda name=name: run(name), absent=reason)
        for name, reason in reasons.items()
        if name != "reference"
    ]


def with_gradient(compute: Callable[[Tensor], Tensor], embedding: Tensor, upstream: Tensor) -> Result:
    """The output and the gradient of sum(output * upstream) with respect to a fresh leaf."""
    leaf = embedding.detach().requires_grad_()
    output = compute(leaf)
    (gradient,) = torch.autograd.grad(output, leaf, upstream)
    return output.detach(), gradient


def without_gradient(compute: Callable[[Tensor], Tensor], embedding: Tensor) -> Result:
    with torch.no_grad():
        return (compute(embedding),)
