"""The benchmark harness refuses wrong providers, gives reasons for absent ones, and its files become README tables."""

import csv
import json

import pytest
import render
import torch

import report
from harness import Case, Provider, measure

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


def test_files_and_table(rows, tmp_path):
    facts = report.environment(CASE.device)
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


def test_the_readme_shows_the_committed_results():
    assert render.section() in render.README.read_text(encoding="utf-8")
