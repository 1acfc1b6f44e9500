"""The benchmark harness refuses wrong providers, gives reasons for absent ones, and its files become README tables
and plots."""

import csv
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import growth
import numpy as np
import peers
import pytest
import render
import torch

import harness
import plot
import report
import rpe_ops
from harness import Case, Provider, Row, measure

CASE = Case("sum", "forward", 1 << 10, 1, torch.float32, torch.device("cpu"))
EXPECTED = (torch.full((4,), 2.0, dtype=torch.float64), torch.ones(3, dtype=torch.float64))


def provider(name: str, value: float, gradient: float = 1.0, **options) -> Provider:
    return Provider(name, lambda: (torch.full((4,), value), torch.full((3,), gradient)), **options)


@pytest.fixture(scope="module")
def rows():
    providers = [
        provider("right", 2.0),
        provider("wrong", 2.1),
        provider("NaN in the value", float("nan")),
        provider("NaN in the gradient", 2.0, float("nan")),
        Provider("absent", None, absent="no such device"),
        provider("too large", 2.0, square_tensors=1 << 30),
    ]
    return {row.provider: row for row in measure(CASE, providers, EXPECTED)}


def test_a_right_provider_is_timed(rows):
    row = rows["right"]
    assert row.status == "ok"
    assert row.rounds > 0
    assert 0 < row.p20_ms <= row.median_ms <= row.p80_ms


@pytest.mark.parametrize("name", ["wrong", "NaN in the value", "NaN in the gradient"])
def test_a_wrong_provider_is_not_timed(rows, name):
    assert rows[name].status == "wrong"
    assert rows[name].rounds == 0
    assert rows[name].median_ms is None


def test_absence_and_lack_of_memory_are_values_with_reasons(rows):
    assert (rows["absent"].status, rows["absent"].reason) == ("absent", "no such device")
    assert rows["too large"].status == "out of memory"
    assert "MiB" in rows["too large"].reason


def test_a_peer_known_to_be_slow_is_left_out(monkeypatch):
    monkeypatch.setattr(harness, "PATIENCE_SECONDS", 0.3)

    def run():
        time.sleep(0.1)
        return EXPECTED

    def status(num_points: int, **options) -> str:
        case = dataclasses.replace(CASE, operation="slow sum", num_points=num_points)
        (row,) = measure(case, [Provider("slow", run, **options)], EXPECTED, max_rounds=1)
        assert (row.status == "too slow") == ("by its time on less" in row.reason)
        return row.status

    assert [status(size, may_be_slow=True) for size in (1 << 10, 1 << 11, 1 << 12)] == [
        "ok",
        "ok",
        "too slow",
    ]
    assert status(1 << 12) == "ok", "what may not be left out"


def test_the_first_call_is_reported_apart():
    pauses = iter([0.2])

    def run():
        time.sleep(next(pauses, 0.0))
        return EXPECTED

    (row,) = measure(CASE, [Provider("compiled at first", run)], EXPECTED, max_rounds=3)
    assert row.first_ms >= 200 > row.p80_ms and len(row.seconds) == 3
    result = {
        "rows": [row.record()],
        "environment": {"cpu": "", "threads": 1, "torch": "", "commit": "", "date": ""},
    }
    assert f"compiled at first {render.milliseconds(row.first_ms)} (" in render.table(result)
    (line,) = report.cells([row])
    assert len(line) == len(report.HEADER) and float(line[report.HEADER.index("first ms")]) >= 200
    del result["rows"][0]["first_ms"]  # as in files from before
    assert "| compiled at first |" in render.table(result) and "first call" not in render.table(result)


def test_files_and_table(rows, tmp_path):
    facts = report.environment(CASE.device, product_size=64)
    path = report.write(tmp_path, "run", facts, list(rows.values()))
    result = json.loads(path.read_text(encoding="utf-8"))
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["provider"] for line in lines] == [row["provider"] for row in result["rows"]] == list(rows)
    assert lines[0]["torch"] == torch.__version__
    table = render.table(result)
    assert "| right |" in table
    assert "absent" not in table
    assert facts["commit"] in table


def test_readme_and_tables_show_the_committed_results():
    section, tables = render.sections()
    assert section in render.README.read_text(encoding="utf-8")
    assert tables == render.TABLES.read_text(encoding="utf-8")


def test_times_of_rounds_stay_out_of_the_files(rows):
    row = rows["right"]
    assert len(row.seconds) == row.rounds
    assert "seconds" not in row.record()
    assert row.record()["median_ms"] == row.median_ms


def test_the_machine_is_measured():
    assert report.product_gflops(CASE.device, size=64) > 0


def test_peers_compute_the_same_steps():
    rows = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = rpe_ops.mean_shift(rows, kappa=10.0, num_steps=3, backend="reference")
    torch.testing.assert_close(peers.naive_mean_shift(rows, 10.0, 3), expected)
    torch.testing.assert_close(peers.attention_steps(peers.sdpa, 10.0, 3)(rows), expected)


