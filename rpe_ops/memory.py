"""How much memory a call needs: a calculator for the backends whose peak is measured, `python -m rpe_ops.memory`.

Counts what PyTorch allocates above the inputs at the worst moment: rows of the computing dtype, a few numbers a point,
and the bands of the backend `torch`. The counts are a table; `tests/test_memory_estimate.py` holds it against the peak
that PyTorch's profiler sees. It calls no operator and allocates nothing.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch

from rpe_ops import validate

# Bytes of an element: of the input, and of the rows that are computed with.
ITEMSIZE = {"float16": (2, 4), "bfloat16": (2, 4), "float32": (4, 4), "float64": (8, 8)}
BACKENDS = ("cpu", "torch")


class Cost(NamedTuple):
    """Peak of one operator in one backend, above its inputs: that of two moments which needs more."""

    rows: float
    """Tensors [N, D] of the computing dtype that live at once where all rows are prepared or finished; a centre for
    every 48 rows is 1/48."""
    rows_per_step: int
    """As many more for every mean-shift step, kept for the gradient."""
    rows_from_half: int
    """As many more where the embedding has a half type."""
    numbers: int
    """Bytes of a point beside its rows: indices, weights, densities; half as much again in float64."""
    rows_beside_bands: int = 0
    """Tensors [N, D] beside the bands of pairs (backend `torch`), or at another moment without bands."""
    rows_from_bfloat16: float = 0.0
    """As many more where the embedding is bfloat16: copies that a CPU with such products multiplies."""
    bands: float = 0.0
    """Bands of at most 2^20 pairs that live at once (backend `torch` on a CPU)."""
    pair_bytes: int = 0
    """Bytes of a pair of such a band beside those, whatever the dtype: numbers of rows, flags."""


# (operator, a gradient is needed) -> costs of the backends in the order of BACKENDS.
COSTS = {
    ("pairwise_loss", False): (Cost(6 + 1 / 48, 0, 1, 33), Cost(7, 0, 1, 32, 3, bands=3.3)),
    ("pairwise_loss", True): (
        Cost(8 + 1 / 48, 0, 1, 49, rows_from_bfloat16=1),
        Cost(9, 0, 1, 48, 6, bands=3.3),
    ),
    ("mean_shift", False): (Cost(7, 0, 0, 32, rows_from_bfloat16=1.5), Cost(7, 0, 0, 32, 3, bands=3)),
    ("mean_shift", True): (Cost(11, 2, 0, 128, rows_from_bfloat16=2), Cost(9, 2, 0, 128, 9, bands=5)),
    ("connected_components", False): (
        Cost(4 + 1 / 48, 0, 1, 17),
        Cost(4, 0, 1, 24, 1, bands=1, pair_bytes=10),
    ),
}
# What mean_shift holds of the fixed points when seeds move instead.
SEEDED_COSTS = {
    False: (Cost(4, 0, 1, 16), Cost(4, 0, 1, 16, 1, bands=3)),
    True: (Cost(8, 0, 0, 32), Cost(8, 0, 0, 32, 5, bands=5)),
}
# The same in backend cpu without a gradient, where there are at least this many points for each seed.
POINTS_PER_STREAMED_SEED = 4
STREAMED_COST = Cost(1.25, 0, 1, 4, 2)
# Counted by functions of their own, `select_seeds_bytes` and `assign_to_modes_bytes`.
AROUND_SEEDS = ("select_seeds", "assign_to_modes")
OPERATORS = (*dict.fromkeys(operator for operator, _ in COSTS), *AROUND_SEEDS)
PAIRS_OF_A_BAND = 1 << 20
# Scratch space of the kernels' threads.
SCRATCH = 1 << 18


def peak_bytes(
    operator: str,
    num_points: int,
    dim: int,
    *,
    dtype: str | torch.dtype = "float32",
    backend: str = "cpu",
    gradient: bool = False,
    num_steps: int = 1,
    num_seeds: int | None = None,
) -> int:
    """Bytes that a call allocates above its inputs at its peak, results included.

    Args:
        operator: `"pairwise_loss"`, `"mean_shift"`, `"connected_components"`, `"select_seeds"` or `"assign_to_modes"`.
        num_points: N >= 1, of all images of the batch together.
        dim: D >= 1.
        dtype: of the embedding: `torch.float32` or its name; likewise float16, bfloat16 and float64.
        backend: `"cpu"`, or `"torch"` on a CPU.
        gradient: the embedding requires grad, and `backward` runs.
        num_steps: of `mean_shift`, 0 or more; nothing else has any.
        num_seeds: M >= 1, of all images together: of `mean_shift` where seeds move, of `select_seeds`, and the modes of
            `assign_to_modes`.

    Returns:
        An upper estimate, at most half too large for N from some thousands on. Not in it are the padded copies of a
        ragged batch that `select_seeds` and `assign_to_modes` make in backend `torch`. A process's resident memory may
        grow by up to about twice the estimate, because the C library keeps freed blocks.

    Raises:
        TypeError, ValueError: an argument is wrong, or does not belong to the operator; the message names it and the
            remedy.

    Example:
        >>> from rpe_ops.memory import peak_bytes
        >>> peak_bytes("pairwise_loss", 512 * 512, 16, gradient=True) >> 20  # MiB; one N x N matrix takes 262,144
        140
    """
    function = "peak_bytes"
    validate.choice(function, "operator", operator, OPERATORS)
    dtype = str(dtype).removeprefix("torch.")
    validate.choice(function, "dtype", dtype, ITEMSIZE)
    validate.choice(function, "backend", backend, BACKENDS)
    num_points = validate.positive_count(function, "num_points", num_points, "give the points of all images")
    dim = validate.positive_count(function, "dim", dim, "give the number of columns of the embedding")
    num_steps = validate.step_count(function, num_steps)
    if num_seeds is not None:
        num_seeds = validate.positive_count(
            function, "num_seeds", num_seeds, "or None, and every point moves"
        )
    if gradient and (operator, gradient) not in COSTS:
        raise ValueError(f"{function}: {operator} has no gradient; leave gradient=False")
    if operator in AROUND_SEEDS:
        if num_seeds is None:
            raise ValueError(f"{function}: {operator} needs num_seeds, got None; give those of all images")
        count = select_seeds_bytes if operator == "select_seeds" else assign_to_modes_bytes
        return count(num_points, dim, num_seeds, dtype, backend)
    if num_seeds is not None and operator != "mean_shift":
        raise ValueError(f"{function}: {operator} has no seeds, got num_seeds={num_seeds}; leave it None")
    which = BACKENDS.index(backend)
    own, itemsize = ITEMSIZE[dtype]
    cost = COSTS[operator, gradient][which]
    moving, fixed = num_points, Cost(0, 0, 0, 0)
    if num_seeds is not None:
        moving, fixed = num_seeds, SEEDED_COSTS[gradient][which]
        streamed = POINTS_PER_STREAMED_SEED * num_seeds <= num_points
        if backend == "cpu" and streamed and not gradient:
            fixed = STREAMED_COST
    per_step = cost.rows_per_step * num_steps
    half = own < itemsize
    wider = 1.5 if own == 8 else 1.0
    copies: float = cost.rows_from_half * half
    if dtype == "bfloat16" and num_seeds is None:
        copies += cost.rows_from_bfloat16

    def at(rows: float, fixed_rows: float) -> int:
        """Bytes with that many tensors [N, D] of the points that move and of those that do not."""
        moving_bytes = moving * ((rows + per_step + copies) * itemsize * dim + wider * cost.numbers)
        fixed_rows += fixed.rows_from_half * half
        fixed_bytes = num_points * (fixed_rows * itemsize * dim + wider * fixed.numbers) if fixed.rows else 0
        return int(moving_bytes + fixed_bytes)

    banded = fixed if fixed.rows else cost
    pairs = min(moving * num_points, PAIRS_OF_A_BAND)
    in_bands = int(pairs * (banded.bands * itemsize + banded.pair_bytes))
    return SCRATCH + max(
        at(cost.rows, fixed.rows), at(cost.rows_beside_bands, fixed.rows_beside_bands) + in_bands
    )


def unit_rows_bytes(num_rows: int, dim: int, dtype: str) -> int:
    """Unit rows at the moment they are made: with the copies of half types, and four numbers and a flag a row."""
    own, itemsize = ITEMSIZE[dtype]
    return num_rows * ((1 + (own < itemsize)) * itemsize * dim + 4 * itemsize + 1)


def select_seeds_bytes(num_points: int, dim: int, num_seeds: int, dtype: str, backend: str) -> int:
    """`peak_bytes` of `select_seeds`: unit rows, beside them the seeds so far and a sum for every 48 points (backend
    `cpu`), or copies of all points that are summed in float64."""
    itemsize = ITEMSIZE[dtype][1]
    size = SCRATCH + unit_rows_bytes(num_points, dim, dtype)
    if backend == "torch":
        return size + num_points * (8 * dim * (itemsize < 8) + 8)
    return size + num_points * itemsize * dim // 48 + num_seeds * (itemsize * dim + 16)


def assign_to_modes_bytes(num_points: int, dim: int, num_seeds: int, dtype: str, backend: str) -> int:
    """`peak_bytes` of `assign_to_modes`: that of three moments which needs most. Modes are merged, rows are made, and
    their nearest modes are looked for, in backend `torch` through two bands of cosines."""
    itemsize = ITEMSIZE[dtype][1]
    modes = unit_rows_bytes(num_seeds, dim, dtype)
    nearest = num_points * (itemsize * dim + 34)
    if backend == "torch":
        nearest += 2 * itemsize * min(num_points * num_seeds, PAIRS_OF_A_BAND)
    looking = SCRATCH + modes + max(unit_rows_bytes(num_points, dim, dtype), nearest)
    return max(peak_bytes("connected_components", num_seeds, dim, dtype=dtype, backend=backend), looking)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rpe_ops.memory", description="Peak memory of the operators above their inputs."
    )
    parser.add_argument(
        "--points", type=int, default=512 * 512, help="N, of all images of the batch together"
    )
    parser.add_argument("--dim", type=int, default=16, help="D")
    parser.add_argument("--dtype", default="float32", choices=ITEMSIZE)
    parser.add_argument("--backend", default="cpu", choices=BACKENDS)
    parser.add_argument("--steps", type=int, default=5, help="mean-shift steps")
    parser.add_argument("--seeds", type=int, default=100, help="mean-shift seeds, of all images together")
    chosen = parser.parse_args(arguments)
    try:
        print(table(chosen.points, chosen.dim, chosen.dtype, chosen.backend, chosen.steps, chosen.seeds))
    except ValueError as error:
        parser.error(str(error))


def table(num_points: int, dim: int, dtype: str, backend: str, num_steps: int, num_seeds: int) -> str:
    """A Markdown table of MiB and bytes a point, with the N x N matrix that is not there as the last line."""
    own = ITEMSIZE[dtype][0]
    lines = [
        f"N = {num_points:,}, D = {dim}, {dtype}, backend {backend}",
        "",
        "| operation | MiB above the inputs | bytes a point |",
        "|---|--:|--:|",
    ]
    seeded = f"mean_shift, {num_steps} steps, {num_seeds} seeds"
    cases: list[tuple[str, str, bool, int | None]] = [
        ("pairwise_loss", "pairwise_loss", False, None),
        ("pairwise_loss with gradient", "pairwise_loss", True, None),
        (f"mean_shift, {num_steps} steps", "mean_shift", False, None),
        (f"mean_shift, {num_steps} steps, with gradient", "mean_shift", True, None),
        (seeded, "mean_shift", False, num_seeds),
        (f"{seeded}, with gradient", "mean_shift", True, num_seeds),
        ("connected_components", "connected_components", False, None),
        (f"select_seeds, {num_seeds} seeds", "select_seeds", False, num_seeds),
        (f"assign_to_modes, {num_seeds} modes", "assign_to_modes", False, num_seeds),
    ]
    for label, operator, gradient, seeds in cases:
        size = peak_bytes(
            operator,
            num_points,
            dim,
            dtype=dtype,
            backend=backend,
            gradient=gradient,
            num_steps=num_steps,
            num_seeds=seeds,
        )
        lines.append(f"| {label} | {size / 2**20:,.1f} | {size / num_points:,.0f} |")
    matrix = num_points**2 * ITEMSIZE[dtype][1]
    lines.append(
        f"| for comparison: the embedding itself | {num_points * dim * own / 2**20:,.1f} | {own * dim:,} |"
    )
    lines.append(f"| for comparison: one N x N matrix | {matrix / 2**20:,.1f} | {num_points * 4:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
