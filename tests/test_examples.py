"""The recipes run, before and after agree, and every recipe is listed with its command."""

import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import memory

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
README = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
HELPERS = {"comparison"}
RECIPES = sorted({path.stem for path in EXAMPLES.glob("*.py")} - HELPERS)

# cuDNN multiplies float32 in TF32, and training magnifies what that rounds differently.
LOSSES_AGREE = {"cpu": 1e-4, "cuda": 1e-3}

pytestmark = pytest.mark.usefixtures("one_thread")


def run(name: str, *arguments: str) -> dict[str, float]:
    pytest.importorskip("sklearn", reason="recipes need the extra [train]")
    return importlib.import_module(name).main(arguments)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
            ],
        ),
    ]
)
def device(request) -> str:
    """Where a recipe runs."""
    return request.param


def test_tabletop(device, capsys):
    found = run("tabletop", "--images", "2", "--height", "48", "--width", "64", "--device", device)
    assert found["agreement of the labels, adjusted Rand index"] > 0.99
    assert found["after against the truth, adjusted Rand index"] > 0.99
    assert found["after against itself with the points shuffled"] > 0.99
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("before", "after", "time, s", "agreement"))


def test_tabletop_on_a_real_frame(test_data, device):
    color = min((test_data / "ycb_video" / "data" / "0001").glob("*-color.png"))
    frame = str(color).removesuffix("-color.png")
    found = run("tabletop", "--frame", frame, "--stride", "8", "--device", device)
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


def test_hypersphere_attention(device):
    found = run("hypersphere_attention", "--size", "16", "--steps", "4", "--dim", "8", "--device", device)
    nearly = LOSSES_AGREE[device]
    assert found["largest difference of the losses, relative"] < nearly
    assert found["learnt kappa, after"] == pytest.approx(found["learnt kappa, before"], rel=nearly)
    assert found["learnt eta, after"] == pytest.approx(found["learnt eta, before"], rel=nearly)
    assert found["loss at the last step"] < found["loss at the first step"]


def test_metric_learning(device):
    found = run("metric_learning", "--copies", "1", "--steps", "20", "--device", device)
    assert found["largest difference of the losses, relative"] < LOSSES_AGREE[device]
    assert found["recall at 1 on unseen digits, after"] > 0.85


def test_cell_embeddings(device):
    found = run("cell_embeddings", "--size", "40", "--cells", "8", "--device", device)
    assert found["agreement of the labels, adjusted Rand index"] > 0.99
    assert found["number of cells, after"] == found["number of cells that are visible"]


def saved_output(folder: Path, embedding: np.ndarray, foreground: np.ndarray) -> list[str]:
    """The options that hand a network's output to the recipe of cells."""
    files = {"--embedding": embedding, "--foreground": foreground}
    for option, values in files.items():
        np.save(folder / f"{option[2:]}.npy", values)
    return [word for option in files for word in (option, str(folder / f"{option[2:]}.npy"))]


def test_cell_embeddings_of_ones_own(tmp_path):
    pytest.importorskip("sklearn", reason="recipes need the extra [train]")
    output = importlib.import_module("cell_embeddings").network_output(40, 8, 6, np.random.default_rng(1))
    embedding, foreground, truth = output
    found = run("cell_embeddings", *saved_output(tmp_path, embedding, foreground))
    assert found["agreement of the labels, adjusted Rand index"] > 0.99
    assert found["number of cells, after"] == len(np.unique(truth[foreground]))


@pytest.mark.parametrize(
    "shape, filled, message",
    [
        ((12, 10), True, r"embedding.npy must hold \[D, H, W\] .* got \[3, 10, 12\] and \[12, 10\]"),
        ((10, 12), False, "foreground.npy has no pixel that is true"),
    ],
)
def test_cell_embeddings_refuse_a_foreground_that_does_not_fit(shape, filled, message, tmp_path, capsys):
    options = saved_output(tmp_path, np.ones((3, 10, 12), np.float32), np.full(shape, filled))
    with pytest.raises(SystemExit):
        run("cell_embeddings", *options)
    assert re.search(message, capsys.readouterr().err)


def test_offset_votes(device):
    found = run("offset_votes", "--size", "40", "--instances", "6", "--device", device)
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


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_device(name, capsys):
    with pytest.raises(SystemExit):
        run(name, "--device", "gpu")
    assert "--device: 'gpu' cannot be used here" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tabletop"])  # the others in small, above: as commands they take a minute
def test_recipes_run_as_their_commands_say(name, tmp_path):
    """From another folder, and with nothing but the packages on the path."""
    pytest.importorskip("sklearn", reason="recipes need the extra [train]")
    # where this test found rpe_ops: a checkout or what is installed
    packages = str(Path(sys.modules["rpe_ops"].__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "time, s" in done.stdout and re.search("agreement|difference", done.stdout)


def test_both_sides_are_measured_alike():
    """A run that is not timed comes first, and slow calls are repeated less often."""
    comparison = importlib.import_module("comparison")
    calls = []

    def call() -> int:
        time.sleep(0.3 if not calls else 0.01)
        calls.append(len(calls))
        return calls[-1]

    measured = comparison.measure(call, torch.device("cpu"))
    assert len(calls) == 1 + comparison.REPEATS and measured.result == calls[-1]
    assert 0.01 <= measured.seconds < 0.3


def test_a_report_says_why_memory_is_not_known(monkeypatch, capsys):
    comparison = importlib.import_module("comparison")
    monkeypatch.setattr(memory, "STATUS", Path("/nonexistent/status"))
    side = comparison.measure(lambda: None, torch.device("cpu"))
    comparison.report("title", side, side, {})
    assert (
        "peak memory is not known: it is read from /nonexistent/status, which only Linux has"
        in capsys.readouterr().out
    )
