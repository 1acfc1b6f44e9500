"""The tolerance policy of every operator test; no test brings its own.

A result may err by twice (a gradient: three times) the error that eager PyTorch makes on the same input in the same
dtype, both measured against float64, plus a floor for each dtype. Errors are relative to the largest exact entry, and
for gradients also row by row, so that no missing row hides behind a large one. Half types are computed in float32 by
contract: their eager error is that of a float32 computation whose result is rounded. Backend `cpu` meets that where it
multiplies bfloat16 copies, too. Backends that multiply float16
operands on tensor cores have the error of eager PyTorch in the half type itself; float32 rows are two float16 parts
there, 22 bits instead of 24, which may cost them one more such error.
"""

from __future__ import annotations

import torch
from torch import Tensor

VALUE_FACTOR = 2.0
GRADIENT_FACTOR = 3.0
# Some units in the last place of each dtype: eager PyTorch is now and then exact by luck, and a sum in another order
# is not.
FLOORS = {torch.float64: 2e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
HALF_PRODUCTS = frozenset({"triton", "cuda"})
# The check row by row looks for missing or swapped rows; one row's rounding is a small sample, hence the room.
ROW_ROOM = 5.0
# Rows of a gradient smaller than this share of the largest row are compared as if they were this large.
SMALLEST_ROW = 0.03


_extra = 0.0


def serve(backend: str | None) -> None:
    """Measure by what this backend is allowed from now on; the `backend` fixture says which."""
    global _extra
    _extra = 1.0 if backend in HALF_PRODUCTS else 0.0


def assert_values(result: Tensor, exact: Tensor, eager: Tensor | None = None, *, scale: float = 0.0) -> None:
    """`result` against float64 `exact`; `scale` is the size of the terms when they nearly cancel in the result."""
    _same_shape(result, exact)
    size = max(_largest(exact), scale)
    _compare("value", result, exact, eager, size, VALUE_FACTOR + _extra)


def assert_gradients(
    result: Tensor, exact: Tensor, eager: Tensor | None = None, *, scale: float = 0.0
) -> None:
    """A gradient against float64 `exact`: as a whole, and row by row when it has rows."""
    _same_shape(result, exact)
    exact = exact.detach().cpu()
    size = max(_largest(exact), scale)
    _compare("gradient", result, exact, eager, size, GRADIENT_FACTOR + _extra)
    if exact.ndim < 2 or exact.numel() == 0:
        return
    rows = exact.detach().double().abs().amax(-1, keepdim=True).clamp_min(max(SMALLEST_ROW * size, 1e-300))
    _compare("gradient, row by row", result, exact, eager, rows, GRADIENT_FACTOR + _extra, ROW_ROOM)


def assert_same(result: Tensor, other: Tensor, *, scale: float = 0.0) -> None:
    """Two results that rounding alone may part: twice the floor of the narrower dtype, one for each, and once more for
    backends that multiply float16 operands."""
    _same_shape(result, other)
    narrow = min(result.dtype, other.dtype, key=lambda dtype: torch.finfo(dtype).bits)
    size = max(_largest(other), scale)
    _compare("result", result.to(narrow), other.double(), None, size, 1.0, room=2.0 + _extra)


def _compare(
    what: str,
    result: Tensor,
    exact: Tensor,
    eager: Tensor | None,
    size: float | Tensor,
    factor: float,
    room: float = 1.0,
) -> None:
    if exact.numel() == 0:
        return
    result, dtype = result.detach().cpu().double(), result.dtype
    assert bool(result.isfinite().all()), f"{what}: {int((~result.isfinite()).sum())} entries are not finite"
    exact = exact.detach().cpu().double()
    allowed = FLOORS[dtype]
    if eager is not None:
        allowed += factor * float(_relative(eager.detach().cpu().double(), exact, size).max())
    allowed *= room
    error = _relative(result, exact, size)
    worst = int(error.argmax())
    assert bool((error <= allowed).all()), (
        f"{what}: error {float(error.max()):.3g} above the allowed {allowed:.3g} ({dtype}), at flat index {worst}: "
        f"{float(result.flatten()[worst]):.9g} where {float(exact.flatten()[worst]):.9g} is right; "
        f"{int((~(error <= allowed)).sum())} of {error.numel()} entries are off"
    )


def _relative(value: Tensor, exact: Tensor, size: float | Tensor) -> Tensor:
    if not isinstance(size, Tensor):
        size = max(size, 1e-300)
    # NaN must not pass as "not above": it counts as an infinite error
    return ((value - exact).abs() / size).nan_to_num(nan=torch.inf)


def _largest(exact: Tensor) -> float:
    assert bool(exact.isfinite().all()), (
        "the expected values are not finite: use explicit checks for such inputs"
    )
    return float(exact.detach().abs().max()) if exact.numel() else 0.0


def _same_shape(result: Tensor, exact: Tensor) -> None:
    assert result.shape == exact.shape, f"shape {list(result.shape)} where {list(exact.shape)} is right"
