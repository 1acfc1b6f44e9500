"""The user's mistakes: every ValueError and TypeError of the operators.

Each message names the function, the argument, what was expected, what came, and the remedy. Shapes, dtypes and devices
are always checked; values of tensors (offsets, weights, kappa) only where they can be read at once: not under
`torch.compile`, `torch.func.vmap` or CUDA graph capture.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from rpe_ops.autocast import autocast_is_on

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LAYOUT = "[N, D], [B, N, D] or [T, D] with offsets"


def describe(value: Any) -> str:
    """How a value is named in a message: `float32 [3, 64]` for a tensor, else its type and text."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def embedding_rows(
    function: str, embedding: Any, offsets: Any, *, name: str = "embedding", offsets_name: str = "offsets"
) -> None:
    """`embedding` must be a floating tensor of rows, `offsets` must fit it."""
    layout = _LAYOUT.replace("offsets", offsets_name)
    expected = f"{function}: {name} must be a floating tensor {layout}, got"
    module = {"pairwise_loss": "PairwiseLoss", "mean_shift": "MeanShift"}.get(function)
    if module and name == "embedding":
        remedy = f"for feature maps use rpe_ops.nn.{module}(channel_dim=1)"
    else:
        remedy = f"of feature maps [B, D, H, W] give the rows {name}.flatten(2).mT"
    if not isinstance(embedding, Tensor):
        raise TypeError(f"{expected} {describe(embedding)}; convert it with torch.as_tensor")
    if embedding.dtype not in FLOATING:
        hint = remedy if embedding.ndim > 3 else "use float16, bfloat16, float32 or float64"
        raise TypeError(f"{expected} {describe(embedding)}; {hint}")
    if embedding.is_nested:
        raise TypeError(
            f"{expected} a nested tensor; make it one of layout torch.jagged, and give {name}.values() and "
            f"{offsets_name}={name}.offsets()"
        )
    _dense(expected, embedding)
    if embedding.ndim not in (2, 3):
        raise ValueError(f"{expected} {describe(embedding)}; {remedy}")
    if embedding.shape[-1] == 0:
        raise ValueError(f"{expected} {describe(embedding)}; D, the last dimension, must be at least 1")
    if offsets is None:
        return
    _check_offsets(function, offsets, offsets_name, embedding, name)


def _check_offsets(function: str, offsets: Any, offsets_name: str, rows: Tensor, rows_name: str) -> None:
    num_rows = rows.shape[0]
    expected = f"{function}: {offsets_name} must be an integer tensor [B+1] that rises from 0 to {num_rows}, "
    remedy = f"give the first row of each image and then the number of rows of {rows_name}"
    if not isinstance(offsets, Tensor):
        raise TypeError(f"{expected}got {describe(offsets)}; convert it with torch.as_tensor")
    if offsets.is_floating_point() or offsets.is_complex() or offsets.dtype is torch.bool:
        raise TypeError(f"{expected}got {describe(offsets)}; {remedy}")
    if rows.ndim != 2:
        raise ValueError(
            f"{function}: {rows_name} must be [T, D] when {offsets_name} is given, got {describe(rows)}; "
            f"drop {offsets_name}, or flatten the images into one [T, D] tensor"
        )
    if offsets.ndim != 1 or offsets.shape[0] < 1:
        raise ValueError(f"{expected}got {describe(offsets)}; {remedy}")
    stays_in_capture(function, offsets_name, offsets, rows)
    if can_read(offsets):
        values = offsets.tolist()
        if (
            values[0] != 0
            or values[-1] != num_rows
            or any(a > b for a, b in zip(values, values[1:], strict=False))
        ):
            shown = values if len(values) <= 8 else [*values[:4], "...", *values[-3:]]
            raise ValueError(f"{expected}got {shown}; {remedy}")


def same_images(
    function: str,
    num_images: int,
    num_groups: int,
    *,
    name: str = "seeds",
    offsets_name: str = "seed_offsets",
) -> None:
    """Seeds (or modes) and embedding must have the same number of images."""
    if num_images != num_groups:
        raise ValueError(
            f"{function}: {name} must have one group for each image of embedding, got {num_groups} groups for "
            f"{num_images} images; give [B, M, D] {name} or {offsets_name} [B+1] for the same B"
        )


