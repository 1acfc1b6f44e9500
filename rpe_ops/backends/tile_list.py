"""The pairs of tiles that a mean-shift step within a tolerance keeps, as lists that kernels walk.

Rows of an image are cut into chunks of `CHUNK` rows, and a pair of chunks is kept or left out as a whole: kernels of
every tile that divides a chunk, forward and backward, sum over the same pairs. What may be left out: `tile_bounds.py`.
When blurring, only what neither of two chunks needs: the kernel matrix stays symmetric, so that one walk over pairs
still serves both sides of a backward. Plain PyTorch on the rows' device, which it waits for; deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rpe_ops.backends.images import image_slices
from rpe_ops.backends.tile_bounds import CHUNK, ImageBounds, chunks_of

# In images with fewer sources, on average, nothing is worth a choice.
SMALLEST = 2048
# Images of up to so many pairs, those of 32,768 rows among themselves, keep them all: by calculation a GPU is done with
# them before it has launched what makes a choice.
TOO_FEW_PAIRS = 1 << 30
# Lists are made where at least this share of the pairs of chunks can be left out.
LEAST_SHARE = 0.1
# Chunks of the largest image that say in advance whether it can.
_SAMPLES = 32
# More pairs of chunks are not listed: kernels count the tiles in them, four to a side of a chunk, in int32.
_MOST_LISTED = 1 << 28
# Pairs of chunks that are looked through at a time.
_BAND_PAIRS = 1 << 22


@dataclass(frozen=True)
class TileList:
    """For each chunk of rows the first columns of the chunks that it has to see, all int32.

    before `[B+1]`: chunks before each image; begin `[R+1]`: where each chunk's part of `columns [K]` begins. Columns
    of a chunk rise, so that an image's last chunk, which alone may be partial, comes last.
    """

    before: Tensor
    begin: Tensor
    columns: Tensor

    def tensors(self) -> list[Tensor]:
        """As kernels are given them."""
        return [self.before, self.begin, self.columns]


@dataclass(frozen=True)
class NearTiles:
    """What is kept: for each image a matrix `[chunks of points, chunks of sources]` of booleans."""

    keep: list[Tensor]
    point_offsets: Tensor
    source_offsets: Tensor

    def of_points(self) -> TileList:
        """The sources that points see."""
        return _tile_list(self.keep, self.point_offsets, self.source_offsets)

    def of_sources(self) -> TileList:
        """The points that see sources."""
        return _tile_list([image.T for image in self.keep], self.source_offsets, self.point_offsets)

    def num_kept(self) -> int:
        """Pairs of chunks; waits for the device."""
        return int(torch.stack([image.sum() for image in self.keep]).sum())

    def num_pairs(self) -> int:
        """Kept or not."""
        return sum(image.numel() for image in self.keep)


def may_pay(points: Tensor, sources: Tensor | None, num_images: int) -> bool:
    """Whether a tolerance, with all that choosing takes, can save time: from the shapes and the device alone."""
    columns = points if sources is None else sources
    if columns.shape[0] < SMALLEST * num_images:
        return False
    return points.device.type == "cpu" or points.shape[0] * columns.shape[0] > TOO_FEW_PAIRS * num_images**2


def near_tiles(
    points: Tensor,
    sources: Tensor | None,
    log_weight: Tensor | None,
    kappa: Tensor,
    point_offsets: Tensor,
    source_offsets: Tensor,
    tol: float,
) -> NearTiles | None:
    """The pairs without which densities would lose more than the share `tol`; None: all, where little can be left out.

    Arguments as in `backends/reference/mean_shift.py`. Equal inputs give equal pairs: a backward asks again.
    """
    if tol == 0.0:
        return None
    spans = list(zip(image_slices(point_offsets), image_slices(source_offsets), strict=True))
    pairs = [(x.stop - x.start) * (y.stop - y.start) for x, y in spans]
    if max(pairs, default=0) <= TOO_FEW_PAIRS:
        return None

    def bounds(rows: slice, columns: slice) -> ImageBounds:
        mass = None if log_weight is None else log_weight[columns].exp()
        y = chunks_of((points if sources is None else sources)[columns], mass)
        x = y if sources is None else chunks_of(points[rows], None)
        return ImageBounds(x, y, sources is None, kappa)

    largest = bounds(*spans[pairs.index(max(pairs))])
    samples = min(_SAMPLES, largest.points.count)
    chosen = torch.arange(samples, device=points.device) * largest.points.count // samples
    if float(largest.needed_by(chosen, tol).float().mean()) > 1.0 - LEAST_SHARE:
        return None
    keep = []
    for count, (rows, columns) in zip(pairs, spans, strict=True):
        if count <= TOO_FEW_PAIRS:
            shape = (_num_chunks(rows), _num_chunks(columns))
            keep.append(torch.ones(shape, dtype=torch.bool, device=points.device))
            continue
        needed = bounds(rows, columns).needed(tol)
        keep.append(needed | needed.T if sources is None else needed)
    near = NearTiles(keep, point_offsets, source_offsets)
    worth = near.num_kept() <= min((1.0 - LEAST_SHARE) * near.num_pairs(), _MOST_LISTED)
    return near if worth else None


def _num_chunks(rows: slice) -> int:
    return -(-(rows.stop - rows.start) // CHUNK)


def _tile_list(keep: list[Tensor], row_offsets: Tensor, column_offsets: Tensor) -> TileList:
    before = torch.zeros_like(row_offsets)
    torch.cumsum((row_offsets.diff() + CHUNK - 1) // CHUNK, 0, out=before[1:])
    counts = torch.cat([image.sum(1) for image in keep])
    begin = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    columns = []
    for image, span in zip(keep, image_slices(column_offsets), strict=True):
        for band in image.split(max(1, _BAND_PAIRS // max(1, image.shape[1]))):
            columns.append((span.start + CHUNK * band.nonzero()[:, 1]).to(torch.int32))
    return TileList(before.to(torch.int32), begin.to(torch.int32), torch.cat(columns))
