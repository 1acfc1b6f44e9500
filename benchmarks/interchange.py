"""Our rows in the files of pytest-benchmark, where that plugin runs and is asked for one: `--benchmark-json`,
`--benchmark-save`, `--benchmark-autosave`, `--benchmark-compare`, `--benchmark-histogram`.

Its `benchmark` fixture calls one function in a loop of its own, but providers are timed in turns; so the times that
`harness.measure` took are handed over as they are, one entry per provider. Nothing is timed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from harness import Row

FIXTURE = "benchmark"
# Attributes of its session, false where the option was not given.
REQUESTS = ("json", "save", "autosave", "compare", "histogram")


def hand_over(config: pytest.Config, node: pytest.Function, rows: Sequence[Row]) -> None:
    """The rows that ran, with the time of every round, to the plugin's session. Nothing without the plugin, nor where
    no option asks it for anything: its table beside ours would say the same."""
    session = getattr(config, "_benchmarksession", None)
    if session is None or session.disabled or not any(getattr(session, option) for option in REQUESTS):
        return
    from pytest_benchmark.stats import Metadata

    for row in rows:
        if row.status != "ok":
            continue
        name = f"{node.name}[{row.provider}]"
        # What its entries know of the fixture that made them.
        origin = SimpleNamespace(
            name=name,
            fullname=node.nodeid.removesuffix(node.name) + name,
            group=f"{row.operation} {row.mode} N={row.num_points} D={row.dim} {row.dtype} {row.device}",
            param=row.provider,
            params={"provider": row.provider},
            extra_info=row.record(),
            cprofile_stats=None,
            has_error=False,
        )
        entry = Metadata(origin, iterations=1, options={"interleaved": True})
        for seconds in row.seconds:
            entry.update(seconds)
        session.benchmarks.append(entry)


class AsBenchmarks:
    """While the plugin looks at them, items pass for users of its fixture, by which `--benchmark-only` and
    `--benchmark-skip` know a benchmark."""

    def __init__(self, items: Sequence[pytest.Item]) -> None:
        self.names = [
            names for item in items if FIXTURE not in (names := getattr(item, "fixturenames", [FIXTURE]))
        ]

    def __enter__(self) -> None:
        for names in self.names:
            if FIXTURE not in names:  # the items of one function share their list
                names.append(FIXTURE)

    def __exit__(self, *_: object) -> None:
        for names in self.names:
            if FIXTURE in names:
                names.remove(FIXTURE)