def labels(function: str, label: Any, embedding: Tensor) -> None:
    """`label` must be an integer tensor with the embedding's leading shape, on its device."""
    expected = f"{function}: label must be an integer tensor {list(embedding.shape[:-1])}, got"
    if not isinstance(label, Tensor):
        raise TypeError(f"{expected} {describe(label)}; convert it with torch.as_tensor")
    if label.is_floating_point() or label.is_complex():
        raise TypeError(f"{expected} {describe(label)}; instance ids are integers, call .long()")
    _dense(expected, label)
    if label.shape != embedding.shape[:-1]:
        raise ValueError(f"{expected} {describe(label)}; it needs one id for each row of embedding")
    same_device(function, "label", label, embedding)


def weights(function: str, weight: Any, like: Tensor, dtype: torch.dtype, *, may_require_grad: bool) -> None:
    """`weight` must be a non-negative floating tensor with the shape of `like` without D, whose values are finite in
    `dtype`, the one computed in."""
    shape = list(like.shape[:-1])
    expected = f"{function}: weight must be a non-negative floating tensor {shape}, got"
    if not isinstance(weight, Tensor):
        raise TypeError(f"{expected} {describe(weight)}; convert it with torch.as_tensor")
    if weight.dtype not in FLOATING:
        raise TypeError(f"{expected} {describe(weight)}; call .float()")
    _dense(expected, weight)
    if list(weight.shape) != shape:
        raise ValueError(f"{expected} {describe(weight)}; it needs one value for each row")
    if weight.requires_grad and not may_require_grad:
        raise ValueError(
            f"{function}: weight must not require grad (the loss is not differentiated in it), call .detach()"
        )
    same_device(function, "weight", weight, like)
    if can_read(weight) and weight.numel():
        lowest, highest = (float(bound) for bound in torch.aminmax(weight.detach()))
        if not (lowest >= 0 and math.isfinite(highest)):
            raise ValueError(
                f"{expected} values from {lowest:g} to {highest:g}; weights are finite and at least 0"
            )
        if highest > torch.finfo(dtype).max:
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"{function}: weight must fit {kind}, got values up to {highest:g}; divide it by its largest value, "
                "or give a float64 embedding"
            )


def _dense(expected: str, tensor: Tensor) -> None:
    if tensor.layout is not torch.strided:
        raise TypeError(f"{expected} a {tensor.layout} tensor; call .to_dense() first")


def optional_seeds(function: str, seed_rows: Any, embedding: Tensor, seed_offsets: Any) -> None:
    """None without offsets, or `seeds`."""
    if seed_rows is not None:
        seeds(function, seed_rows, embedding, seed_offsets)
    elif seed_offsets is not None:
        raise ValueError(f"{function}: seed_offsets was given without seeds; give seeds as well or drop it")


def seeds(
    function: str,
    rows: Any,
    embedding: Tensor,
    rows_offsets: Any,
    *,
    name: str = "seeds",
    offsets_name: str = "seed_offsets",
) -> None:
    """Seeds (or modes) must be rows of the embedding's dtype (under autocast of any), width and device."""
    embedding_rows(function, rows, rows_offsets, name=name, offsets_name=offsets_name)
    if rows.dtype != embedding.dtype and not autocast_is_on(embedding):
        raise TypeError(
            f"{function}: {name} must have the dtype of embedding, {embedding.dtype}, got {rows.dtype}; "
            f"call {name}.to(embedding.dtype)"
        )
    if rows.shape[-1] != embedding.shape[-1]:
        raise ValueError(
            f"{function}: {name} must have {embedding.shape[-1]} columns as embedding has, got {describe(rows)}; "
            f"{name} and embedding live on the same sphere"
        )
    same_device(function, name, rows, embedding)


def same_device(function: str, name: str, tensor: Tensor, embedding: Tensor) -> None:
    """`tensor` must be on the embedding's device."""
    if tensor.device != embedding.device:
        raise ValueError(
            f"{function}: {name} must be on the device of embedding, {embedding.device}, got {tensor.device}; "
            f"call {name}.to(embedding.device)"
        )