def test_a_peer_that_cannot_run_has_a_reason():
    def broken(rows):
        raise ValueError("only rows of length 7\nand more lines")

    assert peers.failure(broken, CASE) == "ValueError: only rows of length 7"
    assert peers.failure(lambda rows: 2 * rows, CASE) is None
    if importlib.util.find_spec("pykeops") is None:
        assert "pykeops" in peers.failure(peers.attention_steps(peers.keops, 10.0), CASE)


@pytest.fixture
def scaling_result():
    """Rows as a result file has them, N twice and twice again, the naive provider out of memory at the last."""
    environment = {
        "cpu": "a CPU",
        "threads": 2,
        "torch": "2",
        "commit": "abc",
        "date": "2026-01-01",
        "sgemm_gflops": 50.0,
    }
    rows = []
    for num_points in (1024, 2048, 4096):
        for name in ("naive PyTorch", "rpe_ops cpu"):
            row = Row("mean_shift", "forward", num_points, 16, "float32", "cpu", name).record()
            if name == "naive PyTorch" and num_points == 4096:
                row["status"] = "out of memory"
            else:
                row |= {"median_ms": num_points / 100, "peak_mib": num_points / 500}
            rows.append(row)
    return {"environment": environment, "rows": rows}


def test_plots_come_from_result_files_and_reach_the_readme(scaling_result, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "run.json").write_text(json.dumps(scaling_result), encoding="utf-8")
    name = "run_mean_shift_D16_float32.png"
    assert plot.main(["--output", str(tmp_path / "plots"), str(tmp_path / "run.json")]) == 0
    assert [path.name for path in (tmp_path / "plots").iterdir()] == [name]
    assert (tmp_path / "plots" / name).stat().st_size < 200_000
    section, tables = render.sections(tmp_path)
    assert f"(benchmarks/results/plots/{name})" in section
    assert "| out of memory |" not in section + tables, "a table beside the plots"


def test_lines_of_a_plot(scaling_result):
    environment, rows = scaling_result["environment"], scaling_result["rows"]
    key = ("mean_shift", 16, "float32")
    lines = plot.measured(rows, "median_ms")
    assert lines["naive PyTorch, forward (out of memory at 4,096)"] == [(1024, 10.24), (2048, 20.48)]
    assert len(lines["rpe_ops cpu, forward (N^1.0)"]) == 3
    ((size, floor), *_) = next(iter(plot.floors(environment, key, rows, "median_ms").values()))
    assert (size, floor) == (1024, pytest.approx(3 * 1024**2 * 16 / 50e9 * 1e3))
    ((size, floor), *_) = next(iter(plot.floors(environment, key, rows, "peak_mib").values()))
    assert (size, floor) == (1024, 1024 * 16 * 4 / 2**20)
    # Files from before the rate was measured, and sizes that do not make a line.
    assert not plot.floors({}, key, rows, "median_ms")
    assert not list(plot.figures(rows[:2]))


@pytest.mark.parametrize("dtype, floor", [("float16", 14 * 1024**2 * 16 / 800e12 * 1e3), ("float32", None)])
def test_floors_on_a_gpu_are_at_the_rate_of_half_products(dtype, floor):
    row = Row("mean_shift", "forward+backward", 1024, 16, dtype, "cuda", "rpe_ops cuda").record()
    environment = {"sgemm_gflops": 50e3, "half_gflops": 800e3}
    lines = plot.floors(environment, ("mean_shift", 16, dtype), [row], "median_ms")
    assert list(lines.values()) == ([] if floor is None else [[(1024, pytest.approx(floor))]])


def test_a_gpu_is_compared_with_its_fastest_attention_and_its_half_products():
    times = {"naive PyTorch": 30.0, "PyTorch SDPA": 4.0, "SDPA cuDNN": 3.0, "rpe_ops cuda": 1.5}
    rows = [
        Row("mean_shift", "forward", 65_536, 64, dtype, "cuda", name).record() | {"median_ms": time}
        for name, time in times.items()
        for dtype in ("float16", "float32")
    ]
    environment = {"gpu": "a GPU", "torch": "2", "commit": "", "date": "", "half_gflops": 800e3}
    table = render.comparison({"environment": environment, "rows": rows})
    share = 4 * 65_536**2 * 64 / 800e12 / 1.5e-3
    assert f"| `mean_shift` | forward | 65,536 | 64 | 20x | 2x | {share:.0%} |" in table.splitlines()
    assert table.count("| 65,536 |") == 1 and "`rpe_ops cuda`" in table and "float16" in table


def test_peers_are_asked_for_by_module(monkeypatch):
    """flash-attn of one generation gives the rows, of another what the softmax was divided by, too."""
    given = []

    def attend(query, key, value, softmax_scale):
        given.append((query.shape, softmax_scale))
        return (query, None) if len(given) > 1 else query

    rows = torch.randn(1, 1, 7, 4)
    for module in peers.FLASH_ATTN.values():
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(flash_attn_func=attend))
        assert torch.equal(peers.flash_attn(module, rows, 9.0), rows)
    assert given == [((1, 7, 1, 4), 9.0)] * len(peers.FLASH_ATTN)


