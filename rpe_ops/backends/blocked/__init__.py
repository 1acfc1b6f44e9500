"""Backend "torch": plain PyTorch in blocks of rows, memory O(N D). Runs where nothing else does.

The same numbers as `reference`, one band of rows against all columns at a time, so that no N x N tensor exists.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

# Elements of one band of rows times all columns: 8 MB in float32, of which several live at a time, stays near the
# last-level cache of a CPU; a GPU needs larger bands to be busy.
BAND_ELEMENTS_CPU = 1 << 21
BAND_ELEMENTS_GPU = 1 << 26


def unavailable_reason(device_type: str) -> str | None:
    """None: this backend runs on every device."""
    return None


def row_bands(rows: Tensor, num_columns: int) -> Iterator[slice]:
    """Slices that cut `rows` into bands whose product with `num_columns` columns stays within the budget."""
    budget = BAND_ELEMENTS_CPU if rows.device.type == "cpu" else BAND_ELEMENTS_GPU
    height = max(1, budget // max(1, num_columns))
    for start in range(0, rows.shape[0], height):
        yield slice(start, min(start + height, rows.shape[0]))