def stays_in_capture(function: str, name: str, value: Any, embedding: Tensor) -> None:
    """While a CUDA graph is captured nothing may come from the CPU: the copy would not be part of the graph."""
    if not (isinstance(value, Tensor) and embedding.is_cuda and not value.is_cuda):
        return
    if not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            f"{function}: {name} must be on {embedding.device} while a CUDA graph is captured, got a tensor on "
            f"{value.device}; call {name}.to(embedding.device) before the capture"
        )


def can_be_captured(function: str, embedding: Tensor, obstacle: str | None) -> None:
    """While a CUDA graph is captured nothing may wait for the device, as `obstacle`, where there is one, does."""
    if obstacle is None or not embedding.is_cuda or torch.compiler.is_compiling():
        return
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"{function}: a CUDA graph cannot capture {obstacle}")


def unit_interval(function: str, name: str, value: Any) -> float:
    """A number in [0, 1], on the similarity scale."""
    number = _number(function, name, value, "a number in [0, 1]")
    if not 0.0 <= number <= 1.0:
        raise ValueError(
            f"{function}: {name} must be in [0, 1], got {number:g}; it lies on the similarity s = (1 + cosine) / 2, "
            "where 0.5 is a right angle"
        )
    return number


def choice(function: str, name: str, value: Any, allowed: Collection[str], extra: str = "") -> None:
    """One of a few strings."""
    if not isinstance(value, str) or value not in allowed:
        names = ", ".join(repr(option) for option in allowed)
        raise ValueError(
            f"{function}: {name} must be one of {names}{extra}, got {describe(value)}; choose one of these"
        )


