"""The modules of `rpe_ops.nn`: rows and feature maps, parameters, state, and messages."""

import pickle
from functools import partial

import pytest
import torch
from torch import nn

import numerics
import problems
import rpe_ops

FEATURES = problems.directions(2, 5, 4, 6)  # [B, D, H, W]
LABELS = torch.randint(4, (2, 4, 6), generator=problems.generator(0))
ROWS = FEATURES.movedim(1, -1).reshape(2, 24, 5)


def test_feature_maps_are_rows_of_pixels():
    leaf, rows = FEATURES.clone().requires_grad_(), ROWS.clone().requires_grad_()
    loss = rpe_ops.nn.PairwiseLoss(margin=0.4, channel_dim=1)(leaf, LABELS)
    expected = rpe_ops.pairwise_loss(rows, LABELS.reshape(2, 24), margin=0.4)
    numerics.assert_same(loss, expected)
    loss.backward()
    expected.backward()
    numerics.assert_same(leaf.grad, rows.grad.reshape(2, 4, 6, 5).movedim(-1, 1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mean_shift_keeps_the_layout_of_feature_maps(layout):
    features = FEATURES.contiguous(memory_format=layout)
    moved = rpe_ops.nn.MeanShift(20.0, eta=0.8, num_steps=2, channel_dim=1)(features)
    expected = rpe_ops.mean_shift(ROWS, kappa=20.0, eta=0.8, num_steps=2)
    assert moved.shape == FEATURES.shape
    numerics.assert_same(moved, expected.reshape(2, 4, 6, 5).movedim(-1, 1))


def test_trajectories_of_feature_maps():
    steps = rpe_ops.nn.MeanShift(20.0, num_steps=3, return_trajectory=True, channel_dim=1)(FEATURES)
    assert [step.shape for step in steps] == [FEATURES.shape] * 3
    numerics.assert_same(steps[-1], rpe_ops.nn.MeanShift(20.0, num_steps=3, channel_dim=1)(FEATURES))


@pytest.mark.parametrize(
    "shape, channel_dim", [((2, 5, 7), 1), ((2, 5, 3, 4, 2), 1), ((2, 3, 4, 5), -1), ((2, 3, 4, 5), 3)]
)
def test_any_number_of_spatial_dimensions(shape, channel_dim):
    features = problems.directions(*shape)
    spatial = features.movedim(channel_dim, -1).shape[:-1]
    label = torch.randint(3, spatial, generator=problems.generator(1))
    rows = features.movedim(channel_dim, -1).reshape(2, -1, 5)
    loss = rpe_ops.nn.PairwiseLoss(channel_dim=channel_dim)(features, label)
    numerics.assert_same(loss, rpe_ops.pairwise_loss(rows, label.reshape(2, -1)))
    moved = rpe_ops.nn.MeanShift(9.0, channel_dim=channel_dim)(features)
    expected = rpe_ops.mean_shift(rows, kappa=9.0).reshape(*spatial, 5).movedim(-1, channel_dim)
    numerics.assert_same(moved, expected)


def test_rows_pass_as_they_are():
    label = LABELS.reshape(2, 24)
    numerics.assert_same(rpe_ops.nn.PairwiseLoss()(ROWS, label), rpe_ops.pairwise_loss(ROWS, label))
    numerics.assert_same(
        rpe_ops.nn.PairwiseLoss()(ROWS[0], label[0]), rpe_ops.pairwise_loss(ROWS[0], label[0])
    )
    packed, offsets = ROWS.reshape(48, 5), torch.tensor([0, 10, 48])
    loss = rpe_ops.nn.PairwiseLoss(reduction="none")(packed, label.reshape(48), offsets=offsets)
    numerics.assert_same(
        loss, rpe_ops.pairwise_loss(packed, label.reshape(48), offsets=offsets, reduction="none")
    )
    moved = rpe_ops.nn.MeanShift(bandwidth=0.2)(packed, offsets=offsets)
    numerics.assert_same(moved, rpe_ops.mean_shift(packed, kappa=25.0, offsets=offsets))


def test_options_reach_the_loss():
    options = {
        "margin": 0.7,
        "weight": "uniform",
        "normalizer": "weights",
        "reduction": "none",
        "ignore_index": 1,
    }
    loss = rpe_ops.nn.PairwiseLoss(**options, channel_dim=1, backend="torch")(FEATURES, LABELS)
    expected = rpe_ops.pairwise_loss(ROWS, LABELS.reshape(2, 24), **options, backend="torch")
    numerics.assert_same(loss, expected)
    unit = torch.nn.functional.normalize(FEATURES, dim=1)
    plain = rpe_ops.nn.PairwiseLoss(normalize=False, channel_dim=1)(unit, LABELS)
    numerics.assert_same(plain, rpe_ops.nn.PairwiseLoss(channel_dim=1)(FEATURES, LABELS))


def test_weight_maps_and_seeds():
    weight = problems.masses(48).reshape(2, 4, 6)
    loss = rpe_ops.nn.PairwiseLoss(channel_dim=1)(FEATURES, LABELS, weight=weight)
    numerics.assert_same(
        loss, rpe_ops.pairwise_loss(ROWS, LABELS.reshape(2, 24), weight=weight.reshape(2, 24))
    )
    seeds = problems.directions(2, 3, 5)
    moved = rpe_ops.nn.MeanShift(9.0, channel_dim=1)(FEATURES, seeds=seeds, weight=weight)
    numerics.assert_same(
        moved, rpe_ops.mean_shift(ROWS, kappa=9.0, seeds=seeds, weight=weight.reshape(2, 24))
    )


def test_parameters_are_registered_and_learn():
    module = rpe_ops.nn.MeanShift(nn.Parameter(torch.tensor(9.0)), eta=nn.Parameter(torch.tensor(0.5)))
    assert {name for name, _ in module.named_parameters()} == {"kappa", "eta"}
    (module(ROWS[0].float()) * problems.directions(24, 5).float()).sum().backward()
    assert float(module.kappa.grad) != 0.0 and float(module.eta.grad) != 0.0
    other = rpe_ops.nn.MeanShift(nn.Parameter(torch.tensor(1.0)), eta=nn.Parameter(torch.tensor(1.0)))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(ROWS), module(ROWS))


def test_plain_tensors_are_buffers_and_follow_the_module():
    module = rpe_ops.nn.MeanShift(torch.tensor(9.0)).double()
    assert [name for name, _ in module.named_buffers()] == ["kappa"]
    assert module.kappa.dtype == torch.float64
    numerics.assert_same(module(ROWS), rpe_ops.mean_shift(ROWS, kappa=9.0))


def test_modules_live_inside_models():
    model = nn.Sequential(nn.Conv2d(3, 5, 1), rpe_ops.nn.MeanShift(9.0, num_steps=2, channel_dim=1))
    criterion = rpe_ops.nn.PairwiseLoss(channel_dim=1)
    criterion(model(problems.directions(2, 3, 4, 6).float()), LABELS).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    again = pickle.loads(pickle.dumps(model))
    images = problems.directions(2, 3, 4, 6).float()
    assert torch.equal(again(images), model(images))


def test_repr_says_what_is_set():
    assert "margin=0.3" in repr(rpe_ops.nn.PairwiseLoss(0.3, channel_dim=1))
    for module in (
        rpe_ops.nn.MeanShift(25.0),
        rpe_ops.nn.MeanShift(bandwidth=0.2),
        rpe_ops.nn.MeanShift(torch.tensor(25.0)),
        rpe_ops.nn.MeanShift(nn.Parameter(torch.tensor(25.0)), eta=nn.Parameter(torch.tensor(0.5))),
    ):
        shown = float(repr(module).split("kappa=")[1].split(",")[0])
        assert abs(shown - 25.0) < 1e-4 and "num_steps=1" in repr(module)


def test_repr_of_a_module_without_numbers():
    assert "kappa=a tensor on meta" in repr(rpe_ops.nn.MeanShift(nn.Parameter(torch.tensor(9.0))).to("meta"))


@pytest.mark.parametrize("features", [FEATURES[0, 0], [1.0], None])
def test_what_is_no_feature_map_is_refused(features):
    for module in (rpe_ops.nn.MeanShift(9.0, channel_dim=1), rpe_ops.nn.PairwiseLoss(channel_dim=1)):
        arguments = (features,) if isinstance(module, rpe_ops.nn.MeanShift) else (features, LABELS)
        with pytest.raises(
            (TypeError, ValueError), match=f"{type(module).__name__}: embedding must be .*got"
        ):
            module(*arguments)


@pytest.mark.parametrize("channel_dim", [0, 4, -5])
def test_channel_dims_that_do_not_exist_are_refused(channel_dim):
    with pytest.raises(ValueError, match=f"PairwiseLoss: channel_dim must .*got {channel_dim}"):
        rpe_ops.nn.PairwiseLoss(channel_dim=channel_dim)(FEATURES, LABELS)


@pytest.mark.parametrize("module", [rpe_ops.nn.PairwiseLoss, partial(rpe_ops.nn.MeanShift, 9.0)])
@pytest.mark.parametrize("channel_dim", ["1", 1.5, True])
def test_a_channel_dim_that_is_no_integer_is_refused_at_once(module, channel_dim):
    with pytest.raises(TypeError, match="channel_dim must be an integer or None, got .*; use 1 for"):
        module(channel_dim=channel_dim)


@pytest.mark.parametrize("features, channel_dim", [(torch.zeros(5), 1), (FEATURES, 5), ([1.0, 2.0], 1)])
def test_weights_beside_what_is_no_feature_map(features, channel_dim):
    with pytest.raises(ValueError, match="PairwiseLoss: (embedding|channel_dim) must"):
        rpe_ops.nn.PairwiseLoss(channel_dim=channel_dim)(features, LABELS, torch.ones(LABELS.shape))


def test_label_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"PairwiseLoss: label.*got \[2, 4, 5\].*nearest"):
        rpe_ops.nn.PairwiseLoss(channel_dim=1)(FEATURES, LABELS[:, :, :5])
    with pytest.raises(ValueError, match=r"PairwiseLoss: label.*got \[2, 1, 4, 6\]; call .squeeze\(1\)"):
        rpe_ops.nn.PairwiseLoss(channel_dim=1)(FEATURES, LABELS[:, None])
    with pytest.raises((TypeError, ValueError), match="label must be an integer tensor"):
        rpe_ops.nn.PairwiseLoss(channel_dim=1)(FEATURES, LABELS.float())


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"eta": -1.0}, "eta must"),
        ({"num_steps": -1}, "num_steps must"),
        ({"tol": 1.0}, "tol must"),
        ({"backend": "zz"}, "backend must"),
    ],
)
def test_wrong_options_of_mean_shift_are_refused_at_once(options, expected):
    with pytest.raises(ValueError, match=f"MeanShift: {expected}"):
        rpe_ops.nn.MeanShift(9.0, **options)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"margin": 3.0}, "margin must"),
        ({"weight": "size"}, "weight must"),
        ({"weight": torch.ones(2)}, "weight must .*; a tensor goes to forward"),
        ({"normalizer": "pairs"}, "normalizer must"),
        ({"reduction": "max"}, "reduction must"),
        ({"ignore_index": 0.5}, "ignore_index must"),
        ({"backend": "zz"}, "backend must"),
    ],
)
def test_wrong_options_of_the_loss_are_refused_at_once(options, expected):
    with pytest.raises((TypeError, ValueError), match=f"PairwiseLoss: {expected}"):
        rpe_ops.nn.PairwiseLoss(**options)


def test_wrong_options_are_refused_at_once():
    with pytest.raises(ValueError, match="MeanShift: exactly one of kappa and bandwidth"):
        rpe_ops.nn.MeanShift()
    with pytest.raises(ValueError, match="MeanShift: kappa must"):
        rpe_ops.nn.MeanShift(-1.0)
