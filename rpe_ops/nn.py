"""Thin modules over the operators. `channel_dim` lets them take feature maps `[B, D, H, W]`; nothing else is added."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rpe_ops import dispatch, functional, validate


class _OverRows(nn.Module):
    """Feature maps to rows and back: shared by the modules of this file."""

    channel_dim: int | None

    def _rows(self, name: str, features: Tensor) -> Tensor:
        """`[B, D, *spatial]` to `[B, N, D]` when `channel_dim` is set, else unchanged."""
        if self.channel_dim is None:
            return features
        if not isinstance(features, Tensor) or features.ndim < 3:
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"{type(self).__name__}: {name} must be a feature map such as [B, D, H, W] with "
                f"channel_dim={self.channel_dim}, got {got}; for rows [N, D] use channel_dim=None"
            )
        if not -features.ndim <= self.channel_dim < features.ndim or self.channel_dim % features.ndim == 0:
            raise ValueError(
                f"{type(self).__name__}: channel_dim must name a dimension of {name} {list(features.shape)} other than "
                f"the batch, got {self.channel_dim}; use 1 for [B, D, H, W]"
            )
        return features.movedim(self.channel_dim, -1).flatten(1, -2)

    def _points(self, values: Tensor | None, features: Tensor) -> Tensor | None:
        """Per-pixel maps `[B, *spatial]` to `[B, N]` when `channel_dim` is set, else unchanged."""
        if self.channel_dim is None or not isinstance(values, Tensor):
            return values
        spatial = list(features.movedim(self.channel_dim, -1).shape[:-1])
        if list(values.shape) != spatial:
            raise ValueError(
                f"{type(self).__name__}: label and weight maps must be {spatial} beside a feature map "
                f"{list(features.shape)}, got {list(values.shape)}; {_remedy(list(values.shape), spatial)}"
            )
        return values.flatten(1)


def _remedy(given: list[int], expected: list[int]) -> str:
    """For a map of another shape."""
    if given == [expected[0], 1, *expected[1:]]:
        return "call .squeeze(1)"
    return "resize labels with mode='nearest'"


class PairwiseLoss(_OverRows):
    """`rpe_ops.pairwise_loss` as a module.

    Args:
        margin, weight, normalizer, reduction, ignore_index, normalize, backend: as in the function; a weight tensor is
            given to `forward` instead.
        channel_dim: None: rows `[N, D]`, `[B, N, D]`, or packed. 1: feature maps `[B, D, H, W]` with label maps
            `[B, H, W]` (any number of spatial dimensions).
    """

    def __init__(
        self,
        margin: float = 0.5,
        *,
        weight: str = "instance",
        normalizer: str = "points",
        reduction: str = "sum",
        ignore_index: int | None = None,
        normalize: bool = True,
        channel_dim: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        validate.unit_interval("PairwiseLoss", "margin", margin)
        validate.choice(
            "PairwiseLoss", "weight", weight, ("instance", "uniform"), "; a tensor goes to forward"
        )
        validate.choice("PairwiseLoss", "normalizer", normalizer, ("points", "weights", "none"))
        validate.choice("PairwiseLoss", "reduction", reduction, ("sum", "mean", "none"))
        validate.optional_integer("PairwiseLoss", "ignore_index", ignore_index)
        validate.flag("PairwiseLoss", "normalize", normalize)
        dispatch.check_name("PairwiseLoss", backend)
        self.channel_dim = validate.channel_dim("PairwiseLoss", channel_dim)
        self.options: dict[str, Any] = {
            "margin": margin,
            "weight": weight,
            "normalizer": normalizer,
            "reduction": reduction,
            "ignore_index": ignore_index,
            "normalize": normalize,
            "backend": backend,
        }

    def forward(
        self, embedding: Tensor, label: Tensor, weight: Tensor | None = None, offsets: Tensor | None = None
    ) -> Tensor:
        """The loss of `embedding` and `label`; `weight` replaces the module's, `offsets` packs images (rows only)."""
        rows = self._rows("embedding", embedding)
        labels = self._points(label, embedding)
        options = (
            self.options if weight is None else {**self.options, "weight": self._points(weight, embedding)}
        )
        return functional.pairwise_loss(rows, labels, offsets=offsets, **options)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        shown = {**self.options, "channel_dim": self.channel_dim}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


class MeanShift(_OverRows):
    """`rpe_ops.mean_shift` as a module.

    Args:
        kappa, bandwidth, eta: as in the function. An `nn.Parameter` is registered and learned.
        num_steps, tol, normalize, return_trajectory, backend: as in the function.
        channel_dim: None: rows. 1: feature maps `[B, D, H, W]`; the result has the same layout.
    """

    def __init__(
        self,
        kappa: float | Tensor | None = None,
        *,
        bandwidth: float | Tensor | None = None,
        eta: float | Tensor = 1.0,
        num_steps: int = 1,
        tol: float = 0.0,
        normalize: bool = True,
        return_trajectory: bool = False,
        channel_dim: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        validate.concentration("MeanShift", kappa, bandwidth)
        validate.scalar("MeanShift", "eta", eta, lowest=0.0)
        validate.step_count("MeanShift", num_steps)
        validate.tolerance("MeanShift", tol)
        validate.flag("MeanShift", "normalize", normalize)
        validate.flag("MeanShift", "return_trajectory", return_trajectory)
        dispatch.check_name("MeanShift", backend)
        for name, value in (("kappa", kappa), ("bandwidth", bandwidth), ("eta", eta)):
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.channel_dim = validate.channel_dim("MeanShift", channel_dim)
        self.return_trajectory = return_trajectory
        self.options: dict[str, Any] = {
            "num_steps": num_steps,
            "tol": tol,
            "normalize": normalize,
            "backend": backend,
        }

    def forward(
        self,
        embedding: Tensor,
        seeds: Tensor | None = None,
        weight: Tensor | None = None,
        offsets: Tensor | None = None,
        seed_offsets: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Moved points in the layout of `embedding`, or moved `seeds` (always rows)."""
        moved = functional.mean_shift(
            self._rows("embedding", embedding),
            kappa=self.kappa,  # type: ignore[arg-type]
            bandwidth=self.bandwidth,  # type: ignore[arg-type]
            eta=self.eta,  # type: ignore[arg-type]
            seeds=seeds,
            weight=self._points(weight, embedding),
            offsets=offsets,
            seed_offsets=seed_offsets,
            return_trajectory=self.return_trajectory,
            **self.options,
        )
        if self.channel_dim is None or seeds is not None:
            return moved
        if isinstance(moved, list):
            return [self._features(step, embedding) for step in moved]
        return self._features(moved, embedding)

    def _features(self, rows: Tensor, like: Tensor) -> Tensor:
        """`[B, N, D]` back to the layout of the feature map `like`."""
        assert self.channel_dim is not None
        return rows.reshape(like.movedim(self.channel_dim, -1).shape).movedim(-1, self.channel_dim)

    def extra_repr(self) -> str:
        # both, whichever was given: papers quote one or the other
        kappa: Any = self.bandwidth**-2 if self.kappa is None else self.kappa
        shown = {
            "kappa": kappa,
            "bandwidth": kappa**-0.5,
            "eta": self.eta,
            **self.options,
            "channel_dim": self.channel_dim,
        }
        return ", ".join(f"{name}={_shown(value)}" for name, value in shown.items())


def _shown(value: Any) -> str:
    """A setting as text; of a tensor its number, where it has one to read."""
    if isinstance(value, Tensor):
        return repr(value.item()) if validate.can_read(value) else f"a tensor on {value.device}"
    return repr(value)
