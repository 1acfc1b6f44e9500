"""Progress bars: live where there is a terminal, one plain line per report where there is none."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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
