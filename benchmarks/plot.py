"""Draws time and peak memory against N, log-log, from committed result files alone: no figure shows what is not in one.

    python benchmarks/plot.py                        every file of benchmarks/results, into benchmarks/results/plots
    python benchmarks/plot.py --output DIR FILE...   these files, into DIR

One PNG per file, operation, D and dtype with at least three sizes; `pytest benchmarks --benchmark --bench-scaling`
makes such files. Lines without points are what to compare with: of time, the products that kernels cannot do without,
on a CPU those of a symmetric schedule, at the machine's own rate of matrix products of that dtype (`sgemm_gflops` and,
of a GPU, `half_gflops` in the file), which kernels may beat; of memory, the results alone.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from growth import NUM_SIZES, exponent

RESULTS = Path(__file__).resolve().parent / "results"
# Floating-point operations in units of N^2 D, pairs i, j and j, i sharing their cosine. Forward: the cosines (1), each
# kernel value times a row (2). Backward: the cosines (1), each row times each gradient (2), the two sums that make a
# row of the result (4). The loss with its gradient: the cosines (1), each slope times a row (2).
FLOPS = {
    ("mean_shift", "forward"): 3,
    ("mean_shift", "forward+backward"): 3 + 7,
    ("mean_shift T=5", "forward+backward"): 5 * (3 + 7),
    ("pairwise_loss", "forward+backward"): 3,
}
# The same on a GPU, where every pair is visited from both sides (benchmarks/roofline.md).
GPU_FLOPS = {
    ("mean_shift", "forward"): 4,
    ("mean_shift", "forward+backward"): 4 + 10,
    ("mean_shift T=5", "forward+backward"): 5 * (4 + 10),
    ("pairwise_loss", "forward+backward"): 4,
}
# Environment entries with the rate of products, by device and dtype. Half types multiply at one rate; float32-grade
# products of float16 parts have no library's rate to be measured by.
RATES = {
    ("cpu", "float32"): "sgemm_gflops",
    ("cuda", "float16"): "half_gflops",
    ("cuda", "bfloat16"): "half_gflops",
}
# Results of N x D: the output, its gradient; the loss is one number.
RESULT_ROWS = {
    ("mean_shift", "forward"): 1,
    ("mean_shift", "forward+backward"): 2,
    ("mean_shift T=5", "forward+backward"): 2,
    ("pairwise_loss", "forward+backward"): 1,
}
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
# Line styles of a measurement and of its floor.
STYLES = {"forward": ("--", "-."), "forward+backward": ("-", ":")}
INCHES, DOTS_PER_INCH, COLOURS = (11.0, 6.0), 100, 64

Row = dict[str, Any]
Series = dict[str, list[tuple[int, float]]]


def floor_ms(
    operation: str, mode: str, num_points: int, dim: int, gflops: float, device: str = "cpu"
) -> float | None:
    """Milliseconds that the products alone take at `gflops`; None where no count is known."""
    flops = (FLOPS if device == "cpu" else GPU_FLOPS).get((operation.split(" kappa=")[0], mode))
    return None if flops is None else flops * num_points**2 * dim / (gflops * 1e6)


def floor_mib(operation: str, mode: str, num_points: int, dim: int, dtype: str) -> float | None:
    """MiB of the results alone; None where they are not N x D."""
    rows = RESULT_ROWS.get((operation.split(" kappa=")[0], mode))
    return None if rows is None else rows * num_points * dim * ITEMSIZE[dtype] / 2**20


def figures(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, int, str], list[Row]]]:
    """The rows of each (operation, D, dtype) that ran at three sizes or more."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["operation"], row["dim"], row["dtype"]), []).append(row)
    for key, group in groups.items():
        if len({row["num_points"] for row in group if row["status"] == "ok"}) >= NUM_SIZES:
            yield key, group


def measured(rows: Sequence[Row], value: str) -> Series:
    """Points (N, value) by "provider, mode"; the label has the exponent of a time that was measured at enough sizes,
    and where a size was out of memory it says from where on."""
    lines: Series = {}
    for provider, mode in dict.fromkeys((row["provider"], row["mode"]) for row in rows):
        line = [row for row in rows if (row["provider"], row["mode"]) == (provider, mode)]
        # A log axis has no place for a peak too small to be seen.
        points = [(row["num_points"], row[value]) for row in line if row["status"] == "ok" and row[value]]
        short = [row["num_points"] for row in line if row["status"] == "out of memory"]
        grows = exponent(points) if value == "median_ms" else None
        note = f" (N^{grows:.1f})" if grows is not None else ""
        note += f" (out of memory at {min(short):,})" if short else ""
        if points:
            lines[f"{provider}, {mode}{note}"] = sorted(points)
    return lines


