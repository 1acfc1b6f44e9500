"""Before and after, side by side: what every recipe prints. Time is the median of some runs, memory the peak of one
above what was there before, measured as the benchmarks of this repository measure it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from memory import PeakMemory


class Measured(NamedTuple):
    """What one side returned, and what it cost."""

    result: Any
    seconds: float
    mib: float | None


def measure(call: Callable[[], Any], device: torch.device, repeats: int = 3) -> Measured:
    """Runs `call` `repeats` times; the peak memory is that of the last run, in which every library is loaded."""
    seconds = []
    for _ in range(repeats):
        with PeakMemory(device) as memory:
            start = time.perf_counter()
            result = call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    return Measured(result, statistics.median(seconds), memory.mib)


def report(title: str, before: Measured, after: Measured, agreement: Mapping[str, float]) -> dict[str, float]:
    """Prints the table and returns its numbers by name, for tests."""
    print(title)
    print(f"  {'':<44}{'before':>10}{'after':>10}")
    print(f"  {'time, s':<44}{before.seconds:>10.3f}{after.seconds:>10.3f}")
    if before.mib is not None and after.mib is not None:
        print(f"  {'peak memory above the inputs, MiB':<44}{before.mib:>10.1f}{after.mib:>10.1f}")
    for name, value in agreement.items():
        print(f"  {name:<54}{value:>10.4g}")
    return {"seconds before": before.seconds, "seconds after": after.seconds, **agreement}
