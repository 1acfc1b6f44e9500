"""Uses an installed wheel: two operators, forward and backward, on both CPU backends, which must agree.

Arguments: the checkout that must not be imported from, the folder that the native library must be loaded from, and
"cuda" where the wheel carries the CUDA extension too, which then must load, though no GPU may be there to run it.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

import rpe_ops

checkout, library_folder = Path(sys.argv[1]), sys.argv[2]
for package in ("rpe_ops", "rpe"):
    location = Path(find_spec(package).origin).resolve()
    if checkout in location.parents:
        raise SystemExit(f"{package} is imported from the checkout, {location}")

label = torch.arange(500) % 7
losses = {}
for backend in ("torch", "cpu"):
    torch.manual_seed(0)
    embedding = torch.randn(500, 16, requires_grad=True)
    moved = rpe_ops.mean_shift(embedding, kappa=20.0, num_steps=2, backend=backend)
    loss = rpe_ops.pairwise_loss(moved, label, backend=backend)
    loss.backward()
    if not bool(embedding.grad.isfinite().all()):
        raise SystemExit(f"{backend}: the gradient is not finite")
    losses[backend] = float(loss.detach())
print("losses:", losses)
if abs(losses["torch"] - losses["cpu"]) > 1e-4 * abs(losses["torch"]):
    raise SystemExit("the backends disagree")
state = str(rpe_ops.show_config()["native build"])
print(state)
if library_folder not in state:
    raise SystemExit(f"the native library was not loaded from {library_folder}")
if "cuda" in sys.argv[3:]:
    from rpe_ops.backends import cuda

    module = cuda.loader.load()
    print(module.build_info(), torch.ops.rpe_ops_cuda.mean_shift_forward.default)
    if not str(module.__file__).startswith(library_folder):
        raise SystemExit(f"the CUDA library was loaded from {module.__file__}")
