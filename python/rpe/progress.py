"""Progress bars: live where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_PATIENCE = 1.0
"""Seconds of work without a word."""
T = TypeVar("T")


class SlowTask:
    """Work that may be over at once or last for minutes: a bar, or one line, on standard error once a second has
    passed. Of several processes that a launcher started the first one speaks.

    Args:
        what: what is being done, for example "reading a.json".
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._due = time.monotonic() + _PATIENCE
        self._bar: Progress | None = None

    def __enter__(self) -> SlowTask:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """Say how much is done."""
        if self._bar is None and time.monotonic() >= self._due:
            self._begin(total)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _begin(self, total: int) -> None:
        console = Console(stderr=True, quiet=not _is_first_process())
        if not console.is_terminal:
            console.print(f"{self.what} ...", highlight=False, markup=False, soft_wrap=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        self._bar = Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=console.quiet or not console.is_terminal,
        )
        self._bar.add_task(self.what, total=total)
        self._bar.start()


def told(items: Sequence[T], what: str) -> Iterator[T]:
    """The items one after the other, with a `SlowTask`'s words."""
    with SlowTask(what) as task:
        for done, item in enumerate(items):
            task.update(done, len(items))
            yield item


def _is_first_process() -> bool:
    from accelerate.utils.environment import get_cpu_distributed_information

    return bool(get_cpu_distributed_information().rank == 0)


class TrainingProgress:
    """A bar over training steps.

    Args:
        total: last step.
        start: steps done before.
        show: False draws nothing.
        console: where to draw; a new one on standard output by default.
    """

    def __init__(
        self, total: int, start: int = 0, *, show: bool = True, console: Console | None = None
    ) -> None:
        self.console = Console() if console is None else console
        self.total, self.done, self.show = total, start, show
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (show and self.console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=total, completed=start, loss="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, circumstances: str) -> None:
        """Say where and how the run trains."""
        if self.show:
            self.console.print(circumstances, highlight=False, soft_wrap=True)

    def advance(self) -> None:
        """One more step is done."""
        self.done += 1
        self._bar.update(self._task, completed=self.done)

    def report(self, step: int, values: dict[str, float]) -> None:
        """Show the losses of a step."""
        loss = f"loss {values['loss/total']:.4f}"
        self._bar.update(self._task, loss=loss)
        if self.show and not self.console.is_terminal:
            self.console.print(f"step {step}/{self.total}  {loss}", highlight=False)
