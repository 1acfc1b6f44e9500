r"""What a chunk of sources weighs at most in the sums of a chunk of points, from products of rows with centres.

Let A be a chunk of points x_i, B one of sources y_j with masses m_j >= 0 and W_B = sum m_j > 0; c_A, c_B any two
vectors, r_A = max |x_i - c_A|, r_B = max |y_j - c_B|; mu_B = sum m_j y_j / W_B. Since
u.v = x.y - x.c_B - c_A.y + c_A.c_B for u = x - c_A, v = y - c_B,

    (a)  x_i.y_j <= x_i.c_B + b_AB,   b_AB = max_j c_A.y_j - c_A.c_B + r_A r_B                     (Cauchy, Schwarz)
    (b)  sum_j m_j exp(kappa x_i.y_j) >= W_B exp(kappa x_i.mu_B)                                   (Jensen)
                                      >= W_B exp(kappa (x_i.c_B - |x_i| |mu_B - c_B|)).

(b) summed over all chunks is a lower bound E_i of sum_j m_j exp(kappa x_i.y_j), so B weighs in the sum of any row of A
at most the share

    (c)  s_AB = W_B exp(kappa b_AB) max_i ( exp(kappa x_i.c_B) / E_i ).

For every A the chunks of least s_AB are left out while these shares sum to at most `tol`: no row loses more than that
share of its density.

Rounding. Products are of rows and centres rounded to a grid, multiples of 2^-11 of a power of two above all lengths.
float32 and TF32 hold these, and every sum of their products is exact, in whatever order a device adds it up: a backward
leaves out what its forward did. What the grid took from a row, |x - x'|, is measured and comes in as |x - x'| |c|. The
lengths here and the few operations after the products err by less than (D + 16) 2^-20 (1 + |x| |y|) in units of the
cosine. Shares are added as whole numbers, rounded up. A NaN is a share that is too large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of a chunk: a multiple of every tile that kernels walk by lists.
CHUNK = 64
# Elements [rows, chunks] of one band: 64 MB in float32, a few of which live at a time.
_BAND_ELEMENTS = 1 << 24
# Shares are counted in units of tol / 2^24. What exp and logarithms round of one is less than this part of it.
_UNITS = 1 << 24
_ROUNDING_OF_SHARES = 2.0**-8
# Shorter rows are zero rows to float16 operands, and a backward treats those as if they saw every source.
_SHORTEST_SQUARED = 2.0**-40


@dataclass(frozen=True)
class Chunks:
    """One side of an image in chunks, the last one filled up with its last row.

    rows `[n, CHUNK, D]` and center `[n, D]` are on the grid. Of the rows as they were given: log_mass, squared length
    `[n, CHUNK]`, the former -inf where a chunk was filled up; per chunk `[n]` the largest length, the radius around the
    centre, the largest distance of a row to the grid (error), and that of the mean by masses to the centre (drift).
    """

    rows: Tensor
    log_mass: Tensor
    squared: Tensor
    center: Tensor
    longest: Tensor
    radius: Tensor
    error: Tensor
    drift: Tensor

    @property
    def count(self) -> int:
        """n."""
        return self.rows.shape[0]


def chunks_of(rows: Tensor, mass: Tensor | None) -> Chunks:
    """Chunks of one image's `rows [N, D]`, N > 0, and masses `[N]`; None: all 1."""
    count = -(-rows.shape[0] // CHUNK)
    place = torch.arange(count * CHUNK, device=rows.device)
    inside = place < rows.shape[0]
    place = place.clamp_max(rows.shape[0] - 1)
    weight = inside.to(rows.dtype) if mass is None else torch.where(inside, mass[place], 0.0)
    given, weight = rows[place].unflatten(0, (count, CHUNK)), weight.unflatten(0, (count, CHUNK))
    total = weight.sum(1, keepdim=True)
    mean = (given * weight[:, :, None]).sum(1) / total
    mean = torch.where(total > 0, mean, given.mean(1))
    squared = given.square().sum(2)
    longest = squared.amax().sqrt()
    grid = longest / longest.frexp().mantissa * 2.0**-11  # of a power of two
    center, rounded = _on_grid(mean, grid), _on_grid(given, grid)
    return Chunks(
        rounded,
        weight.log(),
        squared,
        center,
        squared.amax(1).sqrt(),
        (given - center[:, None]).norm(dim=2).amax(1),
        (given - rounded).norm(dim=2).amax(1),
        (mean - center).norm(dim=1),
    )


def _on_grid(rows: Tensor, grid: Tensor) -> Tensor:
    """Rounded to whole multiples of `grid`."""
    return (rows / grid).round() * grid


@dataclass(frozen=True)
class ImageBounds:
    """One image's chunks on both sides of a step, the same when `blurring`."""

    points: Chunks
    sources: Chunks
    blurring: bool
    kappa: Tensor

    def needed(self, tol: float) -> Tensor:
        """`needed_by` all chunks of points, `[m, n]`, in bands."""
        chunks = torch.arange(self.points.count, device=self.kappa.device)
        height = max(1, _BAND_ELEMENTS // (CHUNK * self.sources.count))
        return torch.cat([self.needed_by(band, tol) for band in chunks.split(height)])

    def needed_by(self, chosen: Tensor, tol: float) -> Tensor:
        """The chunks of sources that the `chosen [h]` chunks of points need to miss no more than `tol`, `[h, n]`."""
        units = ((self._log_shares(chosen) - math.log(tol)).exp() * _UNITS).ceil()
        units = units.nan_to_num(nan=torch.inf).clamp(1.0, 2.0 * _UNITS).to(torch.int32)
        rising = units.sort(1).values
        room = int(_UNITS * (1.0 - _ROUNDING_OF_SHARES))
        count = (rising.cumsum(1) <= room).sum(1, keepdim=True)
        return units >= rising.gather(1, count.clamp_max(self.sources.count - 1))

    def _log_shares(self, chosen: Tensor) -> Tensor:
        """Logarithms of (c), `[h, n]`."""
        x, y, kappa = self.points, self.sources, self.kappa
        center, longest = x.center[chosen], x.longest[chosen, None]
        rounding = (center.shape[1] + 16) * 2.0**-20 * (1.0 + longest * y.longest)  # [h, n]
        slack = x.error[chosen, None] * y.center.norm(dim=1) + rounding
        log_mass = y.log_mass.logsumexp(1)  # [n]
        product = x.rows[chosen].flatten(0, 1) @ y.center.T
        product = product.mul_(kappa).unflatten(0, (-1, CHUNK))  # [h, CHUNK, n], kappa x_i.c_B
        lower = log_mass - kappa * (slack + longest * y.drift)
        log_sum = (product + lower[:, None]).logsumexp(2)  # log E_i
        if self.blurring:  # a row's own term alone may be more
            own = kappa * (x.squared[chosen] - rounding.amax(1, keepdim=True))
            log_sum = torch.maximum(log_sum, x.log_mass[chosen] + own)
        log_sum = torch.where(x.squared[chosen] > _SHORTEST_SQUARED, log_sum, -torch.inf)
        nearest = product.sub_(log_sum[:, :, None]).amax(1)
        facing = (y.rows.flatten(0, 1) @ center.T).unflatten(0, (-1, CHUNK)).amax(1).T  # max_j c_A.y_j
        bound = facing - center @ y.center.T + x.radius[chosen, None] * y.radius
        bound += y.error * center.norm(dim=1, keepdim=True) + slack + rounding
        # A chunk weighs at least a row of average mass: the derivative in a mass that is zero is asked for as well.
        average = log_mass.logsumexp(0) - torch.isfinite(y.log_mass).sum().log()
        return nearest + kappa * bound + torch.maximum(log_mass, average)
