"""Random views: sizes, determinism, padding, and that image and label always move together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rpe.data import (
    IGNORE,
    DataError,
    RandomCrop,
    Sample,
    augment,
    collate,
    open_dataset,
    sample_generator,
    split_components,
)
from rpe.data.rotation import rotate

PLAIN = {"brightness": 0.0, "contrast": 0.0, "colour": 0.0}


def coded(height: int, width: int) -> Sample:
    """An image whose red channel tells the label of each pixel: label = 1000 * red."""
    label = torch.arange(1, height * width + 1).reshape(height, width)
    image = torch.stack([label / 1000, torch.zeros(height, width), torch.ones(height, width)])
    return Sample(image, label, "coded", "kind")


@pytest.mark.parametrize("size", [(7, 11), (11, 7), (9, 9), (20, 5), (40, 40)])
@pytest.mark.parametrize("index", range(6))
def test_image_and_label_move_together(size: tuple[int, int], index: int) -> None:
    sample = coded(13, 17)
    view = augment(sample, size, sample_generator(0, 0, index), **PLAIN)
    assert view.size == size and view.name == "coded" and view.kind == "kind"
    inside = view.label != IGNORE
    torch.testing.assert_close((view.image[0] * 1000).round().long()[inside], view.label[inside])
    assert int(inside.sum()) >= min(size[0], 13, 17) * min(size[1], 13, 17)
    assert int(sample.label.min()) == 1


@pytest.mark.parametrize("index", range(8))
def test_all_maps_move_together(index: int) -> None:
    """Semantic map, annotation and boundary are functions of the label, before and after."""
    plain = coded(40, 30)
    sample = replace(
        plain, semantic=plain.label % 7, annotations=(-2 - plain.label,), boundaries=(plain.label % 2 == 1,)
    )
    view = augment(sample, (24, 20), sample_generator(0, 0, index), rotation=180, scale=(0.5, 2))
    assert view.semantic is not None
    inside = view.label != IGNORE
    assert torch.equal(view.semantic, torch.where(inside, view.label % 7, IGNORE))
    assert torch.equal(view.annotations[0], torch.where(inside, -2 - view.label, IGNORE))
    assert torch.equal(view.boundaries[0], inside & (view.label % 2 == 1))
    assert set(view.label.unique().tolist()) <= {IGNORE, *range(1, 1201)}
    assert all(values.is_contiguous() for values in (view.image, view.label, view.semantic))


@pytest.mark.parametrize("degrees", [0.0, 13.0, 45.0, 90.0, -90.0, 117.0, 180.0])
def test_rotation_of_image_and_label_agree(degrees: float) -> None:
    """The image holds each pixel's own place, which bilinear interpolation keeps exactly; the label the nearest one."""
    size = (61, 47)
    row, column = torch.meshgrid(*(torch.arange(float(length)) for length in size), indexing="ij")
    place = torch.stack([row, column, torch.zeros(size)])
    sample = Sample(place, (row * 100 + column).long(), "places")
    turned = rotate(sample, math.radians(degrees), (25, 19))
    found = torch.stack([turned.label // 100, turned.label % 100])
    assert bool((turned.label != IGNORE).all())
    assert float((found - turned.image[:2]).abs().max()) <= 0.5 + 1e-4
    assert turned.image[:2, 12, 9].tolist() == pytest.approx([30, 23], abs=1e-4)
    right = turned.image[:2, 12, 10] - turned.image[:2, 12, 9]
    angle = math.radians(degrees)
    assert right.tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-4)


def test_rotation_by_a_right_angle_is_a_quarter_turn() -> None:
    sample = coded(9, 9)
    turned = rotate(sample, math.pi / 2, (9, 9))
    assert torch.equal(turned.label, torch.rot90(sample.label))
    torch.testing.assert_close(turned.image, torch.rot90(sample.image, dims=(1, 2)))


def test_outside_of_a_rotated_sample() -> None:
    sample = Sample(torch.full((3, 4, 4), 0.5), torch.ones(4, 4, dtype=torch.int64), "small")
    turned = rotate(sample, math.pi / 4, (10, 10))
    assert int(turned.label[0, 0]) == IGNORE and int(turned.label[5, 5]) == 1
    torch.testing.assert_close(turned.image, torch.full((3, 10, 10), 0.5))


@pytest.mark.parametrize("index", range(6))
def test_a_rotated_crop_has_no_empty_corners(index: int) -> None:
    view = augment(coded(64, 64), (20, 30), sample_generator(0, 0, index), rotation=180, scale=(1, 2))
    assert view.size == (20, 30) and bool((view.label != IGNORE).all())


def test_mirroring_left_to_right_alone() -> None:
    sample = coded(4, 4)
    corners = {
        int(
            augment(
                sample, 4, sample_generator(1, 0, k), flip="horizontal", quarter_turns=False, **PLAIN
            ).label[0, 0]
        )
        for k in range(20)
    }
    assert corners == {1, 4}


def test_parts_of_a_cut_instance_keep_their_class() -> None:
    label = torch.tensor([[5, 0, 5, 5, 2]])
    sample = Sample(torch.zeros(3, 1, 5), label, "a", instance_class={5: 3, 2: 1})
    view = augment(sample, (1, 5), sample_generator(0, 0, 0), flip="none", quarter_turns=False, split=True)
    assert view.label.tolist() == [[6, 0, 5, 5, 2]] and view.instance_class == {6: 3, 5: 3, 2: 1}


def test_every_orientation_occurs() -> None:
    sample = coded(4, 4)
    corners = {
        (int(view.label[0, 0]), int(view.label[0, -1]))
        for view in (augment(sample, 4, sample_generator(1, 0, index), **PLAIN) for index in range(80))
    }
    assert len(corners) == 8
    still = augment(sample, 4, sample_generator(1, 0, 0), flip="none", quarter_turns=False, **PLAIN)
    assert torch.equal(still.label, sample.label)
    torch.testing.assert_close(still.image, sample.image)


def test_same_generator_same_view() -> None:
    sample = open_dataset("synthetic:num_images=1,size=48")[0]
    options = {"scale": (0.5, 2.0), "split": True, "min_pixels": 4}
    first, again, other = (
        augment(sample, 32, sample_generator(3, 1, index), **options) for index in (5, 5, 6)
    )
    assert torch.equal(first.image, again.image) and torch.equal(first.label, again.label)
    assert not torch.equal(first.image, other.image)
    assert 0 <= first.image.min() and first.image.max() <= 1


def test_state_of_the_generator_resumes() -> None:
    sample = open_dataset("synthetic:num_images=1,size=48")[0]
    generator = torch.Generator().manual_seed(2)
    augment(sample, 32, generator)
    state = generator.get_state()
    expected = augment(sample, 32, generator)
    resumed = torch.Generator()
    resumed.set_state(state)
    assert torch.equal(augment(sample, 32, resumed).image, expected.image)


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    augment(coded(8, 8), 4, sample_generator(0, 0, 0), scale=(0.5, 2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_padding_is_ignored_and_repeats_the_border() -> None:
    sample = Sample(torch.full((3, 2, 3), 0.25), torch.ones(2, 3, dtype=torch.int64), "small")
    view = RandomCrop(5, 4)(sample, sample_generator(0, 0, 0))
    assert view.size == (5, 4) and torch.all(view.image == 0.25)
    assert int((view.label == 1).sum()) == 6 and int((view.label == IGNORE).sum()) == 14


def test_crop_of_one_pixel_image() -> None:
    sample = Sample(torch.full((3, 1, 1), 0.5), torch.ones(1, 1, dtype=torch.int64), "dot")
    assert augment(sample, (6, 3), sample_generator(0, 0, 0), scale=(0.5, 4)).size == (6, 3)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_zoom_changes_areas_and_invents_no_label(scale: float) -> None:
    label = torch.zeros(64, 64, dtype=torch.int64)
    label[24:40, 24:40] = 7
    sample = Sample(label.float().div(7).expand(3, 64, 64).contiguous(), label, "square")
    view = augment(sample, 128, sample_generator(0, 0, 0), scale=(scale, scale), **PLAIN)
    assert set(view.label.unique().tolist()) <= {IGNORE, 0, 7}
    assert int((view.label == 7).sum()) == pytest.approx(256 * scale**2, rel=0.05)
    assert float(view.image[0][view.label == 7].mean()) > 0.85


def test_colour_jitter_leaves_labels_alone() -> None:
    sample = open_dataset("synthetic:num_images=1,size=32")[0]
    view = augment(sample, 32, sample_generator(0, 0, 3), flip="none", quarter_turns=False)
    assert torch.equal(view.label, sample.label) and not torch.equal(view.image, sample.image)


@pytest.mark.parametrize("large", [1, 10**6])
def test_slivers_become_ignored(large: int) -> None:
    label = torch.tensor([[1, 1, 1, 2 * large], [0, IGNORE, 3 * large, 3 * large]])
    view = augment(
        Sample(torch.zeros(3, 2, 4), label, "a"),
        (2, 4),
        sample_generator(0, 0, 0),
        flip="none",
        quarter_turns=False,
        min_pixels=2,
    )
    assert view.label.tolist() == [[1, 1, 1, IGNORE], [0, IGNORE, 3 * large, 3 * large]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (2.0, 1.0)}, "scale"),
        ({"brightness": 1.0}, "brightness"),
        ({"colour": -0.1}, "colour"),
        ({"flip": True}, "flip must be"),
        ({"rotation": 200}, "rotation must lie"),
    ],
)
def test_senseless_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augment(coded(4, 4), 4, sample_generator(0, 0, 0), **options)
    with pytest.raises(ValueError, match="positive size"):
        RandomCrop(0, 4)


