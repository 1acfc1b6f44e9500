"""Recurrent grouping: T steps of mean shift on the unit sphere over packed points. The steps themselves are
`rpe_ops.mean_shift`.

It moves points; turning converged points into label maps is `decode.py`, the loss on every step is
`objective.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import rpe_ops


class RecurrentGrouping(nn.Module):
    """Gaussian blurring mean shift, `num_steps` times.

    Args:
        num_steps: T; 0 leaves the embedding as it is.
        kappa: concentration of the kernel; None takes `rpe_ops.kappa_from_margin(margin)`.
        margin: margin of the loss, used for the default of kappa alone.
        eta: step size, 1 moves every point to its kernel mean.
        learn_kappa: make log(kappa) a parameter.
        backend: `rpe_ops` backend.
        recompute: keep no more of a step than its points and compute it again in the backward pass.
        tol: largest share of a point's kernel mass that a step may leave out in evaluation mode; 0 is exact.
        training_tol: the same in training mode.
    """

    log_kappa: Tensor

    def __init__(
        self,
        num_steps: int = 5,
        kappa: float | None = None,
        margin: float = 0.5,
        eta: float = 1.0,
        learn_kappa: bool = False,
        backend: str = "auto",
        recompute: bool = False,
        tol: float = 1e-3,
        training_tol: float = 0.0,
    ) -> None:
        super().__init__()
        if num_steps < 0:
            raise ValueError(f"grouping.num_steps must be 0 or more, got {num_steps}")
        start = float(rpe_ops.kappa_from_margin(margin)) if kappa is None else float(kappa)
        if not start > 0:
            raise ValueError(f"grouping.kappa must be above 0, got {start}")
        self.num_steps, self.eta, self.backend, self.recompute = num_steps, eta, backend, recompute
        self.tol, self.training_tol = tol, training_tol
        log_kappa = torch.tensor(math.log(start))
        if learn_kappa:
            self.log_kappa = nn.Parameter(log_kappa)
        else:
            self.register_buffer("log_kappa", log_kappa)

    @property
    def kappa(self) -> Tensor:
        """0-d tensor."""
        return self.log_kappa.exp()

    def forward(
        self, points: Tensor, offsets: Tensor, num_steps: int | None = None, tol: float | None = None
    ) -> list[Tensor]:
        """Move packed points `[T, D]` with window `offsets` `[W + 1]`; `num_steps` and `tol` take the place of the
        module's own.

        Returns:
            `num_steps + 1` tensors `[T, D]`: the input, then the points after each step.
        """
        steps = self.num_steps if num_steps is None else num_steps
        if tol is None:
            tol = self.training_tol if self.training else self.tol
        if steps == 0 or points.shape[0] == 0:
            return [points] * (steps + 1)
        if not (self.recompute and torch.is_grad_enabled()):
            return [points, *self._move(points, offsets, self.kappa, steps, tol, True)]
        trajectory = [points]
        for step in range(steps):
            (moved,) = checkpoint(
                self._move, trajectory[-1], offsets, self.kappa, 1, tol, step == 0, use_reentrant=False
            )
            trajectory.append(moved)
        return trajectory

    def _move(
        self, points: Tensor, offsets: Tensor, kappa: Tensor, num_steps: int, tol: float, normalize: bool
    ) -> list[Tensor]:
        moved = rpe_ops.mean_shift(
            points,
            kappa=kappa,
            eta=self.eta,
            num_steps=num_steps,
            tol=tol,
            offsets=offsets,
            normalize=normalize,
            return_trajectory=True,
            backend=self.backend,
        )
        return list(moved)
