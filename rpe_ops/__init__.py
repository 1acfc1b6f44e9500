"""rpe_ops: fused operators for learning and grouping pixel embeddings.

`pairwise_loss`, `mean_shift` and `connected_components` compare every pixel with every other without an N x N tensor.
Importing builds nothing and needs no GPU, compiler or Triton.
"""

from rpe_ops import nn
from rpe_ops.config import show_config
from rpe_ops.dispatch import available_backends
from rpe_ops.functional import connected_components, mean_shift, pairwise_loss
from rpe_ops.margins import kappa_from_margin, suggest_margin
from rpe_ops.preparation import warmup
from rpe_ops.version import __version__

__all__ = [
    "__version__",
    "available_backends",
    "connected_components",
    "kappa_from_margin",
    "mean_shift",
    "nn",
    "pairwise_loss",
    "show_config",
    "suggest_margin",
    "warmup",
]
