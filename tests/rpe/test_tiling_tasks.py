"""Every task on large images: tiles give what the whole image gives, and memory beyond image and result is that of a
tile."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rpe import RPE, Config, Predictor, RecurrentGrouping
from rpe import predict as predict_module
from rpe.config import DecodeConfig, ModelConfig
from rpe.metrics import decode_mask
from seams import PALETTE, STRIDE, same_partition, seam_picture

TASKS = ("instance", "instance with a core", "proposals", "semantic", "semantic_instance", "boundary")
NUM_CLASSES = 1 + len(PALETTE)
SHADE = 0.6
"""Of rims, where objects have a core."""


class Colours(nn.Module):
    """A backbone without weights or context: the colours of 2 x 2 pixels, and the brightest of them."""

    out_channels, output_stride, total_stride = 4, STRIDE, STRIDE

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        colour = nn.functional.avg_pool2d(image, STRIDE, ceil_mode=True)
        return torch.cat([colour, colour.amax(dim=1, keepdim=True)], dim=1)


@torch.no_grad()
def set_head(head: nn.Module | None, weight: torch.Tensor, bias: torch.Tensor) -> None:
    assert isinstance(head, nn.Conv2d)
    head.weight.copy_(weight[:, :, None, None])
    head.bias.copy_(bias)  # type: ignore[union-attr]


@torch.no_grad()
def predictor(name: str, window: int = 0, dim: int = 3) -> Predictor:
    """A model of the task that knows colours: objects are not black, insides are bright, a class is a colour; three
    dimensions of its embedding say something."""
    task, core = name.removesuffix(" with a core"), name.endswith("core")
    torch.manual_seed(0)
    model = RPE(
        Colours(),
        dim=dim,
        foreground=task in ("instance", "proposals"),
        core=core,
        num_classes=NUM_CLASSES if task.startswith("semantic") else 0,
        boundary=task == "boundary",
        grouping=RecurrentGrouping(num_steps=1, kappa=20.0),
    )
    if model.embedding_head is not None:
        known = (torch.arange(dim) < 3).float()
        set_head(model.embedding_head, 2 * known[:, None] * torch.eye(dim, 4), -known)
    if model.foreground_head is not None:
        weight = torch.tensor([[0, 0, 0, 40.0]]).repeat(1 + core, 1)
        set_head(model.foreground_head, weight, torch.tensor([-10.0, -32.0])[: 1 + core])
    if model.semantic_head is not None:  # -20 times the square of the distance to each colour
        colours = torch.cat([torch.zeros(1, 3), PALETTE])
        weight = torch.cat([40 * colours, torch.zeros(NUM_CLASSES, 1)], dim=1)
        set_head(model.semantic_head, weight, -20 * colours.square().sum(1))
    if model.boundary_head is not None:  # half of a picture is boundary, whatever the weights
        boundary = model(seam_picture(64, 64, 64)[None]).boundary
        assert boundary is not None
        for head, logit in zip(
            (*model.boundary_head.classify, model.boundary_head.fuse), boundary[0], strict=True
        ):
            head[-1].bias.sub_(logit.median())  # type: ignore[index]
    rules = DecodeConfig(
        window=window,
        min_size=6,
        threshold=0.9,
        kappas=(10.0, 40.0),
        thresholds=(0.6, 0.9),
        max_proposals=400,
    )
    model_config = ModelConfig(dim=dim, num_classes=NUM_CLASSES, core=core)
    return Predictor(model, Config(task=task, model=model_config, decode=rules))  # type: ignore[arg-type]


def touching_pairs(height: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """An image of pairs of white rectangles that touch, with darker rims; and which rectangle each pixel is of."""
    label = np.zeros((height, width), dtype=np.int64)
    for row in range(8, height - 32, 44):
        for column in range(6, width - 50, 58):
            label[row : row + 30, column : column + 24] = label.max() + 1
            label[row : row + 30, column + 24 : column + 48] = label.max() + 1
    return with_rims(label), label


def touching_cells(height: int, width: int, seed: int) -> torch.Tensor:
    """A plane of white cells of some 12 pixels with darker rims, a quarter of them missing."""
    random = np.random.default_rng(seed)
    size = (height // STRIDE, width // STRIDE)
    middle = random.random((size[0] * size[1] // 36, 2)) * size
    place = np.stack(np.mgrid[: size[0], : size[1]], axis=-1)
    cell = np.square(place[:, :, None] - middle).sum(axis=-1).argmin(axis=-1)
    label = np.where(random.random(len(middle))[cell] < 0.25, 0, cell + 1)
    return with_rims(np.repeat(np.repeat(label, STRIDE, 0), STRIDE, 1))


def with_rims(label: np.ndarray) -> torch.Tensor:
    """An image of objects that are white inside and darker within a cell of another one."""
    height, width = label.shape
    padded = np.pad(label, STRIDE)
    inside = label > 0
    for down, across in ((0, 1), (2, 1), (1, 0), (1, 2)):
        down, across = down * STRIDE, across * STRIDE
        inside &= padded[down : down + height, across : across + width] == label
    shade = np.where(inside, 1.0, np.where(label > 0, SHADE, 0.0)).astype(np.float32)
    return torch.from_numpy(shade).expand(3, -1, -1).contiguous()


@pytest.mark.parametrize(("name", "window"), [*((name, 0) for name in TASKS), ("instance with a core", 8)])
def test_tiles_give_what_the_whole_image_gives(
    name: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = predictor(name, window)
    image, label = seam_picture(200, 230, 64), None
    if name.endswith("core"):
        image, label = touching_pairs(200, 230)
    whole = model.predict(image)
    monkeypatch.setattr(predict_module, "_TILE", 64)
    monkeypatch.setattr(predict_module, "_CONTEXT", 4)
    assert len(model._parts(200, 230)) >= 9
    tiled = model.predict(image)
    if label is not None:
        assert same_partition(whole.labels, label), "objects of one colour, told apart by their rims alone"
    if name == "proposals":
        assert whole.proposals is not None and tiled.proposals is not None
        assert len(whole.proposals) > 40
        masks = [{code["counts"] for code in found.proposals or ()} for found in (whole, tiled)]
        assert masks[0] == masks[1]
        for place in (0, 20):
            np.testing.assert_array_equal(tiled.masks()[place], decode_mask(tiled.proposals[place]))
    elif name == "semantic":
        np.testing.assert_array_equal(tiled.labels, whole.labels)
        assert len(np.unique(whole.labels)) == 7
    else:
        assert same_partition(tiled.labels, whole.labels) and whole.labels.max() > 10
    np.testing.assert_allclose(np.sort(tiled.scores), np.sort(whole.scores), atol=1e-5)
    np.testing.assert_allclose(tiled.embedding, whole.embedding, atol=1e-6)
    for field in ("classes", "semantic", "boundary", "boundary_depths"):
        one, other = getattr(tiled, field), getattr(whole, field)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=1e-6)
    assert model.predict(image, keep_embedding=False).embedding.size == 0


def test_the_largest_cluster_is_left_out_of_every_label_map(monkeypatch: pytest.MonkeyPatch) -> None:
    model = predictor("proposals")
    rules = replace(model.config.decode, kappas=(10.0,), thresholds=(0.9,), background="none")
    model.config = replace(model.config, decode=rules)
    image = seam_picture(200, 260, 64)
    monkeypatch.setattr(predict_module, "_TILE", 64)
    monkeypatch.setattr(predict_module, "_CONTEXT", 4)
    every = model.predict(image)
    model.config = replace(model.config, decode=replace(rules, background="largest"))
    found = model.predict(image)
    assert len(found.scores) == len(every.scores) - 1
    missing = every.masks()[~np.isin(every.masks().sum((1, 2)), found.masks().sum((1, 2)))]
    assert len(missing) == 1 and missing.sum() == every.masks().sum((1, 2)).max()


def test_cells_that_grow_against_each_other_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """On flat rims a tile and the whole image may part neighbours by a pixel otherwise: that must join nothing."""
    model = predictor("instance with a core")
    images = [touching_cells(150, 170, seed) for seed in range(3)]
    wholes = [model.predict(image).labels for image in images]
    monkeypatch.setattr(predict_module, "_TILE", 32)
    monkeypatch.setattr(predict_module, "_CONTEXT", 4)
    assert len(model._parts(150, 170)) == 30
    for image, whole in zip(images, wholes, strict=True):
        tiled = model.predict(image).labels
        assert whole.max() > 100 and tiled.max() == whole.max()
        shared = np.zeros((whole.max() + 1, whole.max() + 1), dtype=np.int64)
        np.add.at(shared, (whole.reshape(-1), tiled.reshape(-1)), 1)
        either = shared.sum(axis=0) + shared.sum(axis=1, keepdims=True) - shared
        assert ((shared / either)[1:, 1:].max(axis=1) > 0.5).all()


WIDTH, LOW, HIGH = 256, 512, 2048
PEAKS = """
import ctypes, gc, json, sys
import numpy as np, torch
sys.path[:0] = sys.argv[1:]
from test_tiling_tasks import HIGH, LOW, TASKS, WIDTH, predictor
from rpe import predict
predict._TILE, predict._CONTEXT = 128, 4
torch.set_num_threads(1)
trim = getattr(ctypes.CDLL(None), "malloc_trim", int)  # glibc: give back what is free

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def peak(model, height, side):
    squares = np.random.default_rng(0).integers(0, 2, (height // side, WIDTH // side, 3), dtype=np.uint8)
    image = np.kron(squares * 255, np.ones((side, side, 1), dtype=np.uint8))
    gc.collect()
    trim(0)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak becomes what is held now
    before = status("VmHWM")
    found = model.predict(image, keep_embedding=False, paint_embedding=True)
    return status("VmHWM") - before, len(found.scores)

found = {}
for name in TASKS:
    model = predictor(name, dim=32)
    side = 8 if name == "instance" else 16
    peak(model, LOW, side)
    found[name] = [peak(model, height, side) for height in (LOW, HIGH)]
print(json.dumps(found))
"""
IMAGE_BYTES = 12
"""Of a pixel: its tensor. The array is there before."""
PICTURE_BYTES = 1
"""Of a pixel: three of a cell of 2 x 2."""
RESULT_BYTES = {
    "instance": 4,
    "instance with a core": 4,
    "proposals": 4 + 3,  # label map, and one mask at a time while it is made
    "semantic": 4 + 8,
    "semantic_instance": 4 + 8,
    "boundary": 2 * 4 + 4 + 4 + 1,  # two depths, their mean, regions, and where there is no boundary
}
SPARE_BYTES = 16
"""Of a pixel: lists of objects (about 5), and what the allocator keeps (up to 5 more or less from run to run)."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_image_but_for_image_and_result() -> None:
    """256 columns, and 512 against 2,048 rows: what each more pixel costs at the peak. The embedding of the whole image
    would be 32 bytes more, its classes 64 once they are enlarged."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, *map(str, Path(__file__).parents[:2])],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["instance"][1][1] > 3_000, "thousands of objects"
    each = {name: (high[0] - low[0]) / (WIDTH * (HIGH - LOW)) for name, (low, high) in found.items()}
    allowed = {name: IMAGE_BYTES + PICTURE_BYTES + RESULT_BYTES[name] + SPARE_BYTES for name in TASKS}
    assert all(each[name] < allowed[name] for name in TASKS), (each, allowed)
