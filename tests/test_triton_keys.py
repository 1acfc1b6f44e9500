"""What Triton compiles a kernel for: never again for another number of rows, of images, or for other alignments.

Triton keeps a kernel for each key made of its arguments' types, of integers that are 1 or multiples of 16, of pointers
that are multiples of 16, and of constants. The keys here are those of Triton's own binder for the backend's launches;
nothing is compiled and no GPU is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import problems
from rpe_ops import settings
from rpe_ops.backends.tile_bounds import CHUNK
from rpe_ops.backends.tile_list import NearTiles

triton = pytest.importorskip("triton", reason="triton is not installed")

from rpe_ops.backends.triton import (  # noqa: E402
    connected_components,
    launching,
    mean_shift,
    pairwise_loss,
    shapes,
)
from rpe_ops.backends.triton.launching import compile_options  # noqa: E402

pytestmark = pytest.mark.skipif(
    settings.triton_interprets(), reason="TRITON_INTERPRET is set: Triton compiles nothing"
)
Keys = set[tuple[str, str]]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keys]:
    """(kernel, key) of every launch, instead of launches, as if for compute capability 9.0."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(GPUTarget("cuda", 90, 32))
    found: Keys = set()

    def record(kernel: Any, grid: object, shape: shapes.TileShape, *arguments: Any, **constants: Any) -> None:
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        _, specialization, options = binder(*arguments, **constants, **compile_options(shape))
        named = [f"{name}: {value}" for name, value in zip(kernel.arg_names, specialization, strict=True)]
        found.add((kernel.fn.__name__, f"{', '.join(named)}; {options}"))

    monkeypatch.setattr(launching, "launch", record)
    monkeypatch.setattr(shapes, "architecture", lambda device: 90)
    torch.use_deterministic_algorithms(True)  # fills what no kernel wrote: nothing is indexed with rubbish
    yield found
    torch.use_deterministic_algorithms(False)


def misaligned(values: Tensor) -> Tensor:
    """The same values, where no pointer is a multiple of 16."""
    view = values.new_empty(values.numel() + 1)[1:].view_as(values).copy_(values)
    assert view.is_contiguous() and view.data_ptr() % 16
    return view


def call_all(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], dim: int, half: bool, aligned: bool
) -> None:
    """Every kernel of every operator, for images of these lengths."""
    place = (lambda values: values) if aligned else misaligned
    count = sum(lengths)
    rows = place(problems.clustered(count, dim).float())
    weight, offsets = place(torch.ones(count)), place(torch.tensor([0, *lengths]).cumsum(0))
    kappa, eta = place(torch.tensor(9.0)), place(torch.tensor(0.5))
    mean, log_density = place(rows.clone()), place(torch.zeros(count))
    chunks = [-(-length // CHUNK) for length in lengths]
    near = NearTiles([torch.ones(size, size, dtype=torch.bool) for size in chunks], offsets, offsets)
    for chosen in (None, near):
        monkeypatch.setattr(mean_shift, "near_tiles", lambda *inputs, chosen=chosen: chosen)
        for sources, log_weight in ((None, None), (None, weight), (rows, None), (rows, weight)):
            inputs = (rows, sources, log_weight, kappa, eta, offsets, offsets)
            mean_shift.forward(*inputs, half, 0.0)
            mean_shift.backward(rows, *inputs, mean, log_density, True, half, 0.0)
    instance = place(torch.zeros(count, dtype=torch.int64))
    for with_gradient in (False, True):
        pairwise_loss.forward(rows, instance, weight, offsets, 0.5, with_gradient, half)
    if not half:
        connected_components.forward(rows, offsets, 0.9)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("dim", [5, 16, 256])
def test_no_other_number_of_rows_and_no_other_alignment_compiles_again(monkeypatch, keys, dim, half):
    call_all(monkeypatch, (1,), dim, half, aligned=True)
    first = frozenset(keys)
    kernels = {name for name, _ in first}
    assert {"mean_shift_forward_kernel", "column_backward_kernel", "hinge_kernel"} <= kernels
    for lengths, aligned in (((16,), True), ((1_000,), True), ((3, 0, 4_100), True), ((16, 1), False)):
        call_all(monkeypatch, lengths, dim, half, aligned)
        new = {f"{name}({key})" for name, key in keys - first}
        assert not new, f"images of {lengths} rows, {'' if aligned else 'not '}aligned: {new}"


def test_another_width_and_other_operands_are_other_kernels(monkeypatch, keys):
    """The keys tell kernels apart at all."""
    call_all(monkeypatch, (100,), 16, True, aligned=True)
    count = len(keys)
    call_all(monkeypatch, (100,), 32, True, aligned=True)
    assert len(keys) > 1.5 * count
    count = len(keys)
    call_all(monkeypatch, (100,), 32, False, aligned=True)
    assert len(keys) > count
