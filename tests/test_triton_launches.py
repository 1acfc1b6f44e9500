"""How many kernels an operator of the Triton backend launches, its own and PyTorch's: at the sizes of training a launch
takes as long as its work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import problems

pytest.importorskip("triton", reason="triton is not installed")

from rpe_ops.backends.triton import (
    launching,
    mean_shift,
    pairwise_loss,
    shapes,
)

NO_KERNEL = {"empty", "empty_like", "new_empty", "detach", "unbind", "select", "slice", "view"}


class PyTorchKernels(TorchDispatchMode):
    """Counts operators that have a kernel to launch."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in NO_KERNEL:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], tuple[int, Counter[str]]]:
    """Runs a call without its Triton kernels; how many it has, and PyTorch's by name."""
    own: list[str] = []
    monkeypatch.setattr(
        launching, "launch", lambda kernel, *arguments, **constants: own.append(kernel.__name__)
    )
    monkeypatch.setattr(shapes, "architecture", lambda device: 90)

    def run(call: Callable[[], object]) -> tuple[int, Counter[str]]:
        own.clear()
        with PyTorchKernels() as pytorch:
            call()
        return len(own), pytorch.count

    return run


def rows_of(lengths: tuple[int, ...], dim: int) -> tuple[Tensor, Tensor]:
    return problems.clustered(sum(lengths), dim).float(), torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("dim", [16, 50])
@pytest.mark.parametrize("lengths", [(300,), (300, 0, 20)])
@pytest.mark.parametrize("form", ["blurring", "masses", "seeds"])
def test_a_step_launches_few_kernels(launches, lengths, dim, half, form):
    points, offsets = rows_of(lengths, dim)
    sources = points.clone() if form == "seeds" else None
    log_weight = None if form == "blurring" else torch.zeros(len(points))
    inputs = (points, sources, log_weight, torch.tensor(9.0), torch.tensor(0.5), offsets, offsets)
    own, pytorch = launches(lambda: mean_shift.forward(*inputs, half, 0.0))
    # operands (of each side), pairs, what follows them; largest values begin at 0
    assert own == (4 if form == "seeds" else 3)
    assert pytorch == ({"zeros": 1} if form == "blurring" else {})
    results = (points.clone(), torch.zeros(len(points)))
    own, pytorch = launches(lambda: mean_shift.backward(points, *inputs, *results, True, half, 0.0))
    assert own == {"blurring": 7, "masses": 8, "seeds": 9}[form]
    assert pytorch == {"zeros": 2 if form == "blurring" else 1}


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("lengths", [(300,), (300, 0, 20)])
def test_a_loss_launches_few_kernels(launches, lengths, half):
    points, offsets = rows_of(lengths, 16)
    instance, weight = torch.arange(len(points)) // 50, torch.ones(len(points))
    own, pytorch = launches(lambda: pairwise_loss.forward(points, instance, weight, offsets, 0.5, True, half))
    assert own == 6
    assert pytorch == {"zeros": 1, "_to_copy": 1, "searchsorted": 2}
