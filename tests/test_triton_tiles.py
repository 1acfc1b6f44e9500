"""The row tiles that Triton kernels find for themselves: every row of a ragged batch once, none across images."""

import pytest
import torch

from rpe_ops import settings

triton = pytest.importorskip("triton", reason="triton is not installed")
import triton.language as tl  # noqa: E402

from rpe_ops.backends.triton.kernels.tiles import row_tile, tiles_of_image  # noqa: E402
from rpe_ops.backends.triton.shapes import num_row_tiles  # noqa: E402

pytestmark = pytest.mark.skipif(
    not settings.triton_interprets() and not torch.cuda.is_available(),
    reason="Triton runs in its interpreter (TRITON_INTERPRET=1) or on a GPU",
)
HEIGHT = 64


@triton.jit(do_not_specialize=["num_images"])
def tile_kernel(offsets, tiles, num_images, HEIGHT: tl.constexpr):
    image, row, begin, end = row_tile(offsets, num_images, HEIGHT)
    first, last = tiles_of_image(offsets, image, HEIGHT)
    place = tiles + tl.program_id(0) * 6
    tl.store(place, image)
    tl.store(place + 1, row)
    tl.store(place + 2, begin)
    tl.store(place + 3, end)
    tl.store(place + 4, first)
    tl.store(place + 5, last)


@pytest.mark.parametrize(
    "lengths",
    [(5,), (64,), (200,), (0, 1, 0), (63, 64, 65, 0, 200), (0, 0, 0, 7), (1,) * 130, (64, 64, 64), (0,)],
)
def test_row_tiles_cover_every_row_once_and_no_image_border(lengths):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    offsets = torch.tensor([0, *lengths], device=device).cumsum(0)
    count = num_row_tiles(sum(lengths), len(lengths), HEIGHT)
    tiles = torch.empty(count, 6, dtype=torch.int32, device=device)
    tile_kernel[(count,)](offsets, tiles, len(lengths), HEIGHT=HEIGHT)
    covered = []
    for number, (image, row, begin, end, first, last) in enumerate(tiles.tolist()):
        assert [begin, end] == offsets[image : image + 2].tolist()
        assert (row < end) == (first <= number < last), (
            "an image's tiles with rows are those it is said to have"
        )
        if row < end:
            assert row >= begin and (row - begin) % HEIGHT == 0
            covered += range(row, min(row + HEIGHT, end))
    assert covered == list(range(sum(lengths)))
