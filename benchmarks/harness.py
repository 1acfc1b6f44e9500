"""Times several providers of one operation side by side, and refuses to report one that is wrong.

The tests in this folder make a `Case` and its providers; `measure` checks each provider against float64, then times
them in turns (one call of each per round, so that a busy machine slows all of them alike) and returns one `Row` per
provider. Out of memory, absent and wrong are values with reasons, never silence. `report.py` writes the rows.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from memory import PeakMemory, available_bytes

# Largest relative error against float64, |out - expected| / |expected|, of a result and of its gradient.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
DEFAULT_KAPPA = 10.0
# Rounds stop at this number, or, for a slow provider, once it has used this many seconds.
MAX_ROUNDS = 15
BUDGET_SECONDS = 4.0
# A first call slower than this is not repeated for its peak memory: what a first call allocates once is small then.
SLOW_SECONDS = 2.0
# A first call slower than this is its only round: nothing that comes before it is as long.
ONCE_SECONDS = 20.0
# A provider that may be slow is left out where one call would take longer than this.
PATIENCE_SECONDS = 5.0

Result = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One measured situation: what is computed, on how many points of how many dimensions, where and in what dtype."""

    operation: str
    mode: str  # "forward" or "forward+backward"; of the model package "training" or "inference"
    num_points: int
    dim: int
    dtype: torch.dtype
    device: torch.device
    kappa: float = DEFAULT_KAPPA

    def title(self) -> str:
        """The operation, with kappa where it is not the usual one."""
        usual = self.kappa == DEFAULT_KAPPA
        return self.operation if usual else f"{self.operation} kappa={self.kappa:g}"

    def tolerance(self) -> float:
        """The largest error allowed; kappa magnifies the rounding of cosines."""
        return TOLERANCE[self.dtype] * max(1.0, self.kappa / DEFAULT_KAPPA)

    def name(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.title()} {self.mode} N={self.num_points} D={self.dim} {dtype} {self.device.type}"


@dataclass(frozen=True)
class Provider:
    """`run` computes the case once and returns what is to be checked; `square_tensors` counts the N x N tensors it
    holds at the same time, so that it is skipped rather than killed where they do not fit; `absent` is the reason why
    it cannot run here at all. One that `may_be_slow` is timed only where its times on less let it."""

    name: str
    run: Callable[[], Result] | None
    square_tensors: int = 0
    absent: str | None = None
    may_be_slow: bool = False


@dataclass
class Row:
    """One line of the result files. Times are milliseconds, memory is MiB above the inputs."""

    operation: str
    mode: str
    num_points: int
    dim: int
    dtype: str
    device: str
    provider: str
    status: str = "ok"  # "ok", "absent", "failed" (peers only), "out of memory", "too slow" or "wrong"
    reason: str = ""
    error: float | None = None
    # Of the first call, which compiles and loads what no case before it had; not one of the rounds, but where it took
    # ONCE_SECONDS.
    first_ms: float | None = None
    rounds: int = 0
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    peak_mib: float | None = None
    # Of every round. Not in the result files, which hold medians; interchange.py gives them to pytest-benchmark.
    seconds: tuple[float, ...] = ()

    def record(self) -> dict[str, Any]:
        """The columns of the result files."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}


def measure(
    case: Case, providers: Sequence[Provider], expected: Result, max_rounds: int = MAX_ROUNDS
) -> list[Row]:
    """One row per provider, in the order given. `expected` holds the float64 results the providers must reproduce."""
    rows = [_checked_row(case, provider, expected) for provider in providers]
    timings = {row.provider: list(row.seconds) for row in rows if row.status == "ok"}
    runs = {provider.name: provider.run for provider in providers if provider.name in timings}
    gc.collect()
    gc.disable()
    try:
        for _ in range(max_rounds):
            for name, seconds in timings.items():
                if sum(seconds) < BUDGET_SECONDS:
                    seconds.append(seconds_of(runs[name], case.device))
    finally:
        gc.enable()
    for row in rows:
        seconds = timings.get(row.provider)
        if seconds:
            row.rounds, row.seconds = len(seconds), tuple(seconds)
            row.median_ms = 1e3 * statistics.median(seconds)
            row.p20_ms, row.p80_ms = (1e3 * _quantile(seconds, share) for share in (0.2, 0.8))
    return rows


def _checked_row(case: Case, provider: Provider, expected: Result) -> Row:
    """Runs a provider once, which also warms it up, and compares it with `expected`."""
    dtype = str(case.dtype).removeprefix("torch.")
    row = Row(
        case.title(), case.mode, case.num_points, case.dim, dtype, case.device.type, provider=provider.name
    )
    if provider.absent is not None or provider.run is None:
        row.status, row.reason = "absent", provider.absent or "not implemented"
        return row
    needed = provider.square_tensors * case.num_points**2 * case.dtype.itemsize
    available = available_bytes(case.device)
    if needed > available:
        row.status = "out of memory"
        row.reason = (
            f"{provider.square_tensors} N x N tensors need {needed >> 20} MiB of {available >> 20} MiB"
        )
        return row
    if provider.may_be_slow and (seconds := _least_seconds(row)) > PATIENCE_SECONDS:
        row.status, row.reason = "too slow", f"at least {seconds:.0f} s a call, by its time on less"
        return row
    try:
        result, peak, seconds = _observed(provider.run, case.device)
        row.first_ms = 1e3 * seconds
        _first_rows.append(row)
        if seconds < SLOW_SECONDS:
            result, peak, _ = _observed(provider.run, case.device)
        elif seconds > ONCE_SECONDS:
            row.seconds = (seconds,)
    except torch.OutOfMemoryError as error:
        row.status, row.reason = "out of memory", str(error).splitlines()[0]
        return row
    except Exception as error:
        if provider.name.startswith("rpe_ops"):
            raise
        row.status, row.reason = "failed", f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        return row
    row.peak_mib = peak
    errors = [relative_error(one, other) for one, other in zip(result, expected, strict=True)]
    row.error = max(errors) if all(map(math.isfinite, errors)) else None
    if row.error is None or row.error > case.tolerance():
        row.status = "wrong"
        row.reason = f"relative errors {errors} against float64, allowed {case.tolerance():.0e}"
    return row


# Of every provider that ran, for `_least_seconds`.
_first_rows: list[Row] = []


def _least_seconds(row: Row) -> float:
    """What a call takes if time grows no faster than N D, by the provider's first calls on less of the same."""

    def key(one: Row) -> tuple[str, ...]:
        return one.provider, one.operation, one.mode, one.dtype, one.device

    known = [
        one.first_ms / 1e3 * row.num_points * row.dim / (one.num_points * one.dim)
        for one in _first_rows
        if key(one) == key(row) and one.num_points <= row.num_points and one.dim <= row.dim and one.first_ms
    ]
    return max(known, default=0.0)


def _observed(run: Callable[[], Result], device: torch.device) -> tuple[Result, float | None, float]:
    """One call's result, peak memory in MiB and wall-clock seconds."""
    with PeakMemory(device) as peak:
        start = time.perf_counter()
        result = run()
    return result, peak.mib, time.perf_counter() - start


def relative_error(result: Tensor, expected: Tensor) -> float:
    difference = (result.detach().double() - expected).norm()
    return float(difference / expected.norm().clamp_min(torch.finfo(torch.float64).tiny))


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """How long one call takes: on a GPU by its own events, elsewhere by the clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
