"""What every experiment hands over and how it is kept: NAME.png, and NAME.json with options, versions and numbers.

It runs the experiment it is asked for and knows nothing of any.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import rpe_ops

COLOURS = ("#2f6fb0", "#d1603d", "#3c8f62", "#8a5fb5", "#b8862b", "#5f6b73", "#c04f86", "#2a9d9d")
"""Lines of figures, in this order."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What an experiment found."""

    numbers: dict[str, Any]
    """Everything plotted, ready for JSON."""
    figure: Figure
    """The plot."""
    table: Table
    """The same in short, for the terminal."""


def run_experiment(name: str, options: Any, out: Path, console: Console) -> dict[str, Any]:
    """Run one experiment and write its files.

    Args:
        name: a key of `EXPERIMENTS`.
        options: its options.
        out: folder of the files; an experiment that trains keeps its runs in a folder of its name there.
        console: where to print.

    Returns:
        What the JSON holds.
    """
    module = importlib.import_module(f"{__package__}.{name}")
    start = time.perf_counter()
    found: Finding = module.run(options, out / name, console)
    facts = {
        "experiment": name,
        "question": question(type(options)),
        "options": json.loads(json.dumps(dataclasses.asdict(options), default=str)),
        "versions": {
            "rpe_ops": rpe_ops.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "seconds": round(time.perf_counter() - start, 1),
        "numbers": found.numbers,
    }
    out.mkdir(parents=True, exist_ok=True)
    found.figure.savefig(out / f"{name}.png")
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    console.print(found.table)
    console.print(
        f"figure: {out / name}.png\nnumbers: {out / name}.json", highlight=False, markup=False, soft_wrap=True
    )
    return facts


def question(options: type) -> str:
    """First line of the class of an experiment's options."""
    return (options.__doc__ or "").strip().splitlines()[0]


def new_figure(columns: int = 1, rows: int = 1, *, width: float = 4.6, height: float = 3.4) -> Figure:
    """A figure with a grid of axes, without a window; `figure.axes` lists them row by row."""
    figure = Figure(figsize=(width * columns, height * rows), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    for axes in np.atleast_1d(figure.subplots(rows, columns)).reshape(-1):
        axes.grid(True, color="#d8dce0", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def new_table(title: str, *headings: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left")
    return table
