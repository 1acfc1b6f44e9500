"""Programs of `torch.export` in a process of their own, as they are served: they need `import rpe_ops` and the backend
that the graph names, and nothing else. That they compute what the layer computes is tested beside the layer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rpe_ops

SERVE = """
import sys
import torch
if "import" in sys.argv: import rpe_ops
program = torch.export.load(sys.argv[1]).module()
rows, moved = torch.load(sys.argv[2])
torch.testing.assert_close(program(rows), moved, rtol=0, atol=1e-5)
print("served")
"""


def served(folder: Path, backend: str, *words: str) -> subprocess.CompletedProcess:
    """Saves a layer as a program that names `backend`, and runs it in a new process without compiler or library."""
    layer = rpe_ops.nn.MeanShift(kappa=20.0, num_steps=2, backend=backend)
    rows = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    torch.export.save(torch.export.export(layer, (rows,)), folder / "layer.pt2")
    torch.save((rows, layer(rows)), folder / "expected.pt")
    bare = {"PATH": str(folder), "RPE_OPS_CACHE_DIR": str(folder / "cache")}
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")} | bare
    command = [sys.executable, "-c", SERVE, str(folder / "layer.pt2"), str(folder / "expected.pt"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_portable_program_needs_the_package_alone(tmp_path):
    done = served(tmp_path, "torch", "import")
    assert done.returncode == 0 and done.stdout.strip() == "served", done.stderr


def test_a_program_needs_the_package(tmp_path):
    done = served(tmp_path, "torch")
    assert done.returncode != 0 and "rpe_ops" in done.stderr


def test_a_program_needs_the_backend_it_was_exported_with(tmp_path):
    reason = rpe_ops.available_backends("cpu")["cpu"]
    if reason:
        pytest.skip(f"backend cpu: {reason}")
    done = served(tmp_path, "auto", "import")
    if done.returncode == 0:
        pytest.skip("the kernels are part of this installation: no compiler is needed")
    assert "no C++ compiler" in done.stderr


def test_a_portable_program_moves_to_another_device():
    """Meta tensors stand for a GPU here: no operand stays behind."""
    move = pytest.importorskip("torch.export.passes").move_to_device_pass
    rows = torch.randn(2, 50, 8)
    program = torch.export.export(rpe_ops.nn.MeanShift(kappa=20.0, num_steps=2, backend="torch"), (rows,))
    assert move(program, "meta").module()(rows.to("meta")).is_meta
