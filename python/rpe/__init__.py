"""rpe: instance segmentation by recurrent pixel embedding, a thin package over `rpe_ops`.

    model = rpe.load("model.pt")
    result = model.predict("image.png")     # .labels, .scores, .masks(), .embedding

`rpe.RPE` is an ordinary `nn.Module`; settings are `rpe.Config`, the command line is `rpe`.
"""

from __future__ import annotations

try:
    from .backbones import build_backbone, register_backbone
    from .build import build_model, build_objective
    from .config import Config
    from .errors import UserError
    from .grouping import RecurrentGrouping
    from .model import RPE
    from .objective import Objective
    from .predict import Prediction, Predictor, load
    from .settings import load_config
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"rpe needs {error.name}, which is not installed: pip install 'rpe-ops[train]'", name=error.name
    ) from error

__all__ = [
    "RPE",
    "Config",
    "Objective",
    "Prediction",
    "Predictor",
    "RecurrentGrouping",
    "UserError",
    "build_backbone",
    "build_model",
    "build_objective",
    "load",
    "load_config",
    "register_backbone",
]
