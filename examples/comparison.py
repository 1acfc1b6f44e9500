"""Before and after, side by side: what every recipe prints. Both sides are measured in one way: a run that loads and
compiles, then the median time of some runs and the peak memory of the last, above what was there before it, as the
benchmarks of this repository measure it. Every recipe takes `--device` and `--seed`."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from memory import PeakMemory

REPEATS = 3
# No further run is begun after so many seconds of timed runs.
ENOUGH_SECONDS = 5.0


class Measured(NamedTuple):
    """What one side returned, what it cost, and why its memory is None where it is."""

    result: Any
    seconds: float
    mib: float | None
    unknown: str | None


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """A command line with what every recipe takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", type=_usable_device, default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _usable_device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter from a PyTorch without that kind of device
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used here: {reason}") from None


def measure(call: Callable[[], Any], device: torch.device) -> Measured:
    """Runs `call` once untimed and then up to `REPEATS` times."""
    call()
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
        with PeakMemory(device) as memory:
            start = time.perf_counter()
            result = call()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            seconds.append(time.perf_counter() - start)
    return Measured(result, statistics.median(seconds), memory.mib, memory.unknown)


def report(title: str, before: Measured, after: Measured, agreement: Mapping[str, float]) -> dict[str, float]:
    """Prints the table and returns its numbers by name, for tests."""
    print(title)
    print(f"  {'':<44}{'before':>10}{'after':>10}")
    print(f"  {'time, s':<44}{before.seconds:>10.3f}{after.seconds:>10.3f}")
    if before.mib is not None and after.mib is not None:
        print(f"  {'peak memory above the inputs, MiB':<44}{before.mib:>10.1f}{after.mib:>10.1f}")
    else:
        print(f"  peak memory is not known: {before.unknown or after.unknown}")
    for name, value in agreement.items():
        print(f"  {name:<54}{value:>10.4g}")
    return {"seconds before": before.seconds, "seconds after": after.seconds, **agreement}