def floors(environment: Row, key: tuple[str, int, str], rows: Sequence[Row], value: str) -> Series:
    """Points (N, floor) by label; none where no floor is known."""
    operation, dim, dtype = key
    device = rows[0]["device"]
    rate = RATES.get((device, dtype), "")
    gflops = environment.get(rate)
    sizes = sorted({row["num_points"] for row in rows if row["status"] == "ok"})
    lines: Series = {}
    for mode in dict.fromkeys(row["mode"] for row in rows):
        if value == "peak_mib":
            points = [(size, floor_mib(operation, mode, size, dim, dtype)) for size in sizes]
            label = f"floor of memory, {mode}: the results"
        else:
            points = [
                (size, gflops and floor_ms(operation, mode, size, dim, gflops, device)) for size in sizes
            ]
            label = f"products at {rate.partition('_')[0]}'s {gflops} GFLOP/s, {mode}"
        if all(floor for _, floor in points):
            lines[label] = points
    return lines


def draw(environment: Row, key: tuple[str, int, str], rows: Sequence[Row], path: Path) -> None:
    """One figure: time on the left, memory on the right, a colour for each provider, a line style for each mode."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    operation, dim, dtype = key
    figure, axes = pyplot.subplots(1, 2, figsize=INCHES, layout="constrained")
    providers = list(dict.fromkeys(row["provider"] for row in rows if row["status"] == "ok"))
    entries = {}
    for axis, value, unit in zip(
        axes, ("median_ms", "peak_mib"), ("median, ms", "peak above the inputs, MiB"), strict=True
    ):
        for label, points in measured(rows, value).items():
            provider, mode = label.split(" (")[0].rsplit(", ", 1)
            style, colour = STYLES.get(mode, ("-", ":"))[0], f"C{providers.index(provider)}"
            (line,) = axis.plot(*zip(*points, strict=True), style, marker="o", color=colour)
            if value == "median_ms":
                entries[label] = line
        for label, points in floors(environment, key, rows, value).items():
            style = STYLES.get(label.split(", ")[1].split(":")[0], ("-", ":"))[1]
            colour = "black" if value == "median_ms" else "grey"
            (entries[label],) = axis.plot(*zip(*points, strict=True), style, color=colour)
        axis.set(xscale="log", yscale="log", xlabel="points N", ylabel=unit)
        sizes = sorted({row["num_points"] for row in rows})
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize="small")
        axis.minorticks_off()
        axis.grid(True, linewidth=0.3)
    where = environment.get("gpu") or f"{environment['cpu']}, {environment['threads']} threads"
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("torch", "triton") if environment.get(name)
    )
    figure.suptitle(
        f"{operation}, D = {dim}, {dtype}: {where}; {versions}; {environment['commit']}, {environment['date']}",
        fontsize="medium",
    )
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3, fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = io.BytesIO()
    figure.savefig(pixels, dpi=DOTS_PER_INCH)
    pyplot.close(figure)
    # A palette: a fifth of the bytes.
    Image.open(pixels).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def plot_file(source: Path, output: Path) -> list[Path]:
    """Every figure of one result file, named `<file>_<operation>_D<dim>_<dtype>.png`."""
    result = json.loads(source.read_text(encoding="utf-8"))
    written = []
    for key, rows in figures(result.get("rows", ())):
        operation = re.sub(r"[^A-Za-z0-9]+", "_", key[0])
        written.append(output / f"{source.stem}_{operation}_D{key[1]}_{key[2]}.png")
        draw(result["environment"], key, rows, written[-1])
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plots of measured time and memory against N.")
    parser.add_argument(
        "files", nargs="*", type=Path, help="result files; default: all of benchmarks/results"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "plots", help="folder of the pictures")
    chosen = parser.parse_args(arguments)
    written = 0
    for source in chosen.files or sorted(RESULTS.glob("*.json")):
        for path in plot_file(source, chosen.output):
            print(path)
            written += 1
    if not written:
        print(
            "no result file has three sizes of one case: run `pytest benchmarks --benchmark --bench-scaling`"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
