"""The memory calculator against the peak that PyTorch's profiler sees, for every operator, mode, dtype and width."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import rpe_ops
from rpe_ops.memory import BACKENDS, peak_bytes

NUM_POINTS, NUM_SEEDS = 4_000, 600
# An estimate may be this much too large: one table serves every width and number of steps.
SLACK = 1.5

CASES = [
    ("pairwise_loss", {}),
    ("pairwise_loss", {"gradient": True}),
    ("mean_shift", {}),
    ("mean_shift", {"num_steps": 3}),
    ("mean_shift", {"gradient": True}),
    ("mean_shift", {"gradient": True, "num_steps": 3}),
    ("mean_shift", {"num_seeds": NUM_SEEDS, "num_steps": 3}),
    ("mean_shift", {"num_seeds": NUM_SEEDS, "num_steps": 3, "gradient": True}),
    ("connected_components", {}),
]


def allocated_peak(call: Callable[[], Any]) -> int:
    """Most bytes that were allocated at once while `call` ran, above those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def call(operator: str, backend: str, rows: torch.Tensor, options: dict[str, Any]) -> None:
    if operator == "pairwise_loss":
        result = rpe_ops.pairwise_loss(rows, torch.arange(rows.shape[0]) % 20, backend=backend)
    elif operator == "mean_shift":
        seeds = rows[: options["num_seeds"]] if "num_seeds" in options else None
        steps = options.get("num_steps", 1)
        result = rpe_ops.mean_shift(rows, kappa=20.0, num_steps=steps, seeds=seeds, backend=backend)
    else:
        result = rpe_ops.connected_components(rows, threshold=0.8, backend=backend)
    if options.get("gradient"):
        result.sum().backward()


WIDTHS = [(16, torch.float32), (64, torch.float16), (64, torch.bfloat16), (256, torch.float32)]


@pytest.mark.parametrize("dim, dtype", WIDTHS)
@pytest.mark.parametrize("operator, options", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_estimates_are_just_above_the_peak(backend, operator, options, dim, dtype, one_thread):
    reason = rpe_ops.available_backends("cpu")[backend]
    if reason:
        pytest.skip(f"backend {backend}: {reason}")
    rows = torch.randn(NUM_POINTS, dim, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows.requires_grad_(options.get("gradient", False))
    call(operator, backend, rows[:64], options)  # libraries are not the operator's memory
    rows.grad = None
    peak = allocated_peak(lambda: call(operator, backend, rows, options))
    estimate = peak_bytes(operator, NUM_POINTS, dim, dtype=str(dtype)[6:], backend=backend, **options)
    assert peak <= estimate <= SLACK * peak, f"{peak} bytes were allocated, {estimate} were foretold"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"operator": "attention"}, "operator must be one of"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"backend": "triton"}, "backend must be one of"),
        ({"operator": "connected_components", "gradient": True}, "has no gradient"),
    ],
)
def test_what_is_not_known_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=f"peak_bytes: .*{message}"):
        peak_bytes(**{"operator": "mean_shift", "num_points": 10, "dim": 4, **arguments})


def test_command_line():
    command = [
        sys.executable,
        "-m",
        "rpe_ops.memory",
        "--points",
        "307200",
        "--dim",
        "64",
        "--backend",
        "torch",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "N = 307,200, D = 64, float32, backend torch" in done.stdout
    assert "| for comparison: one N x N matrix | 360,000.0 |" in done.stdout
