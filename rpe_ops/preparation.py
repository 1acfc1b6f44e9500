"""`warmup`: everything that a first call would build, load or compile, done before it."""

from __future__ import annotations

import time

import torch

from rpe_ops import dispatch, validate
from rpe_ops.functional import connected_components, mean_shift, pairwise_loss


def warmup(
    dim: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str = "auto",
) -> float:
    """Build, load and compile what the operators need for rows of one width, so that no later call has to.

    Runs every operator in all its forms once, on a few points, forward and backward. A service calls it when it starts;
    what is compiled does not depend on the number of points. Built libraries and compiled kernels are cached on disk.

    Args:
        dim: D, the number of columns.
        dtype: of the embedding.
        device: default: the GPU if PyTorch sees one and the backend runs there, else the CPU.
        backend: as for the operators.

    Returns:
        Seconds it took.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it and the remedy.
        RuntimeError: the device cannot be used, or the chosen backend cannot run on it.

    Example:
        >>> import rpe_ops
        >>> rpe_ops.warmup(16, backend="torch") < 60
        True
    """
    function = "warmup"
    dim = validate.positive_count(function, "dim", dim, "give the number of columns of an embedding")
    validate.floating_dtype(function, dtype)
    dispatch.check_name(function, backend)
    if device is None:
        served = backend == "auto" or dispatch.unavailable_reason(backend, torch.device("cuda")) is None
        device = "cuda" if torch.cuda.is_available() and served else "cpu"
    device = dispatch.usable_device(function, device)
    start = time.perf_counter()
    rows = torch.eye(8, dim, device=device).to(dtype).requires_grad_()
    label = torch.arange(8, device=device) % 2
    with torch.enable_grad():
        for weight in (None, torch.ones(8, device=device)):
            for seeds in (None, rows[:2]):
                (moved,) = mean_shift(
                    rows, kappa=10.0, weight=weight, seeds=seeds, return_trajectory=True, backend=backend
                )
                moved.sum().backward()
        pairwise_loss(rows, label, backend=backend).backward()
    pairwise_loss(rows.detach(), label, backend=backend)
    connected_components(rows, threshold=0.9, backend=backend)
    if rows.is_cuda:
        torch.cuda.synchronize(rows.device)
    return time.perf_counter() - start
