"""The recipes run, before and after agree, and every recipe is listed with its command."""

import importlib
import re
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
README = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
HELPERS = {"comparison"}
RECIPES = sorted({path.stem for path in EXAMPLES.glob("*.py")} - HELPERS)

pytestmark = pytest.mark.usefixtures("one_thread")


def run(name: str, *arguments: str) -> dict[str, float]:
    pytest.importorskip("sklearn", reason="recipes need the extra [train]")
    return importlib.import_module(name).main(arguments)


def test_tabletop(capsys):
    found = run("tabletop", "--images", "2", "--height", "48", "--width", "64")
    assert found["agreement of the labels, adjusted Rand index"] > 0.99
    assert found["after against the truth, adjusted Rand index"] > 0.99
    assert found["after against itself with the points shuffled"] > 0.99
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("before", "after", "time, s", "agreement"))


def test_tabletop_on_a_real_frame(test_data):
    color = min((test_data / "ycb_video" / "data" / "0001").glob("*-color.png"))
    frame = str(color).removesuffix("-color.png")
    found = run("tabletop", "--frame", frame, "--stride", "8")
    assert found["after against itself with the points shuffled"] > 0.99
    assert found["after against the truth, adjusted Rand index"] > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hypersphere_attention_under_autocast(dtype):
    """Queries are parameters, pixels come out of a layer: two dtypes."""
    pytest.importorskip("sklearn", reason="recipes need the extra [train]")
    module = importlib.import_module("hypersphere_attention")
    network = module.MaskTransformer(module.HypersphereAttention, dim=8, num_queries=3)
    images = torch.rand(2, 3, 12, 12)
    with torch.autocast("cpu", dtype):
        logits = network(images)
    assert torch.nn.functional.cosine_similarity(logits.float(), network(images), dim=2).min() > 0.99


def test_hypersphere_attention():
    found = run("hypersphere_attention", "--size", "16", "--steps", "4", "--dim", "8")
    assert found["largest difference of the losses, relative"] < 1e-4
    assert found["learnt kappa, after"] == pytest.approx(found["learnt kappa, before"], rel=1e-4)
    assert found["learnt eta, after"] == pytest.approx(found["learnt eta, before"], rel=1e-4)
    assert found["loss at the last step"] < found["loss at the first step"]


def test_metric_learning():
    found = run("metric_learning", "--copies", "1", "--steps", "20")
    assert found["largest difference of the losses, relative"] < 1e-4
    assert found["recall at 1 on unseen digits, after"] > 0.85


def test_cell_embeddings():
    found = run("cell_embeddings", "--size", "40", "--cells", "8")
    assert found["agreement of the labels, adjusted Rand index"] > 0.99
    assert found["number of cells, after"] == found["number of cells that are visible"]


def test_offset_votes():
    found = run("offset_votes", "--size", "40", "--instances", "6")
    assert found["agreement of the labels, adjusted Rand index"] > 0.99
    assert found["largest difference of a position, pixels"] < 0.05


def test_the_torus_keeps_distances():
    votes = importlib.import_module("offset_votes")
    radius, sigma = 100.0, 2.0
    place = torch.rand(50, 2, dtype=torch.float64) * 10 - 5
    rows = votes.lift(place, radius)
    assert torch.allclose(torch.linalg.vector_norm(rows, dim=1), torch.ones(50, dtype=torch.float64))
    assert torch.allclose(votes.unlift(rows, radius), place)
    logit = votes.kappa_of(sigma, radius) * (rows @ rows.T - 1)
    euclidean = -torch.cdist(place, place).square() / (2 * sigma**2)
    # the relative error of an exponent is at most (distance / R)^2 / 12
    assert ((logit - euclidean).abs() <= euclidean.abs() * (10 / radius) ** 2 / 12 + 1e-10).all()
    apart = votes.lift(torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64), radius)
    similarity = float((1 + apart[0] @ apart[1]) / 2)
    assert similarity == pytest.approx(votes.threshold_of(3.0, radius))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_in_the_table_and_has_a_test(name):
    assert f"python examples/{name}.py" in README
    assert re.search(rf'run\("{name}"', Path(__file__).read_text(encoding="utf-8"))
