"""What `benchmarks/triton_resources.py` takes for a fault, and that a width has the pair kernels of its padded one."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import triton_resources
from triton_resources import WITHOUT_WGMMA, Resources

from rpe_ops import settings


def compiled(
    products: str, architecture: int = 90, width: int = 64, split: bool = False, **changed
) -> Resources:
    constants = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_D": width, "SPLIT": split}
    return Resources("hinge_kernel", architecture, constants, 4, 2, products=products, **changed)


@pytest.mark.parametrize(
    "row, fault",
    [
        (compiled("wgmma"), None),
        (compiled("mma.sync", 80), None),
        (compiled("mma.sync"), "multiplies by mma.sync, not by wgmma"),
        (compiled(""), "multiplies by nothing, not by wgmma"),
        (compiled("mma.sync", width=256, split=True), None),
        (compiled("wgmma", width=256, split=True), "WITHOUT_WGMMA should not name it"),
        (compiled("wgmma", spilled_bytes=8), "8 bytes spilled"),
        (compiled("", error="too large"), "too large"),
        (Resources("loss_finish_kernel", 90, {"D": 64, "BLOCK_M": 32, "BLOCK_D": 64}, 4, 1), None),
    ],
)
def test_faults(row, fault):
    found = list(row.faults)
    assert found == [] if fault is None else len(found) == 1 and fault in found[0]


@pytest.mark.skipif(settings.triton_interprets(), reason="TRITON_INTERPRET is set: Triton compiles nothing")
@pytest.mark.parametrize("half", [True, False])
def test_kernels_over_pairs_are_those_of_the_padded_width(monkeypatch, half):
    """So that what is compiled at 16, 32, ... says the same of every D."""
    for module, name in (  # `record` replaces them
        (triton_resources.launching, "launch"),
        (triton_resources.shapes, "architecture"),
        (triton_resources.mean_shift, "near_tiles"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))

    def over_pairs(dim: int) -> set:
        launches = set(triton_resources.record(90, dim, half))
        return {launch for launch in launches if "BLOCK_N" in dict(launch.constants)}

    try:
        for padded, dims in ((16, (1, 8)), (32, (23,)), (64, (33, 50)), (128, (100,)), (256, (129, 255))):
            expected = over_pairs(padded)
            assert len(expected) >= 10
            assert all(over_pairs(dim) == expected for dim in dims)
    finally:
        torch.use_deterministic_algorithms(False)


def test_exceptions_name_kernels_that_there_are():
    modules = (
        triton_resources.mean_shift,
        triton_resources.pairwise_loss,
        triton_resources.connected_components,
    )
    kernels = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert set(WITHOUT_WGMMA) <= kernels
