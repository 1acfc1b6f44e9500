"""Makers of inputs that the operator tests share: seeded, on the CPU in float64 unless `serve` said otherwise.

They only make inputs; what should come out is `naive.py`, how near is `numerics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Every residue of the tile sizes in use (8, 16, 32, 64, 128), below and above one tile.
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31, 33, 63, 65, 127, 130)
DIMS = (1, 3, 8, 17, 64, 100, 256)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


_widest = torch.float64


def widest() -> torch.dtype:
    """The dtype of everything made here: float64, or float32 for a backend that has nothing wider."""
    return _widest


def serve(dtype: torch.dtype) -> None:
    """Make inputs in this dtype from now on; the `backend` fixture says which."""
    global _widest
    _widest = dtype


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def clustered(num_points: int, dim: int, *, seed: int = 0, clusters: int = 4, spread: float = 0.4) -> Tensor:
    """Rows `[N, D]` around a few directions, of lengths from 0.5 to 2, in mixed order."""
    source = generator(seed)
    centres = torch.randn(clusters, dim, generator=source, dtype=torch.float64, device="cpu")
    centres = centres / centres.norm(dim=1, keepdim=True)
    noise = torch.randn(num_points, dim, generator=source, dtype=torch.float64, device="cpu") * (
        spread / dim**0.5
    )
    rows = centres[torch.arange(num_points, device="cpu") % clusters] + noise
    lengths = 0.5 + 1.5 * torch.rand(num_points, 1, generator=source, dtype=torch.float64, device="cpu")
    return (rows / rows.norm(dim=1, keepdim=True) * lengths).to(torch.get_default_device(), widest())


def labels(num_points: int, *, seed: int = 0, instances: int = 4, wrong: float = 0.2) -> Tensor:
    """Instance ids `[N]` that mostly follow the clusters of `clustered`; a share of them is random."""
    source = generator(seed + 1000)
    label = torch.arange(num_points, device="cpu") % instances
    random = torch.randint(instances, (num_points,), generator=source, device="cpu")
    replaced = torch.rand(num_points, generator=source, device="cpu") < wrong
    return torch.where(replaced, random, label).to(torch.get_default_device())


def directions(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values: upstream gradients, weights of sums."""
    values = torch.randn(shape, generator=generator(seed + 2000), dtype=torch.float64, device="cpu")
    return values.to(torch.get_default_device(), widest())


def masses(num_points: int, *, seed: int = 0) -> Tensor:
    """Positive values `[N]` from 0.25 to 2."""
    values = torch.rand(num_points, generator=generator(seed + 3000), dtype=torch.float64, device="cpu")
    return (0.25 + 1.75 * values).to(torch.get_default_device(), widest())


def permutation(num_points: int, *, seed: int = 0) -> Tensor:
    """The rows 0..N-1 in random order."""
    return torch.randperm(num_points, generator=generator(seed), device="cpu").to(torch.get_default_device())


def rotation(dim: int, *, seed: int = 0) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(directions(dim, dim, seed=seed))[0]


def clear_margin(embedding: Tensor, wanted: float = 0.5) -> float:
    """The margin near `wanted` farthest from any pair's similarity: no rounding moves a pair across the hinge."""
    x = embedding.double().reshape(-1, embedding.shape[-1])
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-300)
    values = ((1.0 + x @ x.T) / 2.0).flatten()
    near = values[(values - wanted).abs() < 0.05]
    ends = torch.tensor([wanted - 0.05, wanted + 0.05], dtype=torch.float64).clamp(0.0, 1.0)
    values = torch.cat([near, ends]).sort().values
    widest = int(values.diff().argmax())
    return float(values[widest] + values[widest + 1]) / 2.0


@dataclass(frozen=True)
class Ragged:
    """Packed images: `embedding [T, D]`, `label [T]`, `offsets [B+1]`."""

    embedding: Tensor
    label: Tensor
    offsets: Tensor

    def images(self) -> list[slice]:
        bounds = self.offsets.tolist()
        return [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def ragged(lengths: tuple[int, ...] = (5, 0, 17, 1, 0, 33, 0), dim: int = 4, *, seed: int = 0) -> Ragged:
    """Images of the given lengths, empty ones at the start, in the middle or at the end included."""
    total = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Ragged(clustered(total, dim, seed=seed), labels(total, seed=seed), offsets)
