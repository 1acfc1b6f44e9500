"""From settings to modules: the one place where a `Config` becomes a network, its grouping and its objective."""

from __future__ import annotations

from typing import Any

from torch import nn

from .backbones import build_backbone
from .config import Config
from .grouping import RecurrentGrouping
from .model import RPE
from .objective import Objective
from .tasks import HEADS


def build_backbone_of(config: Config, in_channels: int, *, pretrained: bool = False) -> nn.Module:
    """The backbone that `config.model` names, for images of `in_channels` channels; with the weights that
    `model.pretrained` asks for where `pretrained` is set too.
    """
    settings = config.model
    options: dict[str, Any] = {
        "channels": settings.channels,
        "output_stride": settings.output_stride,
        "norm": settings.norm,
        "in_channels": in_channels,
    }
    if settings.atrous_stride:
        options["atrous_stride"] = settings.atrous_stride
    if settings.pretrained and pretrained:
        options["pretrained"] = True
    return build_backbone(settings.backbone, **options)


def build_model(config: Config, backbone: nn.Module | None = None, *, pretrained: bool = False) -> RPE:
    """The network that `config` describes, with fresh weights from PyTorch's global generator.

    Args:
        config: all settings; `model`, `grouping`, `objective.margin`, `training.recompute` and `backend` matter here.
        backbone: used in place of the registered `model.backbone`.
        pretrained: start the backbone from the weights that `model.pretrained` asks for; False where others follow.
    """
    settings = config.model
    if backbone is None:
        backbone = build_backbone_of(
            config, in_channels=3 + 4 * len(settings.position_periods), pretrained=pretrained
        )
    grouping = RecurrentGrouping(
        num_steps=config.grouping.num_steps,
        kappa=config.grouping.kappa,
        margin=config.objective.margin,
        eta=config.grouping.eta,
        learn_kappa=config.grouping.learn_kappa,
        backend=config.backend,
        recompute=config.training.recompute,
        tol=config.grouping.tol,
        training_tol=config.grouping.training_tol,
    )
    heads = HEADS[config.task]
    if heads.semantic and settings.num_classes < 2:
        raise ValueError(
            f"model.num_classes must be 2 or more for task = {config.task!r}, the background counted, "
            f"got {settings.num_classes}"
        )
    return RPE(
        backbone,
        dim=settings.dim,
        foreground=settings.foreground and heads.foreground,
        core=settings.core and heads.foreground,
        position_periods=settings.position_periods,
        rotation_periods=settings.rotation_periods,
        grouping=grouping,
        num_classes=settings.num_classes if heads.semantic else 0,
        boundary=heads.boundary,
    )


def build_objective(config: Config) -> Objective:
    """The losses that `config` describes."""
    return Objective(config.objective, backend=config.backend, pairs=HEADS[config.task].pairs)
