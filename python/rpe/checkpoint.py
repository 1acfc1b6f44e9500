"""Checkpoints: one file with format, version, config, weights and, for resuming, everything that training's
next step depends on.
 Written to a temporary name and renamed, so a kill leaves the last one whole; read with `weights_only=True`.
It knows tensors and plain values; building models is `build.py`, choosing when to write is `train.py`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import rpe_ops

from .classes import Classes
from .config import Config
from .errors import UserError
from .settings import from_mapping, to_mapping

KIND = "rpe.checkpoint"
FORMAT = 1
"""Number of the layout; a reader refuses higher ones."""


def save_checkpoint(
    path: str | Path,
    config: Config,
    model: dict[str, Tensor],
    training: dict[str, Any] | None = None,
    classes: Classes | None = None,
) -> None:
    """Write a checkpoint atomically.

    Args:
        path: target; the temporary file stands beside it.
        config: settings that built the model.
        model: its state dict.
        training: optimiser, scheduler, step and random states; None for weights alone.
        classes: of the training data.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "kind": KIND,
        "format": FORMAT,
        "version": rpe_ops.__version__,
        "config": to_mapping(config),
        "model": {name: value.detach().cpu() for name, value in model.items()},
        "training": training,
        "classes": None if classes is None else classes.to_mapping(),
    }
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint written by `save_checkpoint`; its "config" comes back as a `Config`, its "classes" as
    `Classes`, which have no names where the file has none.

    Raises:
        UserError: no such file, not a checkpoint, one of another program, or of a newer format.
    """
    return _read(Path(path), mmap=False)


def read_config(path: str | Path) -> Config:
    """The settings of a checkpoint, in the time that they take: its weights are not read. Errors as those of
    `read_checkpoint`.
    """
    config: Config = _read(Path(path), mmap=True)["config"]
    return config


def _read(path: Path, *, mmap: bool) -> dict[str, Any]:
    """Content of a checkpoint; with `mmap` its tensors are read when they are used."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; `rpe train` writes model.pt into its output folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a checkpoint, or a damaged one ({reason}); give a file written by `rpe train`"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path}: a PyTorch file, but not a checkpoint of rpe; give a file written by `rpe train`"
        )
    if content["format"] > FORMAT:
        raise UserError(
            f"{path}: checkpoint format {content['format']}, written by rpe_ops {content['version']}; this version "
            f"({rpe_ops.__version__}) reads up to format {FORMAT}: upgrade rpe_ops"
        )
    content["classes"] = Classes.from_mapping(content.get("classes"))
    content["config"] = from_mapping(Config, content["config"], source=str(path))
    return content


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy a state dict into a model.

    Raises:
        UserError: the names or shapes do not fit: a checkpoint of another model.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        shown = " ".join(line[:200] for line in lines[:2])
        raise UserError(
            f"{source}: the weights are of another model: {shown} "
            "Use the backbone and the model settings they were trained with"
        ) from error


def random_state() -> dict[str, Any]:
    """States of the global generators of Python, NumPy and PyTorch, as plain values and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Inverse of `random_state`; states of CUDA devices that are not here are left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