def test_peers_on_a_gpu(monkeypatch):
    assert {"PyTorch SDPA", "SDPA flash", "SDPA cuDNN", "SDPA efficient", "SDPA math", "flash-attn 4"} <= set(
        peers.attentions(torch.device("cuda"), with_compiled=False)
    )
    monkeypatch.setattr(peers, "failure", lambda *_, **__: None)
    case = Case("mean_shift", "forward+backward", 1024, 16, torch.float16, torch.device("cuda"))
    providers = peers.attention_providers(case, 10.0, lambda steps: (), with_compiled=False)
    assert {one.name: one.square_tensors for one in providers if one.square_tensors} == {"SDPA math": 8}


def test_the_exponent_of_growth(scaling_result, tmp_path):
    points = [(size, 3.0 * size**1.5) for size in (4096, 1024, 16384)]
    assert growth.exponent(points) == pytest.approx(1.5)
    # The line goes through the largest sizes; two are not enough, nor is one measured twice.
    assert growth.exponent([*points, (16, 1e9)]) == pytest.approx(1.5)
    assert growth.exponent(points[:2]) is None
    assert growth.exponent([*points[:2], points[0]]) is None
    (line,) = growth.sentences(scaling_result["rows"])
    assert line.endswith("rpe_ops cpu N^1.0") and "naive" not in line
    (tmp_path / "run.json").write_text(json.dumps(scaling_result), encoding="utf-8")
    assert "| out of memory |" in render.sections(tmp_path)[0], "a table without plots"
    (tmp_path / "run-of-more.json").write_text(json.dumps(scaling_result), encoding="utf-8")
    assert "## run-of-more\n" in render.sections(tmp_path)[1], "the README shows one table"
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "run_mean_shift.png").touch()
    assert f"- {line}" in render.sections(tmp_path)[0]


def rows_of_benchmarks(repository: Path, folder: Path, options: str) -> list[dict]:
    command = f"-m pytest benchmarks -q -p no:cacheprovider --benchmark --bench-device cpu --bench-rounds 1 {options}"
    run = subprocess.run(
        [sys.executable, *command.split(), "--bench-output", str(folder), "--bench-name", "all"],
        cwd=repository,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((folder / "all.json").read_text(encoding="utf-8"))["rows"]


def test_every_benchmark_runs(repository, tmp_path):
    rows = rows_of_benchmarks(repository, tmp_path, "--bench-points 256 --bench-dims 6")
    assert {row["provider"] for row in rows if row["status"] == "ok"} >= {"rpe_ops torch", "naive PyTorch"}


def test_embeddings_from_files_are_measured(repository, tmp_path):
    """A map of 40 x 60 pixels: enough points for a tolerance."""
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((5, 40, 60)))
    rows = rows_of_benchmarks(
        repository, tmp_path, f"--bench-kappa 25 --bench-embedding {tmp_path / 'mine.npy'}"
    )
    assert {(row["num_points"], row["dim"]) for row in rows} == {(2400, 5)}
    operations = {row["operation"] for row in rows}
    assert {"mean_shift one step mine kappa=25", "mean_shift T=10 mine tol=0.001 kappa=25"} < operations
    assert len(operations) == 3 and not {"wrong", "failed"} & {row["status"] for row in rows}


def test_options_of_pytest_benchmark_work_beside_ours(repository, tmp_path):
    pytest.importorskip("pytest_benchmark")
    theirs, ours = tmp_path / "theirs.json", tmp_path / "ours.json"
    command = "-m pytest benchmarks/test_pairwise_loss.py benchmarks/test_seeded.py -q -p no:cacheprovider"
    options = [
        "--benchmark",
        "--bench-device",
        "cpu",
        "--bench-scaling",
        "--bench-points",
        "64",
        "--bench-dims",
        "4",
    ]
    files = [
        "--benchmark-only",
        f"--benchmark-json={theirs}",
        "--bench-output",
        tmp_path,
        "--bench-name",
        "ours",
    ]
    # pytest-benchmark measures nothing in a worker of pytest-xdist, which these suites may be run by
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, *command.split(), *options, *files],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed, 1 skipped" in run.stdout
    rows = {row["provider"]: row for row in json.loads(ours.read_text(encoding="utf-8"))["rows"]}
    result = json.loads(theirs.read_text(encoding="utf-8"))
    assert result["machine_info"]["rpe_ops"]["torch"] == torch.__version__
    entries = {entry["extra_info"]["provider"]: entry for entry in result["benchmarks"]}
    assert list(entries) == [name for name, row in rows.items() if row["status"] == "ok"]
    for name, entry in entries.items():
        assert len(entry["stats"]["data"]) == rows[name]["rounds"]
        assert 1e3 * entry["stats"]["median"] == pytest.approx(rows[name]["median_ms"])
