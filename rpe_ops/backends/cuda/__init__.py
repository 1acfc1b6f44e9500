"""Backend "cuda": CUDA C++ kernels of `csrc/cuda` for NVIDIA GPUs, built at the first call or carried by a wheel.

`rpe_ops/extensions` compiles and loads them; the operator files call what the extension registers with torch.
"""

from __future__ import annotations

import torch

from rpe_ops.extensions import architectures, cuda
from rpe_ops.extensions.loader import Loader

OLDEST_CAPABILITY = architectures.OLDEST
LARGEST_DIM = 256

loader = Loader(cuda.EXTENSION)


def unavailable_reason(device: torch.device) -> str | None:
    """None where it can run, else the reason. Builds nothing."""
    if device.type != "cuda":
        return f"runs on NVIDIA GPUs, these tensors are on {device.type}"
    return _gpu_reason(device) or loader.unavailable_reason() or _library_reason(device)


def _gpu_reason(device: torch.device) -> str | None:
    """Why this PyTorch or this GPU cannot run it, or None."""
    if torch.version.hip is not None:
        return "has not been tried on AMD GPUs"
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        oldest = architectures.text(OLDEST_CAPABILITY)
        return f"needs compute capability {oldest} or newer, this GPU has {architectures.text(capability)}"
    return None


def _library_reason(device: torch.device) -> str | None:
    """Why the extension, if loaded already, cannot run on this GPU, or None: what is built serves the GPUs that were
    visible, what a wheel carries the current one at least."""
    built_for, capability = loader.architectures(), torch.cuda.get_device_capability(device)
    if built_for is None or architectures.covers(built_for.split(), capability):
        return None
    gpu = architectures.text(capability)
    return f"the kernels loaded are for compute capability {built_for}, this GPU has {gpu}"


def unsupported_reason(dtype: torch.dtype, dim: int) -> str | None:
    """None where it serves rows of this dtype and width, else the reason."""
    if dtype is torch.float64:
        return "computes in float32 at most, the embedding is float64"
    if dim > LARGEST_DIM:
        return f"serves up to {LARGEST_DIM} columns, the embedding has {dim}"
    return None


def prepare() -> None:
    """Build or load the extension; raises with the reason."""
    loader.load()


def describe() -> dict[str, str]:
    """What `rpe_ops.show_config` says of the CUDA build: its state, or why there is none and what would build it."""
    reason = _gpu_reason(torch.device("cuda"))
    if reason is None:
        return loader.describe()
    return {"state": f"cannot run: {reason}", **cuda.describe()}
