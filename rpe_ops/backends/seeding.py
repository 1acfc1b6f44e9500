"""Seeds and modes in plain PyTorch on every device: farthest points, and for each point the nearest of some rows.

Both are products of all points with few rows, which PyTorch's own matrix products do well: the backends without a
kernel of their own share them. All images of a batch advance together. Rows are unit vectors, and cosines are compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rpe_ops.backends.images import accumulation_dtype, row_bands
from rpe_ops.backends.rows import cosine_rounding

FARTHEST = -1


def farthest_points(
    points: Tensor, offsets: Tensor, num_seeds: int, first: Tensor, points_per_image: int
) -> Tensor:
    """Row numbers `[B, num_seeds]` within each image; arguments as in the reference."""
    if points_per_image:
        return _farthest(points.unflatten(0, (-1, points_per_image)), num_seeds, first)
    index = first.new_zeros(first.shape[0], num_seeds)
    for images, numbers in _groups(offsets):
        index[images] = _farthest(_padded(points, numbers), num_seeds, first[images])
    return index


def _farthest(points: Tensor, num_seeds: int, first: Tensor) -> Tensor:
    """`farthest_points` of images of one size, `points [B, N, D]`; nothing waits for the device."""
    # the cosine to the nearest seed so far; points that may not be chosen (any more) are at infinity
    nearest = torch.where(torch.isfinite(points.sum(2)), -torch.inf, torch.inf).to(points.dtype)
    start = torch.where(first == FARTHEST, _farthest_from_mean(points, nearest), first)
    covered = 1.0 - cosine_rounding(points)
    index = start
    chosen = [start]
    for _ in range(num_seeds - 1):
        seed = points.gather(1, index[:, None, None].expand(-1, 1, points.shape[2]))
        torch.fmax(nearest, (points @ seed.transpose(1, 2))[:, :, 0], out=nearest)
        nearest.scatter_(1, index[:, None], torch.inf)
        smallest, index = nearest.min(1)
        index = torch.where(smallest < covered, index, start)
        chosen.append(index)
    return torch.stack(chosen, 1)


def _farthest_from_mean(points: Tensor, excluded: Tensor) -> Tensor:
    """The point `[B]` whose cosine with the sum of its image's points `[B, N, D]` is smallest; `excluded [B, N]` is
    infinity where a point does not count, else minus infinity."""
    left_out = excluded > 0
    # only a CPU is asked whether there is any, elsewhere that would wait for the device
    none = points.device.type == "cpu" and not bool(left_out.any())
    rows = points if none else points.masked_fill(left_out[:, :, None], 0.0)
    mean = rows.sum(1, keepdim=True, dtype=accumulation_dtype(points.device)).to(points.dtype)
    return torch.fmax((rows @ mean.transpose(1, 2))[:, :, 0], excluded).argmin(1)


def nearest_rows(
    points: Tensor,
    rows: Tensor,
    point_offsets: Tensor,
    row_offsets: Tensor,
    points_per_image: int,
    rows_per_image: int,
) -> Tensor:
    """Row numbers `[T]` within each image; arguments as in the reference."""
    if points_per_image and rows_per_image:
        targets = rows.unflatten(0, (-1, rows_per_image))
        return _nearest(points.unflatten(0, (-1, points_per_image)), targets).flatten()
    nearest = torch.full_like(points[:, 0], -1, dtype=torch.int64)
    for images, numbers in _groups(point_offsets):
        targets = _padded(rows, _row_numbers(row_offsets, images))
        if targets.shape[1] == 0:
            continue
        found = _nearest(_padded(points, numbers), targets)
        real = numbers < points.shape[0]
        nearest[numbers[real]] = found[real]
    return nearest


def _nearest(points: Tensor, targets: Tensor) -> Tensor:
    """`nearest_rows [b, n]` of images of one size, `points [b, n, D]` and `targets [b, m, D]`, m > 0; nothing waits for
    the device."""
    nearest = torch.empty_like(points[:, :, 0], dtype=torch.int64)
    for band in row_bands(points[0], targets.shape[0] * targets.shape[1]):
        cosine = points[:, band] @ targets.transpose(1, 2)
        cosine.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        largest, index = cosine.max(2)
        nearest[:, band] = torch.where(largest == -torch.inf, -1, index)
    return nearest


def _groups(offsets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images of similar size, none more than twice another, and the numbers of their rows (`_row_numbers`); images
    without rows are left out. Reads the sizes once."""
    by_size: dict[int, list[int]] = {}
    for image, size in enumerate(offsets.diff().tolist()):
        if size:
            by_size.setdefault(size.bit_length(), []).append(image)
    for group in by_size.values():
        images = torch.tensor(group, device=offsets.device)
        yield images, _row_numbers(offsets, images)


def _row_numbers(offsets: Tensor, images: Tensor) -> Tensor:
    """The numbers `[b, longest]` of the packed rows of some images; `offsets[-1]`, which no row has, fills them up."""
    start, size = offsets[images], offsets.diff()[images]
    place = torch.arange(int(size.max()), device=offsets.device)
    return torch.where(place < size[:, None], start[:, None] + place, offsets[-1])


def _padded(rows: Tensor, numbers: Tensor) -> Tensor:
    """`rows [T, D]` at `numbers [b, n]`, NaN where there is no such row."""
    if rows.shape[0] == 0:
        return rows.new_empty(numbers.shape[0], 0, rows.shape[1])
    taken = rows[numbers.clamp(max=rows.shape[0] - 1)]
    return taken.masked_fill_((numbers == rows.shape[0])[..., None], torch.nan)
