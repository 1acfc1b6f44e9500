"""Writes measured rows: one JSON and one CSV file per run, with what a reader needs to repeat it, and a table."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from harness import Row, seconds_of

REPOSITORY = Path(__file__).resolve().parents[1]
# Rows and columns of the matrices whose product measures the machine, and how often it is computed.
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
PRODUCT_ROUNDS = 5


def environment(device: torch.device, product_size: int | None = None) -> dict[str, object]:
    """Machine and versions; `load` is the one-minute load average before the run: above 0 the machine was shared;
    `sgemm_gflops`, and on a GPU `half_gflops`, are measured here, on the device and the threads that the run will
    use."""
    size = product_size or PRODUCT_SIZE[device.type]
    facts: dict[str, object] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "sgemm_gflops": product_gflops(device, size),
    }
    if device.type == "cuda":
        facts["half_gflops"] = product_gflops(device, size, torch.float16)
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        facts["cuda"] = torch.version.cuda
    return facts


def product_gflops(device: torch.device, size: int, dtype: torch.dtype = torch.float32) -> float:
    """Billions of operations per second of a product of two square matrices, median of a few: what the machine's own
    library reaches, and so the rate of a floor. Three figures are what it is worth."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    seconds = statistics.median(
        seconds_of(lambda: torch.mm(left, right), device) for _ in range(PRODUCT_ROUNDS)
    )
    return float(f"{2e-9 * size**3 / seconds:.3g}")


def write(folder: Path, name: str, facts: dict[str, object], rows: Sequence[Row]) -> Path:
    """`<name>.json` holds the environment once and the rows; `<name>.csv` repeats the environment in every row."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [row.record() for row in rows]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"environment": facts, "rows": records}, indent=1) + "\n", encoding="utf-8")
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*records[0], *facts], lineterminator="\n")
        table.writeheader()
        table.writerows({**record, **facts} for record in records)
    return path


HEADER = ("case", "provider", "first ms", "median ms", "p20 - p80", "peak MiB", "error", "")


def cells(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """The rows as text, one tuple per line of the table; the case stands at its first provider, absent ones not."""
    previous = ""
    for row in rows:
        if row.status == "absent":
            continue
        case = f"{row.operation} {row.mode} N={row.num_points} D={row.dim} {row.dtype}"
        yield (
            case if case != previous else "",
            row.provider,
            _number(row.first_ms),
            _number(row.median_ms),
            f"{_number(row.p20_ms)} - {_number(row.p80_ms)}" if row.median_ms else "",
            "" if row.peak_mib is None else f"{row.peak_mib:,.0f}",
            "" if row.error is None else f"{row.error:.0e}",
            "" if row.status == "ok" else f"{row.status}: {row.reason}",
        )
        previous = case


def print_table(rows: Sequence[Row], title: str) -> None:
    """A rich table, or plain columns where rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(title)
        for line in (HEADER, *cells(rows)):
            print("  ".join(f"{cell:<14}" for cell in line))
        return
    table = Table(title=title)
    for position, column in enumerate(HEADER):
        table.add_column(column, justify="right" if position in (2, 3, 4, 5) else "left")
    for line in cells(rows):
        table.add_row(*line)
    Console(width=150).print(table)


def absences(rows: Sequence[Row]) -> list[str]:
    """One line for each provider that cannot run here, with its reason."""
    reasons = {(row.provider, row.reason): None for row in rows if row.status == "absent"}
    return [f"absent: {provider}: {reason}" for provider, reason in reasons]


def _number(milliseconds: float | None) -> str:
    return (
        ""
        if milliseconds is None
        else f"{milliseconds:,.3g}"
        if milliseconds < 100
        else f"{milliseconds:,.0f}"
    )


def commit() -> str:
    """The commit that is measured, with `-dirty` where files differ from it."""
    return _output("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty") or "unknown"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__
