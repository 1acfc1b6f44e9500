"""What rpe_ops is measured against: mean shift in naive PyTorch, and attention with Q = K = V as everyone else has it:
PyTorch's SDPA, each of its backends, FlexAttention, flash-attn of every generation, KeOps.

One mean-shift step with eta = 1 is that attention and a row normalisation, so these are the strongest peers. A peer
that cannot run here is a provider with a reason.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Case, Provider, Result

Attention = Callable[[Tensor, float], Tensor]
TRIAL_POINTS = 256
# Modules of flash-attn by generation; the third is built from its repository, the fourth is `flash-attn-4`.
FLASH_ATTN = {
    "flash-attn 2": "flash_attn",
    "flash-attn 3": "flash_attn_interface",
    "flash-attn 4": "flash_attn.cute",
}
MATH = "SDPA math"


def naive_mean_shift(embedding: Tensor, kappa: float, num_steps: int = 1) -> Tensor:
    """Blurring steps of rows `[N, D]`, the whole kernel in memory."""
    x = F.normalize(embedding, dim=1)
    for _ in range(num_steps):
        kernel = torch.exp(kappa * (x @ x.T - 1.0))
        x = F.normalize(kernel @ x / kernel.sum(1, keepdim=True), dim=1)
    return x


def attention_steps(attend: Attention, kappa: float, num_steps: int = 1) -> Callable[[Tensor], Tensor]:
    """Blurring steps of rows `[N, D]` through `attend(x [1, 1, N, D], scale)`."""

    def steps(embedding: Tensor) -> Tensor:
        x = F.normalize(embedding, dim=1)
        for _ in range(num_steps):
            x = F.normalize(attend(x[None, None], kappa)[0, 0], dim=1)
        return x

    return steps


def sdpa(x: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, scale=scale)


def sdpa_with(backend: torch.nn.attention.SDPBackend, x: Tensor, scale: float) -> Tensor:
    with torch.nn.attention.sdpa_kernel(backend):
        return sdpa(x, scale)


@functools.cache
def compiled_flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def flex(x: Tensor, scale: float) -> Tensor:
    return compiled_flex_attention()(x, x, x, scale=scale)


def flash_attn(module: str, x: Tensor, scale: float) -> Tensor:
    attend = importlib.import_module(module).flash_attn_func
    rows = x.transpose(1, 2)  # [1, N, 1, D]
    result = attend(rows, rows, rows, softmax_scale=scale)
    # some give what the softmax was divided by, too
    return (result[0] if isinstance(result, tuple) else result).transpose(1, 2)


def keops_attention(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """softmax(scale queries keys^T) keys for rows `[M, D]` and `[N, D]`; KeOps compiles it once for each D."""
    from pykeops.torch import LazyTensor

    rows, columns = LazyTensor(queries[:, None, :]), LazyTensor(keys[None, :, :])
    return ((rows * columns).sum(-1) * scale).sumsoftmaxweight(columns, axis=1)


def keops(x: Tensor, scale: float) -> Tensor:
    rows = x[0, 0].contiguous()
    return keops_attention(rows, rows, scale)[None, None]


def attentions(device: torch.device, with_compiled: bool) -> dict[str, Attention]:
    """The peers by name; on a CPU SDPA has one implementation."""
    peers: dict[str, Attention] = {"PyTorch SDPA": sdpa, "KeOps": keops}
    if device.type == "cuda":
        kinds = torch.nn.attention.SDPBackend
        named = {
            "flash": kinds.FLASH_ATTENTION,
            "cuDNN": kinds.CUDNN_ATTENTION,
            "efficient": kinds.EFFICIENT_ATTENTION,
            MATH.removeprefix("SDPA "): kinds.MATH,
        }
        peers |= {f"SDPA {name}": functools.partial(sdpa_with, kind) for name, kind in named.items()}
        peers |= {name: functools.partial(flash_attn, module) for name, module in FLASH_ATTN.items()}
    if with_compiled:
        peers["FlexAttention"] = flex
    return peers


def compiled_provider(
    function: Callable[[Tensor], Tensor],
    run: Callable[[Callable[[Tensor], Tensor]], Result],
    square_tensors: int,
) -> Provider:
    """`torch.compile` of the naive `function`."""
    compiled = torch.compile(function, dynamic=False)
    return Provider("naive, compiled", lambda: run(compiled), square_tensors)


def attention_providers(
    case: Case,
    kappa: float,
    run: Callable[[Callable[[Tensor], Tensor]], Result],
    with_compiled: bool,
    num_steps: int = 1,
) -> list[Provider]:
    """Every peer, those that fail on a small problem of the same kind with the reason."""
    # SDPA's plain formula keeps float32 scores and weights, and in the backward their gradients.
    in_math = (2 if case.mode == "forward" else 4) * torch.float32.itemsize // case.dtype.itemsize
    providers = []
    for name, attend in attentions(case.device, with_compiled).items():
        absent = failure(attention_steps(attend, kappa), case, backward=case.mode != "forward")
        steps = attention_steps(attend, kappa, num_steps)
        ran = None if absent else functools.partial(run, steps)
        square_tensors = in_math if name == MATH else 0
        providers.append(Provider(name, ran, square_tensors, absent, may_be_slow=name == "KeOps"))
    return providers


def failure(compute: Callable[[Tensor], Tensor], case: Case, backward: bool = True) -> str | None:
    """Why `compute` cannot run, forward and perhaps backward, in this dtype and width; None if it can."""
    rows = torch.randn(TRIAL_POINTS, case.dim, device=case.device, dtype=case.dtype, requires_grad=backward)
    try:
        total = compute(rows).sum()
        if backward:
            torch.autograd.grad(total, rows)
    except Exception as error:  # whatever a peer raises is its reason
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0][:150] if lines else ''}"
    return None
