"""`pytest benchmarks --benchmark` runs this folder; without the option everything in it is skipped.

Sizes, dimensions and dtypes follow the device: the GPU where there is one, else the CPU's small sizes. The options
of pytest-benchmark, where that is installed, work beside ours: see interchange.py.
"""

from __future__ import annotations

from pathlib import Path

import growth
import pytest
import torch
from recurrences import KAPPAS

import report
from harness import DEFAULT_KAPPA, MAX_ROUNDS, Row, measure
from inputs import DIMS, DTYPES, SCALING_DIMS, SCALING_SIZES, SIZES
from interchange import AsBenchmarks, hand_over

ROWS = pytest.StashKey[list[Row]]()
FACTS = pytest.StashKey[dict]()
# Files that run alone, when their option is given.
ALONE = {"test_full_resolution.py": "--bench-full-resolution", "test_embedding.py": "--bench-embedding"}


def pytest_addoption(parser):
    group = parser.getgroup("rpe_ops benchmarks")
    group.addoption("--benchmark", action="store_true", help="run the benchmarks instead of skipping them")
    group.addoption("--bench-device", choices=("auto", "cpu", "cuda"), default="auto")
    group.addoption(
        "--bench-points", type=int, nargs="+", help="numbers of points, instead of the device's own"
    )
    group.addoption("--bench-dims", type=int, nargs="+", help="dimensions, instead of the device's own")
    group.addoption(
        "--bench-kappa", type=float, nargs="+", help=f"of the mean shift, instead of {DEFAULT_KAPPA:g}"
    )
    group.addoption(
        "--bench-dtypes", nargs="+", help="float32, float16 or bfloat16, instead of the device's own"
    )
    group.addoption(
        "--bench-scaling",
        action="store_true",
        help=f"instead of the usual cases, the two operators at N from {SCALING_SIZES[0]:,} doubling to "
        f"{SCALING_SIZES[-1]:,} (or --bench-points) and D = 16, and clusters within a tolerance, for "
        "benchmarks/plot.py; some 20 minutes on two cores",
    )
    group.addoption(
        "--bench-full-resolution",
        action="store_true",
        help="instead of the usual cases, every pixel of a 512 x 512 image within a tolerance; an hour on two cores",
    )
    group.addoption(
        "--bench-embedding",
        type=Path,
        nargs="+",
        metavar="FILE.npy",
        help="instead of the usual cases, embeddings [N, D] or [D, H, W] of your own model within a tolerance",
    )
    group.addoption(
        "--bench-compiled",
        action="store_true",
        help="also what torch.compile makes, which takes seconds a case: naive PyTorch compiled, FlexAttention",
    )
    group.addoption(
        "--bench-rounds",
        type=positive,
        default=MAX_ROUNDS,
        help=f"of each provider, at most; default: {MAX_ROUNDS}, fewer of slow ones",
    )
    group.addoption(
        "--bench-output", type=Path, help="folder for the JSON and CSV files; default: none is written"
    )
    group.addoption("--bench-name", default="benchmark", help="name of the files, without extension")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def bench_device(config) -> torch.device:
    chosen = config.getoption("--bench-device", "auto")
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--bench-device cuda: PyTorch sees no GPU")
    return torch.device(chosen)


def pytest_configure(config):
    config.stash[ROWS] = []
    if config.getoption("--benchmark", False):
        config.stash[FACTS] = report.environment(bench_device(config))


def pytest_report_header(config):
    if not config.getoption("--benchmark", False):
        return None
    device = bench_device(config)
    if device.type == "cuda":
        return f"benchmarks on {torch.cuda.get_device_name(device)}"
    return f"no GPU in use: the CPU sizes run on {torch.get_num_threads()} threads"


