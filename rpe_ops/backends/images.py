"""Images of a packed batch: slices, bands of rows, the image of each row, sums, runs of equal ids, components.

Shared by the PyTorch backends and the layers above them. It holds no formula of an operator.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def image_slices(offsets: Tensor) -> Iterator[slice]:
    """One slice of rows per image of a packed batch with `offsets [B+1]`."""
    bounds = offsets.tolist()
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        yield slice(start, stop)


# Elements of one band of rows times all columns: 4 MB in float32, of which several live at a time, stays near the
# last-level cache of a CPU; a GPU needs larger bands to be busy.
BAND_ELEMENTS_CPU = 1 << 20
BAND_ELEMENTS_GPU = 1 << 26


def row_bands(rows: Tensor, num_columns: int) -> Iterator[slice]:
    """Slices that cut `rows` into bands whose product with `num_columns` columns stays within the budget."""
    budget = BAND_ELEMENTS_CPU if rows.device.type == "cpu" else BAND_ELEMENTS_GPU
    height = max(1, budget // max(1, num_columns))
    for start in range(0, rows.shape[0], height):
        yield slice(start, min(start + height, rows.shape[0]))


def row_and_column_bands(
    points: Tensor, point_offsets: Tensor, source_offsets: Tensor
) -> Iterator[tuple[slice, slice]]:
    """Pairs (band of rows, all columns of its image), as slices of the packed tensors."""
    for rows, columns in zip(image_slices(point_offsets), image_slices(source_offsets), strict=True):
        for band in row_bands(points[rows], columns.stop - columns.start):
            yield slice(rows.start + band.start, rows.start + band.stop), columns


def image_of_rows(offsets: Tensor, num_rows: int) -> Tensor:
    """Index of the image `[T]` that each packed row belongs to, from `offsets [B+1]`."""
    rows = torch.arange(num_rows, device=offsets.device)
    return torch.searchsorted(offsets[1:].contiguous(), rows, right=True)


# Where PyTorch can reduce segments; Apple's GPUs cannot.
_REDUCES_SEGMENTS = ("cpu", "cuda", "meta")


def segment_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """Sums `[S, *]` of `values [T, *]` over S runs of rows that begin at `offsets [S+1]`."""
    if values.device.type in _REDUCES_SEGMENTS and offsets.shape[0] > 1:
        return torch.segment_reduce(values, "sum", offsets=offsets, unsafe=True)
    return _scattered_sums(values, offsets)


def _scattered_sums(values: Tensor, offsets: Tensor) -> Tensor:
    sums = values.new_zeros(offsets.shape[0] - 1, *values.shape[1:])
    return sums.index_add(0, image_of_rows(offsets, values.shape[0]), values)


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """The widest float the device has: long sums run in it."""
    return torch.float32 if device.type == "mps" else torch.float64


def run_offsets(instance: Tensor) -> Tensor:
    """Where the runs of equal ids in a sorted `instance [N]` begin, and N: `[Q+1]`."""
    lengths = torch.unique_consecutive(instance, return_counts=True)[1]
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def first_appearance_labels(root: Tensor) -> Tensor:
    """Component labels 0..C-1 in order of first appearance, from `root [N]`: each point's smallest connected index."""
    is_root = root == torch.arange(root.shape[0], device=root.device)
    return (is_root.cumsum(0) - 1)[root]
