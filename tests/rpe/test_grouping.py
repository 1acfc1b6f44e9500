"""Grouping and decoding on embeddings whose objects are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import rpe_ops
from rpe import tasks
from rpe.config import DecodeConfig
from rpe.decode import decode, trajectory
from rpe.grouping import RecurrentGrouping
from rpe.model import Output


def toy(noise: float = 0.0, size: int = 24) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.int64]]:
    """Embedding [4, size, size], foreground logits and label map of three objects; two far apart share one code."""
    label = np.zeros((size, size), dtype=np.int64)
    label[2:10, 2:8] = 1
    label[2:10, 8:14] = 2  # touches 1
    label[16:22, 14:22] = 3  # looks like 1
    codes = torch.eye(4)[[0, 1, 2, 1]]
    generator = torch.Generator().manual_seed(0)
    embedding = codes[torch.from_numpy(label)] + noise * torch.randn(size, size, 4, generator=generator)
    foreground = torch.from_numpy(np.where(label > 0, 9.0, -9.0)).float()[None]
    return F.normalize(embedding, dim=2).permute(2, 0, 1), foreground, label


def same_partition(a: NDArray[np.integer], b: NDArray[np.integer]) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


@pytest.mark.parametrize("window", [0, 8, 64])
def test_touching_and_equal_objects_are_told_apart(window: int) -> None:
    embedding, foreground, label = toy(noise=0.1)
    rules = DecodeConfig(window=window)
    result = decode(embedding, foreground, label.shape, RecurrentGrouping(4, kappa=20.0), rules)
    assert same_partition(result.labels, label)
    assert result.labels.dtype == np.int32 and result.labels[0, 0] == 0
    assert result.scores.shape == (3,) and bool((result.scores > 0.9).all())


def test_mean_shift_joins_what_noise_tears_apart() -> None:
    embedding, foreground, label = toy(noise=0.35)
    rules = DecodeConfig(threshold=0.99, min_size=4)
    torn = decode(embedding, foreground, label.shape, RecurrentGrouping(0), rules)
    whole = decode(embedding, foreground, label.shape, RecurrentGrouping(6, kappa=20.0), rules)
    assert not same_partition(torn.labels, label)
    assert same_partition(whole.labels, label)


def test_objects_grow_from_their_cores() -> None:
    """A bridge of uncertain pixels joins two objects that look alike; an uncertain object has no core at all."""
    label = np.zeros((24, 30), dtype=np.int64)
    label[3:13, 2:14], label[3:13, 14:26], label[16:22, 4:12] = 1, 2, 3
    logit = np.where(label > 0, 5.0, -5.0)
    logit[3:13, 12:16] = logit[16:22, 4:12] = 1.0  # probability 0.73
    embedding = torch.eye(4)[0][:, None, None].expand(4, 24, 30)
    foreground = torch.from_numpy(logit).float()[None]
    found = {}
    for core in (0.0, 0.9):
        rules = DecodeConfig(core_threshold=core)
        found[core] = decode(embedding, foreground, label.shape, RecurrentGrouping(0), rules).labels
    assert found[0.0].max() == 2 and same_partition(found[0.9], label)
    nothing = decode(
        embedding, foreground - 20, label.shape, RecurrentGrouping(0), DecodeConfig(core_threshold=0.9)
    )
    assert not nothing.labels.any()
    whole = DecodeConfig(core_threshold=0.9, background="none")
    assert (decode(embedding, foreground, label.shape, RecurrentGrouping(0), whole).labels == 1).all()


def test_the_core_head_says_where_objects_begin() -> None:
    """Two objects touch and look alike, and the foreground is sure of every pixel between them."""
    label = np.zeros((16, 30), dtype=np.int64)
    label[3:13, 2:14], label[3:13, 14:26] = 1, 2
    core = np.full(label.shape, -5.0)
    core[4:12, 3:13] = core[4:12, 15:25] = 5.0
    embedding = torch.eye(4)[0][:, None, None].expand(4, 16, 30)
    foreground = torch.from_numpy(np.stack([np.where(label > 0, 5.0, -5.0), core])).float()
    found = {}
    for threshold in (0.0, 0.5):
        rules = DecodeConfig(core_threshold=threshold)
        found[threshold] = decode(embedding, foreground, label.shape, RecurrentGrouping(0), rules).labels
    assert found[0.0].max() == 1 and same_partition(found[0.5], label)


def test_without_the_planar_cut_equal_objects_are_one() -> None:
    embedding, foreground, label = toy()
    result = decode(embedding, foreground, label.shape, RecurrentGrouping(1), DecodeConfig(connected=False))
    assert result.labels.max() == 2


def test_small_objects_are_removed() -> None:
    embedding, foreground, label = toy()
    result = decode(embedding, foreground, label.shape, RecurrentGrouping(1), DecodeConfig(min_size=48 + 1))
    assert result.labels.max() == 0 or set(np.unique(result.labels[label > 0])) <= {0, 1}
    nothing = decode(embedding, foreground, label.shape, RecurrentGrouping(1), DecodeConfig(min_size=10**6))
    assert not nothing.labels.any() and nothing.scores.shape == (0,)


def test_background_as_the_largest_cluster_and_none() -> None:
    embedding, _, label = toy()
    output, grouping, task = Output(embedding[None]), RecurrentGrouping(1), tasks.get("instance")
    largest = task.decode(output, label.shape, grouping, DecodeConfig(background="largest"))
    assert same_partition(largest.labels, label) and largest.labels[0, 0] == 0
    everything = task.decode(output, label.shape, grouping, DecodeConfig(background="none"))
    assert same_partition(everything.labels, label) and everything.labels.min() == 1
    assert len(everything.scores) == 4


def test_a_head_that_is_missing_is_named() -> None:
    embedding, _, label = toy()
    with pytest.raises(ValueError, match="no foreground head"):
        decode(embedding, None, label.shape, RecurrentGrouping(1), DecodeConfig())


def test_no_foreground_gives_no_object() -> None:
    embedding, foreground, label = toy()
    for window in (0, 8):
        result = decode(
            embedding, -foreground.abs(), label.shape, RecurrentGrouping(2), DecodeConfig(window=window)
        )
        assert not result.labels.any() and len(result.scores) == 0


@pytest.mark.parametrize("size", [(47, 48), (48, 47), (45, 45)])
def test_sizes_that_the_stride_does_not_divide(size: tuple[int, int]) -> None:
    embedding, foreground, label = toy()
    cut = (..., slice(0, -(-size[0] // 2)), slice(0, -(-size[1] // 2)))
    result = decode(embedding[cut], foreground[cut], size, RecurrentGrouping(2), DecodeConfig())
    assert result.labels.shape == size and result.labels.max() == 3


def test_grouping_returns_the_input_and_every_step() -> None:
    points = F.normalize(torch.randn(10, 3), dim=1)
    offsets = torch.tensor([0, 4, 10])
    steps = RecurrentGrouping(3, kappa=5.0)(points, offsets)
    assert len(steps) == 4 and steps[0] is points
    alone = RecurrentGrouping(3, kappa=5.0)(points[:4], torch.tensor([0, 4]))
    torch.testing.assert_close(steps[-1][:4], alone[-1])
    assert RecurrentGrouping(0)(points, offsets) == [points]
    empty = RecurrentGrouping(2)(points[:0], torch.tensor([0]))
    assert [step.shape for step in empty] == [(0, 3)] * 3


def test_kappa_can_be_learnt_and_has_the_margin_as_default() -> None:
    assert RecurrentGrouping(margin=0.5).kappa.item() == pytest.approx(36.0)
    grouping = RecurrentGrouping(2, kappa=10.0, learn_kappa=True)
    points = F.normalize(torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    grouping(points, torch.tensor([0, 10]))[-1][:, 0].sum().backward()
    assert isinstance(grouping.log_kappa, torch.nn.Parameter)
    assert grouping.log_kappa.grad is not None and grouping.log_kappa.grad.abs() > 0
    with pytest.raises(ValueError, match="kappa must be above 0"):
        RecurrentGrouping(kappa=0.0)


@pytest.mark.parametrize("kappa", [10.0, 36.0])
def test_the_tolerance_of_inference_changes_no_label(kappa: float) -> None:
    """The default of `GroupingConfig`, on windows larger than what is worth an order."""
    generator = torch.Generator().manual_seed(3)
    size = 72
    label = torch.arange(size)[:, None] // 12 * 6 + torch.arange(size)[None, :] // 12
    codes = F.normalize(torch.randn(36, 16, generator=generator), dim=1)
    noise = 0.08 * torch.randn(size, size, 16, generator=generator)
    embedding = F.normalize(codes[label] + noise, dim=2).permute(2, 0, 1)
    foreground = torch.full((1, size, size), 9.0)
    labels = []
    for grouping in (
        RecurrentGrouping(5, kappa=kappa).eval(),
        RecurrentGrouping(5, kappa=kappa, tol=0.0).eval(),
    ):
        labels.append(decode(embedding, foreground, label.shape, grouping, DecodeConfig(window=0)).labels)
    assert labels[0].max() > 5
    assert np.array_equal(*labels)


@pytest.mark.parametrize("tol", [None, 0.0, 0.2])
def test_the_tolerance_of_decoding_takes_the_place_of_the_groupings(
    tol: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    mean_shift = rpe_ops.mean_shift

    def note(*arguments, **options):
        asked.append(options["tol"])
        return mean_shift(*arguments, **options)

    monkeypatch.setattr(rpe_ops, "mean_shift", note)
    embedding = F.normalize(torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0)), dim=0)
    rules = DecodeConfig(background="none", min_size=1, tol=tol)
    decode(embedding, None, (6, 6), RecurrentGrouping(2, kappa=9.0, tol=0.05).eval(), rules)
    trajectory(embedding, None, (6, 6), RecurrentGrouping(2, kappa=9.0, tol=0.05).eval(), rules)
    assert asked == [0.05 if tol is None else tol] * 2