def pytest_generate_tests(metafunc):
    if "kappa" in metafunc.fixturenames:
        metafunc.parametrize("kappa", metafunc.config.getoption("--bench-kappa", None) or [DEFAULT_KAPPA])
    if "embedding_kappa" in metafunc.fixturenames:
        metafunc.parametrize("embedding_kappa", metafunc.config.getoption("--bench-kappa", None) or KAPPAS)
    if "embedding_file" in metafunc.fixturenames:
        files = metafunc.config.getoption("--bench-embedding", None) or []
        metafunc.parametrize("embedding_file", files, ids=[file.stem for file in files])
    if "case_shape" not in metafunc.fixturenames:
        return
    config = metafunc.config
    device = bench_device(config)
    own_sizes = getattr(metafunc.module, "SIZES", None)
    usual_sizes, usual_dims = (own_sizes or SIZES)[device.type], DIMS[device.type]
    if config.getoption("--bench-scaling", False):
        scaling_sizes = getattr(metafunc.module, "SCALING_SIZES", None)
        if own_sizes and not scaling_sizes:
            reason = "has sizes of its own: not part of --bench-scaling"
            metafunc.parametrize("case_shape", [pytest.param(None, marks=pytest.mark.skip(reason=reason))])
            return
        usual_sizes, usual_dims = scaling_sizes or SCALING_SIZES, SCALING_DIMS
    sizes = config.getoption("--bench-points", None) or usual_sizes
    dims = config.getoption("--bench-dims", None) or usual_dims
    named = config.getoption("--bench-dtypes", None)
    dtypes = [getattr(torch, name) for name in named] if named else DTYPES[device.type]
    shapes = [(n, dim, dtype, device) for dtype in dtypes for n in sizes for dim in dims]
    names = [f"{n}-{dim}-{str(dtype).removeprefix('torch.')}" for n, dim, dtype, _ in shapes]
    metafunc.parametrize("case_shape", shapes, ids=names)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    folder = Path(__file__).parent
    ours = [item for item in items if folder in item.path.parents]
    if not config.getoption("--benchmark", False):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="a benchmark: run `pytest benchmarks --benchmark`"))
    wanted = {name for name, option in ALONE.items() if config.getoption(option, None)}
    for item in ours:
        option = ALONE.get(item.path.name)
        if (item.path.name not in wanted) if option else bool(wanted):
            reason = f"part of {option}" if option else f"not part of {ALONE[min(wanted)]}"
            item.add_marker(pytest.mark.skip(reason=reason))
    with AsBenchmarks(ours):
        return (yield)


@pytest.fixture
def device(request) -> torch.device:
    return bench_device(request.config)


@pytest.fixture
def with_compiled(request) -> bool:
    """Whether providers that torch.compile makes are wanted."""
    return request.config.getoption("--bench-compiled")


def write_rows(config) -> Path | None:
    """All rows so far as JSON and CSV, where a folder was given; the JSON."""
    folder = config.getoption("--bench-output")
    if folder is None:
        return None
    return report.write(folder, config.getoption("--bench-name"), config.stash[FACTS], config.stash[ROWS])


@pytest.fixture
def bench(request):
    """`bench(case, providers, expected)`: measures, keeps the rows, fails where a provider of rpe_ops is wrong."""

    def run(case, providers, expected):
        rows = measure(case, providers, expected, request.config.getoption("--bench-rounds"))
        request.config.stash[ROWS] += rows
        write_rows(request.config)  # now, so that nothing is lost where the run is cut off
        hand_over(request.config, request.node, rows)
        own = [row for row in rows if row.provider.startswith("rpe_ops")]
        wrong = [f"{row.provider}: {row.reason}" for row in own if row.status == "wrong"]
        assert not wrong, "\n".join(wrong)

    return run


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    """Machine, versions and commit as our own files have them."""
    machine_info["rpe_ops"] = config.stash.get(FACTS, {})


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if not rows:
        return
    facts = config.stash[FACTS]
    where = facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads"
    terminalreporter.ensure_newline()
    report.print_table(rows, f"{where}, torch {facts['torch']}, commit {facts['commit']}")
    for line in (*report.absences(rows), *growth.sentences([row.record() for row in rows])):
        terminalreporter.write_line(line)
    file = write_rows(config)
    if file is not None:
        terminalreporter.write_line(f"rows: {file}")
