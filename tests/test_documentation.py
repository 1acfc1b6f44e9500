"""What the documentation shows is true: examples run, README's code gives what it says, links lead somewhere."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import rpe_ops

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/results/README.md"]
MODULES = sorted(
    f"rpe_ops.{module.name}" for module in pkgutil.iter_modules(rpe_ops.__path__) if not module.ispkg
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    torch.manual_seed(0)
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", ["pairwise_loss", "mean_shift", "connected_components"])
def test_every_operator_has_an_example(name):
    assert ">>>" in getattr(rpe_ops, name).__doc__


def test_before_and_after_agree():
    before, after = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[:2]
    torch.manual_seed(0)
    names = {
        "torch": torch,
        "F": torch.nn.functional,
        "rpe_ops": rpe_ops,
        "embedding": torch.randn(200, 8),
        "label": torch.randint(5, (200,)),
    }
    exec(before, names)
    by_hand = names.pop("loss")
    exec(after, names)
    assert float(names["loss"]) == pytest.approx(float(by_hand), rel=1e-5)
    assert names["labels"].shape == (200,)


def test_readme_lists_the_public_names():
    public = set(rpe_ops.__all__) - {"__version__", "nn"} | {"nn.PairwiseLoss", "nn.MeanShift"}
    missing = [name for name in public if not re.search(rf"`{re.escape(name)}[(`]", README)]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    broken = [target for target in targets if not (path.parent / target).exists()]
    assert not broken
