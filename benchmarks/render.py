"""Fills the README's speed tables and plots from the result files, so that no figure stands there that nobody measured.

    python benchmarks/render.py            rewrite README.md between its markers
    python benchmarks/render.py --check    exit 1 where README.md differs from the files (CI)

One table per file of benchmarks/results, newest first, and below it the pictures that benchmarks/plot.py drew from that
file; a file with no row that ran gives no table. Where N grows, a line for each operation says how time does. Needs
only the standard library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from growth import sentences

FOLDER = Path(__file__).resolve().parent
README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- benchmarks: begin (written by benchmarks/render.py) -->", "<!-- benchmarks: end -->"
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


def table(result: dict) -> str:
    environment, rows = result["environment"], result["rows"]
    where = environment.get("gpu") or f"{environment['cpu']}, {environment['threads']} threads"
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("torch", "triton") if environment.get(name)
    )
    providers = list(dict.fromkeys(row["provider"] for row in rows if row["status"] != "absent"))
    cases: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        case = (row["operation"], row["mode"], row["num_points"], row["dim"], row["dtype"])
        cases.setdefault(case, {})[row["provider"]] = row
    caption = f"{where}; {versions}; commit `{environment['commit']}`, {environment['date']}."
    if environment.get("load"):
        caption += f" Load average before the run: {environment['load']}."
    lines = [
        f"{caption} Median milliseconds, in brackets the peak memory above the inputs in MiB.",
        "",
        "| operation | mode | N | D | dtype | " + " | ".join(providers) + " |",
        "|---|---|--:|--:|---|" + "--:|" * len(providers),
    ]
    for (operation, mode, num_points, dim, dtype), by_provider in cases.items():
        cells = " | ".join(cell(by_provider.get(provider)) for provider in providers)
        lines.append(f"| `{operation}` | {mode} | {num_points:,} | {dim} | {dtype} | {cells} |")
    lines += ["", *(f"- {sentence}" for sentence in sentences(rows))]
    return "\n".join(lines).rstrip()


def pictures(name: str, results: Path) -> list[str]:
    """A line for each plot of the result file `name`, without extension; `results` is the folder of both."""
    plots = sorted((results / "plots").glob(f"{name}_*.png"))
    return [f"![{plot.stem}](benchmarks/results/plots/{plot.name})" for plot in plots]


def section(results: Path = FOLDER / "results") -> str:
    files = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    measured = [path for path in files if any(row["status"] == "ok" for row in files[path].get("rows", ()))]
    measured.sort(key=lambda path: files[path]["environment"]["date"], reverse=True)
    parts = [part for path in measured for part in (table(files[path]), *pictures(path.stem, results))]
    return "\n\n".join(parts) or NOTHING


def main() -> int:
    text = README.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"README.md lacks the markers {BEGIN} and {END}")
        return 1
    rendered = f"{before}{BEGIN}\n\n{section()}\n\n{END}{after}"
    if "--check" in sys.argv[1:]:
        if rendered != text:
            print("README.md does not show benchmarks/results: run `python benchmarks/render.py`")
        return int(rendered != text)
    README.write_text(rendered, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
