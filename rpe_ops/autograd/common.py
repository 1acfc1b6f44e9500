"""What the ops of every operator share: the NaN rule, folding for `torch.func.vmap`, forward mode, the last derivative.

No formula of an operator lives here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rpe_ops.backends.images import image_of_rows, segment_sums


def poisoned_images(points: Tensor, offsets: Tensor) -> Tensor | None:
    """NaN for each image `[B]` in which a component of `points [T, D]` is not finite, else 0; None if all are finite.

    The rule of the contract: NaN or infinity in the input comes out as NaN in that image alone. Only a CPU is asked
    whether there is any, elsewhere that would wait for the device.
    """
    # one pass: a sum is finite only where all its terms are; large finite terms may still overflow it
    on_cpu = points.device.type == "cpu"
    if on_cpu and (bool(torch.isfinite(points.sum())) or bool(torch.isfinite(points).all())):
        return None
    # 0 times what is finite is 0; rows whose sum overflows have lengths that do
    whole = points.sum().reshape(1) if offsets.shape[0] == 2 else segment_sums(points.sum(1), offsets)
    return whole * 0.0


def add_poison(rows: Tensor, offsets: Tensor, poison: Tensor | None) -> Tensor:
    """`rows [T]` or `[T, D]` with every row of a poisoned image turned into NaN."""
    if poison is None or rows.shape[0] == 0:
        return rows
    if offsets.shape[0] == 2:
        return rows + poison
    per_row = poison[image_of_rows(offsets, rows.shape[0])]
    return rows + (per_row[:, None] if rows.ndim == 2 else per_row)


class Folded:
    """Folds a `vmap` over packed calls into one call with more images.

    `vmap` over B' calls of `[T, D]` with `offsets [B+1]` is one call of `[B' T, D]` with `[B' B + 1]` offsets.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def front(self, tensor: Tensor, dim: int | None) -> Tensor:
        """`tensor` with the mapped dimension first, expanded when it is not mapped."""
        if dim is None:
            return tensor.expand(self.batch_size, *tensor.shape)
        return tensor.movedim(dim, 0)

    def rows(self, tensor: Tensor, dim: int | None) -> Tensor:
        """Rows of all calls, one after the other."""
        return self.front(tensor, dim).flatten(0, 1).contiguous()

    def indices(self, tensor: Tensor, dim: int | None, stride: int) -> Tensor:
        """Row indices of all calls, moved to where their rows are now; `stride` rows a call."""
        start = torch.arange(self.batch_size, device=tensor.device)[:, None] * stride
        return (self.front(tensor, dim) + start).flatten()

    def offsets(self, tensor: Tensor, dim: int | None, stride: int) -> Tensor:
        """Offsets of all calls' images; `stride` rows a call."""
        moved = self.front(tensor, dim)
        starts = torch.arange(self.batch_size, device=tensor.device) * stride
        inner = (moved[:, :-1] + starts[:, None]).flatten()
        end = torch.full((1,), self.batch_size * stride, dtype=tensor.dtype, device=tensor.device)
        return torch.cat([inner, end])

    def unfold(self, tensor: Tensor) -> Tensor:
        """`[B' T, ...]` back to `[B', T, ...]`."""
        return tensor.unflatten(0, (self.batch_size, tensor.shape[0] // self.batch_size))


def has_forward_mode() -> bool:
    """Whether to call the `autograd.Function` that has a `jvp`: torch.compile traces none. It would trace forward mode
    through the op below instead and take its result for a constant, so that is refused."""
    if not torch.compiler.is_compiling():
        return True
    if getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0:
        raise NotImplementedError(
            "rpe_ops: torch.compile cannot trace forward mode (jvp) here; apply torch.func.jvp outside of compiled code"
        )
    return False


def last_derivative(op: Callable[..., Any], *args: Any) -> Any:
    """Call an op that computes a derivative and has none itself. Taking one raises; forward mode would else take the
    result for a constant."""
    return op(*args) if torch.compiler.is_compiling() else _LastDerivative.apply(op, *args)


class _LastDerivative(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(op: Callable[..., Any], *args: Any) -> Any:
        return op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise NotImplementedError(_NO_DERIVATIVE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_NO_DERIVATIVE)


_NO_DERIVATIVE = (
    "rpe_ops: this derivative is not implemented. There are first derivatives, forward (jvp, jacfwd) and reverse, and "
    "second ones, reverse over reverse and forward over reverse (torch.func.hessian); write others in plain PyTorch"
)


def map_in_turn(
    op: Callable[..., Any], batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]
) -> Any:
    """Call `op` once for each mapped element and stack the results: where folding does not apply."""
    results = []
    for index in range(batch_size):
        chosen = [
            arg if dim is None else arg.select(dim, index) for arg, dim in zip(args, in_dims, strict=True)
        ]
        results.append(op(*chosen))
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)
