"""The range of every setting, checked before anything runs; types are `settings.py`'s.

A setting that is not listed takes any value of its type.
"""

from __future__ import annotations

import math

import rpe_ops

from .config import Config
from .errors import UserError
from .settings import flatten, to_mapping

# Setting -> smallest and largest value; infinity means no bound.
LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "data.crop": (1, math.inf),
    "data.rotation": (0, 180),
    "data.brightness": (0, 0.99),
    "data.contrast": (0, 0.99),
    "data.colour": (0, 0.99),
    "data.gamma": (0, math.inf),
    "data.noise": (0, math.inf),
    "data.min_pixels": (0, math.inf),
    "data.balance": (0, 1),
    "model.output_stride": (1, math.inf),
    "model.dim": (1, math.inf),
    "model.num_classes": (0, 2**16 - 1),
    "grouping.num_steps": (0, math.inf),
    "grouping.eta": (0, math.inf),
    "grouping.tol": (0, 0.5),
    "grouping.training_tol": (0, 0.5),
    "objective.margin": (0, 1),
    "objective.window": (0, math.inf),
    "objective.max_points": (0, math.inf),
    "objective.embedding_weight": (0, math.inf),
    "objective.foreground_weight": (0, math.inf),
    "objective.semantic_weight": (0, math.inf),
    "objective.boundary_weight": (0, math.inf),
    "decode.foreground_threshold": (0, 1),
    "decode.core_threshold": (0, 1),
    "decode.num_steps": (0, math.inf),
    "decode.tol": (0, 0.5),
    "decode.threshold": (0, 1),
    "decode.window": (0, math.inf),
    "decode.min_size": (0, math.inf),
    "decode.duplicate_iou": (0, 1),
    "decode.max_proposals": (1, math.inf),
    "training.steps": (1, math.inf),
    "training.batch_size": (1, math.inf),
    "training.accumulate": (1, math.inf),
    "training.learning_rate": (0, math.inf),
    "training.weight_decay": (0, math.inf),
    "training.warmup": (0, 1),
    "training.power": (0, math.inf),
    "training.clip": (0, math.inf),
    "training.workers": (0, math.inf),
    "training.threads": (0, math.inf),
    "training.log_every": (1, math.inf),
    "training.checkpoint_every": (1, math.inf),
}


def check_limits(config: Config) -> None:
    """Raise `UserError` for the first setting outside its range, or a backend that cannot run here. None, "not set", is
    inside every range."""
    values = flatten(to_mapping(config))
    for name, (lowest, highest) in LIMITS.items():
        value = values[name]
        if value is not None and not lowest <= value <= highest:
            bound = f"at least {lowest:g}" if math.isinf(highest) else f"between {lowest:g} and {highest:g}"
            raise UserError(
                f"{name} must be {bound}, got {value!r}: change it in the config or on the command line"
            )
    low, high = config.data.scale
    if not 0 < low <= high < math.inf:
        raise UserError(
            f"data.scale must be a range [low, high] with 0 < low <= high, got [{low:g}, {high:g}]: "
            "change it in the config or on the command line"
        )
    for name in ("model.position_periods", "model.rotation_periods", "decode.kappas"):
        if not all(0 < value < math.inf for value in values[name]):
            raise UserError(f"{name} must be above 0, got {list(values[name])}: change it in the config")
    if not all(0 <= value <= 1 for value in config.decode.thresholds):
        raise UserError(f"decode.thresholds must be between 0 and 1, got {list(config.decode.thresholds)}")
    if (
        config.task in ("instance", "proposals")
        and config.decode.background == "head"
        and not config.model.foreground
    ):
        raise UserError(
            "decode.background is 'head' but model.foreground is false; "
            "set it, or decode.background = 'largest' or 'none'"
        )
    reasons = rpe_ops.available_backends()
    if config.backend != "auto" and (config.backend not in reasons or reasons[config.backend] is not None):
        raise UserError(
            f"backend must be 'auto' or one that runs here, got {config.backend!r} "
            f"({reasons.get(config.backend, 'no such backend')}): leave it out to take the fastest"
        )