def test_split_components() -> None:
    label = torch.tensor(
        [
            [5, 0, 5, 5, -1],
            [0, 0, 5, 5, -1],
            [2, 2, 0, 0, -1],
            [0, 0, 2, 0, 5],
        ]
    )
    split = split_components(label)
    assert split.tolist() == [
        [6, 0, 5, 5, -1],
        [0, 0, 5, 5, -1],
        [2, 2, 0, 0, -1],
        [0, 0, 2, 0, 7],
    ]
    assert split_components(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)
    without_background = split_components(torch.tensor([[0, 1, 0]]), background=None)
    assert without_background.tolist() == [[0, 1, 2]]


def test_collate() -> None:
    batch = collate([coded(3, 4), coded(3, 4)])
    assert batch.image.shape == (2, 3, 3, 4) and batch.label.shape == (2, 3, 4)
    assert batch.names == ("coded", "coded") and batch.kinds == ("kind", "kind")
    assert batch.semantic is None
    classed = replace(coded(3, 4), semantic=torch.ones(3, 4, dtype=torch.int64))
    stacked = collate([classed, classed]).semantic
    assert stacked is not None and stacked.shape == (2, 3, 4)
    with pytest.raises(DataError, match="2 sizes"):
        collate([coded(3, 4), coded(4, 3)])


def test_sample_refuses_other_shapes() -> None:
    image, label = torch.zeros(3, 2, 2), torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"image must be float32 \[3, H, W\]"):
        Sample(image.double(), label, "a")
    with pytest.raises(ValueError, match=r"label must be int64 \[2, 2\]"):
        Sample(image, label[:1], "a")
    with pytest.raises(ValueError, match=r"semantic must be int64 \[2, 2\], got torch.int32"):
        Sample(image, label, "a", semantic=label.int())
    with pytest.raises(ValueError, match=r"every annotation must be int64 \[2, 2\]"):
        Sample(image, label, "a", annotations=(label, label[:1]))
    with pytest.raises(ValueError, match=r"every boundary must be bool \[2, 2\]"):
        Sample(image, label, "a", boundaries=(label,))
