"""The registry of backbones: a name and options in, a module that maps images to one feature map out.

A backbone is any `nn.Module` with two integer attributes, `out_channels` and `output_stride`, whose forward
maps `[B, 3, H, W]` to `[B, out_channels, ceil(H / output_stride), ceil(W / output_stride)]`. One with several depths
has `levels(image)`, its maps finest first, and `level_channels`. Optional: `total_stride`, pixels by which images may
be shifted without a change, and `reach`, pixels around a place that tiles of large images show it (else measured).
Heads, losses and data are not its business.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from .resnet_fpn import ResNetFPN
from .timm_pyramid import TimmPyramid
from .unet import UNet

_REGISTRY: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "resnet_fpn": ResNetFPN}


def names() -> list[str]:
    """The names `build_backbone` knows, sorted."""
    return sorted(_REGISTRY)


def register_backbone(name: str, builder: Callable[..., nn.Module]) -> None:
    """Make a backbone available to configs as `model.backbone = name`.

    Args:
        name: a name that is not taken.
        builder: called with `channels`, `output_stride`, `norm` and `in_channels` from the config, and with
            `atrous_stride` and `pretrained` where they are set; returns the module.
    """
    if name in _REGISTRY:
        raise ValueError(f"register_backbone: name {name!r} is taken; choose another one")
    _REGISTRY[name] = builder


def build_backbone(name: str, **options: Any) -> nn.Module:
    """Build a registered backbone, or timm's encoder X with a pyramid for the name "timm:X".

    Raises:
        ValueError: if the name is unknown (the nearest one is named) or the options do not fit.
    """
    prefix, _, encoder = name.partition(":")
    if prefix == "timm" and encoder:
        return TimmPyramid(encoder, **options)
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"model.backbone: {name!r} is not one of {names()} or timm:NAME{hint}")
    for option in options:
        if not _takes(_REGISTRY[name], option):
            known = {**dict(sorted(_REGISTRY.items())), "timm:NAME": TimmPyramid}
            others = [other for other, builder in known.items() if _takes(builder, option)]
            hint = f", or take a model.backbone that has it: {', '.join(others)}" if others else ""
            raise ValueError(f"model.{option}: the backbone {name!r} has no such option; leave it out{hint}")
    return _REGISTRY[name](**options)


def _takes(builder: Callable[..., nn.Module], option: str) -> bool:
    """Whether a builder has a parameter of that name, or takes any."""
    parameters = inspect.signature(builder).parameters
    return option in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


__all__ = ["ResNetFPN", "TimmPyramid", "UNet", "build_backbone", "names", "register_backbone"]
