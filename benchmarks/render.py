"""Fills the README's speed section from the result files, so that no figure stands there that nobody measured.

    python benchmarks/render.py            rewrite README.md between its markers, and benchmarks/results/tables.md
    python benchmarks/render.py --check    exit 1 where one of them differs from the files (CI)

The newest file of benchmarks/results gives the README's table, of several of one day that of the shortest name; files
from which benchmarks/plot.py drew pictures give those and how time grows with N; the tables of all other files stand in
tables.md, and a file with no row that ran gives nothing. Needs only the standard library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from growth import sentences

from plot import RATES, floor_ms

FOLDER = Path(__file__).resolve().parent
README = FOLDER.parent / "README.md"
RESULTS = FOLDER / "results"
TABLES = RESULTS / "tables.md"
HEAD = """# More tables

One for each file of this folder that the [README](../../README.md#speed-and-memory) does not show; written by
`python benchmarks/render.py`."""
BEGIN, END = "<!-- benchmarks: begin (written by benchmarks/render.py) -->", "<!-- benchmarks: end -->"
# What is compared with its peers, and how the names of these begin, beside naive PyTorch.
ATTENTION = ("PyTorch SDPA", "SDPA ", "flash-attn", "FlexAttention")
OWN = {"rpe_ops cpu": ("PyTorch SDPA",), "rpe_ops triton": ATTENTION, "rpe_ops cuda": ATTENTION}
NOTHING = "Nothing has been measured on a released commit yet; `pytest benchmarks --benchmark` measures your machine."


def milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cell(row: dict | None) -> str:
    if row is None or row["status"] == "absent":
        return ""
    if row["status"] != "ok":
        return row["status"]
    memory = "" if row["peak_mib"] is None else f" ({row['peak_mib']:,.0f})"
    return f"{milliseconds(row['median_ms'])}{memory}"


def caption(environment: dict) -> str:
    """Where, with what and when the rows were measured."""
    where = environment.get("gpu") or f"{environment['cpu']}, {environment['threads']} threads"
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("torch", "triton") if environment.get(name)
    )
    text = f"{where}; {versions}; commit `{environment['commit']}`, {environment['date']}."
    if environment.get("load"):
        text += f" Load average before the run: {environment['load']}."
    return text


def table(result: dict) -> str:
    rows = result["rows"]
    providers = list(dict.fromkeys(row["provider"] for row in rows if row["status"] != "absent"))
    cases: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        case = (row["operation"], row["mode"], row["num_points"], row["dim"], row["dtype"])
        cases.setdefault(case, {})[row["provider"]] = row
    lines = [
        f"{caption(result['environment'])} Median milliseconds, in brackets the peak memory above the inputs in MiB.",
        "",
        "| operation | mode | N | D | dtype | " + " | ".join(providers) + " |",
        "|---|---|--:|--:|---|" + "--:|" * len(providers),
    ]
    for (operation, mode, num_points, dim, dtype), by_provider in cases.items():
        cells = " | ".join(cell(by_provider.get(provider)) for provider in providers)
        lines.append(f"| `{operation}` | {mode} | {num_points:,} | {dim} | {dtype} | {cells} |")
    return "\n".join(lines) + first_calls(rows) + comparison(result)


def first_calls(rows: list[dict]) -> str:
    """How long each provider's slowest first call took, beside the median of the same case; empty for files from
    before it was measured."""
    slowest: dict[str, dict] = {}
    for row in rows:
        if row["status"] == "ok" and row.get("first_ms") is not None:
            known = slowest.setdefault(row["provider"], row)
            slowest[row["provider"]] = max(known, row, key=lambda one: one["first_ms"])
    if not slowest:
        return ""
    times = ", ".join(
        f"{name} {milliseconds(row['first_ms'])} ({milliseconds(row['median_ms'])})"
        for name, row in slowest.items()
    )
    return f"\n\nThe slowest first call, which compiles and loads, in milliseconds (median of its case): {times}."


def comparison(result: dict) -> str:
    """At the largest N how many times faster than the peers each of `OWN` was, and at what share of the rate of the
    machine's own matrix product in that dtype, counting the operations that a schedule cannot do without. Empty without
    peers, and where no rate is known."""
    return "".join(_against_peers(result, own) for own in OWN)


def _against_peers(result: dict, own: str) -> str:
    environment, times = result["environment"], {}
    for row in result["rows"]:
        if row["status"] == "ok":
            case = (row["operation"], row["mode"], row["num_points"], row["dim"], row["device"], row["dtype"])
            times.setdefault(case, {})[row["provider"]] = row["median_ms"]
    lines, rates = [], {}
    for case, by_provider in times.items():
        operation, mode, num_points, dim, device, dtype = case
        gflops = environment.get(RATES.get((device, dtype), ""))
        known = gflops and floor_ms(operation, mode, num_points, dim, gflops, device)
        largest = max(size for name, _, size, *_ in times if name == operation)
        if own not in by_provider or not known or num_points < largest:
            continue
        rates[gflops] = dtype
        attention = [time for name, time in by_provider.items() if name.startswith(OWN[own])]
        peers = (by_provider.get("naive PyTorch"), min(attention, default=None))
        cells = " | ".join("" if peer is None else f"{peer / by_provider[own]:.3g}x" for peer in peers)
        share = known / by_provider[own]
        lines.append(f"| `{operation}` | {mode} | {num_points:,} | {dim} | {cells} | {share:.0%} |")
    if not lines:
        return ""
    ((gflops, dtype),) = rates.items()
    best, rate, schedule = (
        ("PyTorch SDPA", "sgemm's rate", "a symmetric schedule's operations")
        if own == "rpe_ops cpu"
        else ("the fastest attention", "its rate", "operations of every pair from both sides")
    )
    head = [
        f"`{own}` of this table against the peers, and its operations a second against the machine's own {dtype}",
        f"matrix product ({gflops} GFLOP/s just before the run; {schedule}, all pairs active):",
        "",
        f"| operation | mode | N | D | naive PyTorch | {best} | of {rate} |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    return "\n".join(["", "", *head, *lines])


def growth(result: dict, name: str, plots: list[Path]) -> str:
    """The plots of the result file `name`, without extension, with what they cannot say."""
    numbers = f"[{name}.csv](benchmarks/results/{name}.csv)"
    lines = [
        f"{caption(result['environment'])} Time and peak memory against N; every number: {numbers}. Times grow as",
        "",
        *(f"- {sentence}" for sentence in sentences(result["rows"])),
        "",
        *(f"![{plot.stem}](benchmarks/results/plots/{plot.name})" for plot in plots),
    ]
    return "\n".join(lines)


def sections(results: Path = RESULTS) -> tuple[str, str]:
    """What the README shows, and tables.md."""
    files = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    measured = [path for path in files if any(row["status"] == "ok" for row in files[path].get("rows", ()))]
    measured.sort(key=lambda path: len(path.stem))
    measured.sort(key=lambda path: files[path]["environment"]["date"], reverse=True)
    plots = {path: sorted((results / "plots").glob(f"{path.stem}_*.png")) for path in measured}
    tables = [path for path in measured if not plots[path]]
    parts = [table(files[path]) for path in tables[:1]]
    parts += [growth(files[path], path.stem, plots[path]) for path in measured if plots[path]]
    others = [f"## {path.stem}\n\n{table(files[path])}" for path in tables[1:]]
    return "\n\n".join(parts) or NOTHING, "\n\n".join([HEAD, *others]) + "\n"


def main() -> int:
    readme = README.read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"README.md lacks the markers {BEGIN} and {END}")
        return 1
    section, tables = sections()
    rendered = {README: f"{before}{BEGIN}\n\n{section}\n\n{END}{after}", TABLES: tables}
    stale = [
        path
        for path, text in rendered.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"{path.name} does not show benchmarks/results: run `python benchmarks/render.py`")
        else:
            path.write_text(rendered[path], encoding="utf-8")
    return int("--check" in sys.argv[1:] and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
