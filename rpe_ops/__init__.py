"""rpe_ops: fused operators for learning and grouping pixel embeddings.

`pairwise_loss`, `mean_shift` and `connected_components` compare every pixel with every other without an N x N tensor.
Importing builds nothing and needs no GPU, compiler or Triton.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rpe_ops import nn
from rpe_ops.config import show_config
from rpe_ops.dispatch import available_backends
from rpe_ops.functional import connected_components, mean_shift, pairwise_loss
from rpe_ops.margins import kappa_from_margin, suggest_margin
from rpe_ops.preparation import warmup
from rpe_ops.seeding import assign_to_modes, select_seeds
from rpe_ops.version import __version__

if TYPE_CHECKING:
    from rpe_ops.estimator import MeanShift

__all__ = [
    "MeanShift",
    "__version__",
    "assign_to_modes",
    "available_backends",
    "connected_components",
    "kappa_from_margin",
    "mean_shift",
    "nn",
    "pairwise_loss",
    "select_seeds",
    "show_config",
    "suggest_margin",
    "warmup",
]


def __getattr__(name: str) -> Any:
    """`MeanShift` is loaded when it is first asked for: importing scikit-learn takes a second."""
    if name == "MeanShift":
        return importlib.import_module("rpe_ops.estimator").MeanShift
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is there, `MeanShift` included before it is loaded."""
    return sorted({*globals(), *__all__})
