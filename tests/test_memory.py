"""Large cases: forward and backward of N = 16,384 points in O(N D) memory, measured in a process of its own; half
as many points where a backend takes its time."""

import subprocess
import sys

import pytest

from rpe_ops import dispatch

# An N x N matrix of float32 takes 1,024 MiB, or 256; what is kept for the backward, rows and bands are far below this.
LIMIT_MIB = 100
NUM_POINTS = {"torch": 8_192}

MEASURE = """
import resource, sys
import torch
import rpe_ops

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

def run(num_points):
    torch.manual_seed(0)
    rows = torch.randn(num_points, 16, requires_grad=True)
    label = torch.arange(num_points) % 20
    before = resident()
    if OPERATOR == "pairwise_loss":
        rpe_ops.pairwise_loss(rows, label, backend=BACKEND).backward()
    elif OPERATOR == "mean_shift":
        rpe_ops.mean_shift(rows, kappa=20.0, backend=BACKEND).sum().backward()
    else:
        rpe_ops.connected_components(rows, threshold=0.8, backend=BACKEND)
    assert rows.grad is None or bool(rows.grad.isfinite().all())
    return before

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) / 1024

OPERATOR, BACKEND, NUM_POINTS = sys.argv[1:]
run(64)  # libraries, thread pools and builds are not the operator's memory
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts again (proc(5))
before = run(int(NUM_POINTS))
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(fields["VmHWM"].split()[0]) / 1024 - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("operator", ["pairwise_loss", "mean_shift", "connected_components"])
def test_memory_above_the_inputs(backend, operator):
    if backend == "reference":
        pytest.skip("the reference is N x N by contract")
    if backend in dispatch.PREFERENCE["cuda"] and backend not in dispatch.PREFERENCE["cpu"]:
        pytest.skip("what the interpreter of a GPU kernel holds is not the kernel's memory")
    command = [sys.executable, "-c", MEASURE, operator, backend, str(NUM_POINTS.get(backend, 16_384))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[-1]) < LIMIT_MIB