def flag(function: str, name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: {name} must be True or False, got {describe(value)}; give one of these")


def optional_integer(function: str, name: str, value: Any) -> int | None:
    """None or an integer."""
    if value is None:
        return None
    integer = _integer(value)
    if integer is None:
        raise TypeError(
            f"{function}: {name} must be an integer or None, got {describe(value)}; give one label value"
        )
    return integer


def channel_dim(function: str, value: Any) -> int | None:
    """None or the number of a dimension."""
    number = _integer(value)
    if value is not None and number is None:
        raise TypeError(
            f"{function}: channel_dim must be an integer or None, got {describe(value)}; use 1 for [B, D, H, W]"
        )
    return number


def step_count(function: str, value: Any) -> int:
    """A whole number of steps, 0 or more."""
    steps = _integer(value)
    if steps is None:
        raise TypeError(
            f"{function}: num_steps must be an integer, got {describe(value)}; give 0 or more steps"
        )
    if steps < 0:
        raise ValueError(f"{function}: num_steps must be at least 0, got {steps}; 0 only normalises")
    return steps


def floating_dtype(function: str, dtype: Any) -> None:
    """A dtype that an embedding may have."""
    if dtype not in FLOATING:
        names = ", ".join(str(known) for known in FLOATING)
        raise TypeError(
            f"{function}: dtype must be one of {names}, got {describe(dtype)}; choose one of these"
        )


def positive_count(function: str, name: str, value: Any, remedy: str) -> int:
    """A whole number, 1 or more."""
    count = _integer(value)
    if count is None:
        raise TypeError(f"{function}: {name} must be an integer, got {describe(value)}; {remedy}")
    if count < 1:
        raise ValueError(f"{function}: {name} must be at least 1, got {count}; {remedy}")
    return count


def row_numbers(function: str, name: str, value: Any, offsets: Tensor) -> None:
    """An integer, or an integer tensor `[B]`: a row within each image of `offsets [B+1]` that has any."""
    num_images = offsets.shape[0] - 1
    expected = f"{function}: {name} must be a row number or an integer tensor [{num_images}], one for each image, got"
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex() or value.dtype is torch.bool:
            raise TypeError(f"{expected} {describe(value)}; call .long()")
        if value.shape not in ((), (num_images,)):
            raise ValueError(f"{expected} {describe(value)}; rows are counted within their image")
    elif _integer(value) is None:
        raise TypeError(f"{expected} {describe(value)}; rows are counted within their image")
    elif _integer(value) < 0:  # type: ignore[operator]
        raise ValueError(f"{expected} {describe(value)}; rows are counted from 0 within their image")
    rows = torch.as_tensor(value)
    if can_read(offsets) and can_read(rows):
        lengths = offsets.diff().cpu()
        bad = ((rows.cpu() < 0) | (rows.cpu() >= lengths)) & (lengths > 0)
        if bool(bad.any()):
            image = int(bad.int().argmax())
            number = int(rows.expand(num_images)[image])
            raise ValueError(
                f"{function}: {name} must lie within each image, got row {number} for image {image}, which has "
                f"{int(lengths[image])} points; rows are counted from 0 within their image"
            )


def tolerance(function: str, value: Any) -> float:
    """A share of kernel mass in [0, 1)."""
    number = _number(function, "tol", value, "a number in [0, 1)")
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{function}: tol must be in [0, 1), got {number:g}; 0 is exact")
    return number


def concentration(function: str, kappa: Any, bandwidth: Any, dtype: torch.dtype | None = None) -> None:
    """Exactly one of kappa and bandwidth, positive, and kappa within the range of `dtype`, the one computed in."""
    if (kappa is None) == (bandwidth is None):
        state = "neither" if kappa is None else "both"
        raise ValueError(
            f"{function}: exactly one of kappa and bandwidth must be given, got {state}; "
            "kappa = 1 / bandwidth^2, rpe_ops.kappa_from_margin(margin) suggests one"
        )
    name, value = ("kappa", kappa) if bandwidth is None else ("bandwidth", bandwidth)
    number = scalar(function, name, value, lowest=0.0, exclusive=True)
    if number is None or dtype is None:
        return
    square = number * number
    implied = number if bandwidth is None else (1.0 / square if square > 0 else math.inf)
    if not torch.finfo(dtype).tiny * torch.finfo(dtype).eps <= implied <= torch.finfo(dtype).max:
        kind = str(dtype).removeprefix("torch.")
        meaning = "" if bandwidth is None else f", kappa = 1 / bandwidth^2 = {implied:g}"
        raise ValueError(
            f"{function}: {name} must be such that kappa fits {kind}, got {number:g}{meaning}; "
            "choose another value, or a float64 embedding"
        )


def scalar(
    function: str,
    name: str,
    value: Any,
    *,
    lowest: float,
    exclusive: bool = False,
    dtype: torch.dtype | None = None,
) -> float | None:
    """A float or a 0-d floating tensor, finite, at least (or above) `lowest` and within the range of `dtype`; its value
    where it can be read."""
    bound = f"{'above' if exclusive else 'at least'} {lowest:g}"
    if isinstance(value, Tensor):
        if value.ndim != 0 or value.dtype not in FLOATING:
            raise (ValueError if value.dtype in FLOATING else TypeError)(
                f"{function}: {name} must be a float or a 0-d floating tensor {bound}, got {describe(value)}; "
                "one value serves all points"
            )
        if not (value.device.type == "cpu" and can_read(value)):
            return None
        number = float(value.detach())
    else:
        number = _number(function, name, value, f"a float or a 0-d tensor {bound}")
    # compared, not asked math.isfinite, which torch.compile cannot trace for floats whose values change
    if not lowest <= number < math.inf or (exclusive and number == lowest):
        raise ValueError(
            f"{function}: {name} must be finite and {bound}, got {number:g}; choose a value in that range"
        )
    if dtype is not None and number > torch.finfo(dtype).max:
        kind = str(dtype).removeprefix("torch.")
        raise ValueError(f"{function}: {name} must fit {kind}, got {number:g}; choose a smaller value")
    return number


def can_read(tensor: Tensor) -> bool:
    """Whether the values of `tensor` can be looked at now without breaking a trace or a capture."""
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    if isinstance(tensor, torch._subclasses.FakeTensor):
        return False
    level = tensor
    while torch._C._functorch.is_functorch_wrapped_tensor(level):
        if torch._C._functorch.is_batchedtensor(level):
            return False
        level = torch._C._functorch.get_unwrapped(level)
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _number(function: str, name: str, value: Any, expected: str) -> float:
    # by type first: torch.compile traces numbers whose values change as symbols, which have no attributes to ask for
    is_number = isinstance(value, (int, float)) or hasattr(value, "__float__")
    if not is_number or isinstance(value, (bool, str, Tensor)):
        raise TypeError(f"{function}: {name} must be {expected}, got {describe(value)}; give a Python number")
    return float(value)


def _integer(value: Any) -> int | None:
    """`value` as an int if it is one (numpy's integers too), else None."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
