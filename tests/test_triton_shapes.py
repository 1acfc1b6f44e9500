"""How the Triton backend cuts its work: splits, the tables. No Triton is needed."""

import pytest
import torch

from rpe_ops.backends.triton import shapes
from rpe_ops.backends.triton.shapes import TileShape

CPU = torch.device("cpu")
TABLES = {"portable": shapes._PORTABLE, "hopper": shapes._HOPPER}


@pytest.mark.parametrize("points", [1, 100, 4_096, 65_536])
def test_splits_follow_shapes_alone_and_never_outnumber_the_work(points):
    shape = TileShape(64, 64, 4, 2)
    tiles = -(-points // shape.rows)
    rows, offsets = torch.zeros(points, 3), torch.tensor([0, points])
    splits = shapes.num_splits(tiles, rows, offsets, shape)
    assert splits == shapes.num_splits(tiles, rows + 1.0, offsets, shape)
    assert 1 <= splits <= max(1, -(-points // shape.columns))


@pytest.mark.parametrize(
    "dim, width", [(1, 16), (8, 16), (16, 16), (17, 32), (64, 64), (100, 128), (256, 256)]
)
def test_width_of_a_tile(dim, width):
    assert shapes.block_dim(dim) == width


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_tables_hold_tiles_that_matrix_products_can_have(table):
    for tiles in table.values():
        assert len(tiles) == 4
        for shape in tiles:
            assert shape.rows >= 16 and shape.columns >= 16 and shape.warps in (4, 8) and shape.stages >= 1


@pytest.mark.parametrize("architecture", [80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("dim", [3, 32, 33, 64, 65, 128, 129, 256])
def test_every_architecture_and_width_has_a_tile(monkeypatch, architecture, dim):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(shapes, "architecture", lambda device: architecture)
    table = TABLES["hopper" if architecture == 90 else "portable"]
    column = 0 if dim <= 32 else 1 if dim <= 64 else 2 if dim <= 128 else 3
    for half in (True, False):
        for kernel in ("mean_shift_forward", "mean_shift_backward"):
            assert shapes.tile_shape(kernel, dim, half, CPU) == table[kernel, half][column]
        assert shapes.tile_shape("pairwise_loss", dim, half, CPU) == table["mean_shift_forward", half][column]
