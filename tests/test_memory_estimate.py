"""The memory calculator against the peak that PyTorch's profiler sees, for every operator, mode, dtype and width."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import rpe_ops
from rpe_ops.memory import AROUND_SEEDS, BACKENDS, peak_bytes

NUM_POINTS, NUM_SEEDS = 4_000, 600
# Of calls that pass over the points once, and are dear only in memory.
MANY_POINTS = 20_000
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
    ("select_seeds", {"num_seeds": 10}),
    ("select_seeds", {"num_seeds": NUM_SEEDS}),
    ("assign_to_modes", {"num_seeds": 10}),
    ("assign_to_modes", {"num_seeds": NUM_SEEDS}),
    ("assign_to_modes", {"num_seeds": 4_000}),
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
    elif operator == "select_seeds":
        result = rpe_ops.select_seeds(rows, options["num_seeds"], backend=backend)
    elif operator == "assign_to_modes":
        modes = rows[: options["num_seeds"]]
        result = rpe_ops.assign_to_modes(rows, modes, threshold=0.95, backend=backend)
    else:
        result = rpe_ops.connected_components(rows, threshold=0.8, backend=backend)
    if options.get("gradient"):
        result.sum().backward()


WIDTHS = [
    (16, torch.float32),
    (64, torch.float16),
    (64, torch.bfloat16),
    (256, torch.float32),
    (64, torch.float64),
]


@pytest.mark.parametrize("dim, dtype", WIDTHS)
@pytest.mark.parametrize("operator, options", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_estimates_are_just_above_the_peak(backend, operator, options, dim, dtype, one_thread):
    reason = rpe_ops.available_backends("cpu")[backend]
    if reason:
        pytest.skip(f"backend {backend}: {reason}")
    num_points = MANY_POINTS if operator in AROUND_SEEDS else NUM_POINTS
    rows = torch.randn(num_points, dim, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows.requires_grad_(options.get("gradient", False))
    call(operator, backend, rows[:64], options)  # libraries are not the operator's memory
    rows.grad = None
    peak = allocated_peak(lambda: call(operator, backend, rows, options))
    estimate = peak_bytes(operator, num_points, dim, dtype=dtype, backend=backend, **options)
    assert peak <= estimate <= SLACK * peak, f"{peak} bytes were allocated, {estimate} were foretold"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"operator": "attention"}, "operator must be one of"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"backend": "triton"}, "backend must be one of"),
        ({"dtype": torch.int64}, "dtype must be one of"),
        ({"operator": "connected_components", "gradient": True}, "has no gradient"),
        ({"operator": "select_seeds", "gradient": True, "num_seeds": 3}, "has no gradient"),
        ({"operator": "select_seeds"}, "select_seeds needs num_seeds"),
        ({"operator": "pairwise_loss", "num_seeds": 3}, "pairwise_loss has no seeds"),
        ({"operator": "connected_components", "num_seeds": 3}, "connected_components has no seeds"),
        ({"num_points": 0}, "num_points must be at least 1"),
        ({"num_points": -5}, "num_points must be at least 1"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"num_seeds": 0}, "num_seeds must be at least 1"),
        ({"num_steps": -1}, "num_steps must be at least 0"),
    ],
)
def test_what_is_not_known_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=f"peak_bytes: .*{message}"):
        peak_bytes(**{"operator": "mean_shift", "num_points": 10, "dim": 4, **arguments})


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_a_dtype_may_be_given_by_itself_or_by_name(name):
    sizes = {
        peak_bytes("mean_shift", 100, 4, dtype=form) for form in (name, f"torch.{name}", getattr(torch, name))
    }
    assert len(sizes) == 1


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
    assert "| select_seeds, 100 seeds |" in done.stdout and "| assign_to_modes, 100 modes |" in done.stdout
    wrong = subprocess.run([*command, "--seeds", "0"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "num_seeds must be at least 1" in wrong.stderr
