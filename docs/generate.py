"""Writes what the documentation shows of the package's own numbers: tables between markers, and one figure.

    python docs/generate.py            rewrites docs/choosing.md, docs/memory.md and docs/images/margins.svg (minutes)
    python docs/generate.py --check    exit 1 where a table is not what the package says (quick cells only)

Spherical codes come from `rpe_ops.suggest_margin`, memory from `rpe_ops.memory`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import rpe_ops
from rpe_ops import memory
from rpe_ops.margins import BEST_KNOWN_COSINES, MAX_PACKED_POINTS

DOCS = Path(__file__).resolve().parent
DIMS = (2, 3, 4, 8, 16, 32, 64)
COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 50, 64, 100, 128, 200, 256, 500, 1000)
# N, D, dtype, backend of the memory tables: a cell image, a tabletop frame, the same without a compiler
MEMORY_CASES = (
    (512 * 512, 16, "float32", "cpu"),
    (480 * 640, 64, "float16", "cpu"),
    (480 * 640, 64, "float32", "torch"),
)


def is_quick(num_instances: int, dim: int) -> bool:
    """Whether the margin is looked up rather than packed numerically, which takes seconds."""
    looked_up = dim == 2 or num_instances <= 2 * dim or num_instances in BEST_KNOWN_COSINES.get(dim, {})
    return looked_up or num_instances > MAX_PACKED_POINTS


def margin_cell(num_instances: int, dim: int) -> str:
    bound = "≤ " if num_instances > MAX_PACKED_POINTS and dim > 2 and num_instances > 2 * dim else ""
    return f"{bound}{rpe_ops.suggest_margin(num_instances, dim):.3f}"


def margin_rows(shown: dict[tuple[int, int], str]) -> list[str]:
    """The table of margins; cells in `shown` are taken from there instead of computed."""
    lines = ["| instances | " + " | ".join(f"D = {dim}" for dim in DIMS) + " |", "|--:|" + "--:|" * len(DIMS)]
    for count in COUNTS:
        cells = (shown.get((count, dim)) or margin_cell(count, dim) for dim in DIMS)
        lines.append(f"| {count:,} | " + " | ".join(cells) + " |")
    return lines


def shown_margins(text: str) -> dict[tuple[int, int], str]:
    """The cells of a table that was written before and takes long to compute."""
    cells = {}
    for line in text.splitlines()[2:]:
        first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        count = int(first.replace(",", ""))
        slow = {(count, dim): cell for dim, cell in zip(DIMS, rest, strict=True) if not is_quick(count, dim)}
        cells.update(slow)
    return cells


def memory_tables() -> str:
    return "\n\n".join(memory.table(*case, num_steps=5, num_seeds=100) for case in MEMORY_CASES)


def between(text: str, name: str) -> tuple[str, str, str]:
    """The text before, between and after the markers of a table."""
    begin, end = f"<!-- {name}: begin (docs/generate.py) -->\n\n", f"\n\n<!-- {name}: end -->"
    before, found_begin, rest = text.partition(begin)
    inside, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise SystemExit(f"the markers of {name} are missing")
    return before + begin, inside, end + after


def draw(path: Path) -> None:
    """Left: the smallest margin that so many instances can meet; right: the kappa that fits a margin."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "rpe_ops"  # the same bytes every time
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    counts = [count for count in COUNTS if count <= MAX_PACKED_POINTS]
    for dim in DIMS:
        margins = [rpe_ops.suggest_margin(count, dim) for count in counts]
        left.plot(counts, margins, marker=".", label=f"D = {dim}")
    left.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    left.set(xscale="log", xlabel="instances in an image", ylabel="smallest margin with zero loss")
    left.set_xticks([2, 4, 8, 16, 32, 64, 128, 256], ["2", "4", "8", "16", "32", "64", "128", "256"])
    left.minorticks_off()
    left.legend(fontsize="small")
    margins = [step / 100 for step in range(96)]
    right.plot(margins, [rpe_ops.kappa_from_margin(margin) for margin in margins])
    right.set(yscale="log", xlabel="margin", ylabel="kappa_from_margin(margin)")
    for axis in (left, right):
        axis.grid(True, linewidth=0.3)
    figure.savefig(path, metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def main() -> int:
    check = "--check" in sys.argv[1:]
    status = 0
    for name in ("choosing", "memory"):
        page = DOCS / f"{name}.md"
        before, inside, after = between(page.read_text(encoding="utf-8"), name)
        if name == "memory":
            table = memory_tables()
        else:
            table = "\n".join(margin_rows(shown_margins(inside) if check else {}))
        if check and table != inside:
            print(f"{page.name} does not show what the package says: run `python docs/generate.py`")
            status = 1
        elif not check:
            page.write_text(before + table + after, encoding="utf-8")
    if not check:
        draw(DOCS / "images" / "margins.svg")
    return status


if __name__ == "__main__":
    sys.exit(main())
