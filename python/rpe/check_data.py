"""`rpe check-data`: read a whole data set, count what is in it, and say what is wrong and where.

`survey` reads, `run` prints and gives the exit status. What counts as wrong is decided by the formats
(`rpe.data`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from .data import DataError, Dataset, Problem, Sample, open_dataset
from .progress import SlowTask

_SIZES_SHOWN = 8


@dataclass
class Survey:
    """What a data set holds.

    Attributes:
        num_images: images that could be read.
        instances: number of instances of each of them.
        sizes: images by (height, width).
        kinds: images by kind; those without a kind are left out.
        classes: instances by class; empty where the data has no classes.
        annotators: images by their number of annotators; empty where each has one.
        problems: every fault found.
    """

    num_images: int = 0
    instances: list[int] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    annotators: Counter[int] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def add(self, sample: Sample, dataset: Dataset) -> None:
        """Count one image."""
        lowest = 1 if dataset.has_background else 0
        self.num_images += 1
        self.instances.append(int((np.unique(sample.label.numpy()) >= lowest).sum()))
        self.sizes[sample.size] += 1
        if sample.kind is not None:
            self.kinds[sample.kind] += 1
        if sample.instance_class is not None:
            self.classes.update(dataset.classes[number] for number in sample.instance_class.values())
        if sample.annotations:
            self.annotators[len(sample.annotations)] += 1


def survey(
    spec: str, split: str | None = None, *, advance: Callable[[int, int], None] = lambda done, total: None
) -> Survey:
    """Read everything of `FORMAT:ROOT`.

    Args:
        spec: as for `rpe.data.open_dataset`.
        split: part of the data set; everything by default.
        advance: called with (images read, images in all) after every image.

    Raises:
        ValueError: unknown format. Faults of the data do not raise, they are in the result.
    """
    result = Survey()
    try:
        dataset = open_dataset(spec, split, strict=False)
    except DataError as error:
        result.problems.append(Problem.from_error(error, spec))
        return result
    result.problems += dataset.structure_problems
    for index in range(len(dataset)):
        sample, problems = dataset.inspect(index)
        result.problems += problems
        if sample is not None:
            result.add(sample, dataset)
        advance(index + 1, len(dataset))
    return result


def check(spec: str, split: str | None = None) -> list[Problem]:
    """Every fault of `FORMAT:ROOT`, in a fixed order; empty = all is well. Raises as `survey`."""
    return survey(spec, split).problems


def run(spec: str, split: str | None = None, *, console: Console | None = None) -> int:
    """Check a data set and print counts and problems.

    Returns:
        Exit status: 0 without problems, else 1.

    Raises:
        ValueError: unknown format.
    """
    console = Console() if console is None else console
    with SlowTask(f"reading the images of {spec}") as task:
        result = survey(spec, split, advance=task.update)
    title = spec if split is None else f"{spec}, split {split}"
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(counts_table(result))
    for number, problem in enumerate(result.problems, start=1):
        console.print(f"[red]{number:4d}[/]  ", end="")
        console.print(f"{problem.file}: {problem.message}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"       remedy: {problem.remedy}", markup=False, highlight=False, soft_wrap=True)
    if result.problems:
        console.print(f"[bold red]{_plural(len(result.problems), 'problem')}[/]")
        return 1
    console.print("[bold green]no problems[/]")
    return 0


def counts_table(result: Survey) -> Table:
    """Counts of a survey as a table of two columns."""
    table = Table(show_header=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row("images", str(result.num_images))
    if not result.num_images:
        return table
    table.add_row("instances", str(sum(result.instances)))
    table.add_row(
        "instances per image",
        f"{min(result.instances)} least, {median(result.instances):g} median, {max(result.instances)} most",
    )
    without = result.instances.count(0)
    if without:
        table.add_row("without instances", _plural(without, "image"))
    sizes = [
        f"{width} x {height}: {number}" for (height, width), number in result.sizes.most_common(_SIZES_SHOWN)
    ]
    rest = len(result.sizes) - _SIZES_SHOWN
    table.add_row("width x height", "\n".join(sizes + ([f"and {rest} more"] if rest > 0 else [])))
    if result.kinds:
        table.add_row("kinds", "\n".join(f"{kind}: {number}" for kind, number in result.kinds.most_common()))
    if result.classes:
        table.add_row(
            "classes", ", ".join(f"{name}: {number}" for name, number in result.classes.most_common())
        )
    if result.annotators:
        table.add_row(
            "annotators",
            ", ".join(f"{number}: {images}" for number, images in sorted(result.annotators.items())),
        )
    return table


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
