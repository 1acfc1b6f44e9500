"""The network: sizes at every output stride, backbones of the user's own, position channels, wrong images."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rpe
from rpe.backbones import ResNetFPN, UNet
from rpe.config import ModelConfig
from rpe.position import Origin, PeriodicPosition, PositionRotation


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(33, 50), (64, 64)])
def test_unet_sizes(stride: int, size: tuple[int, int]) -> None:
    backbone = UNet(channels=(8, 16, 16), output_stride=stride)
    feature = backbone(torch.rand(2, 3, *size))
    assert feature.shape == (2, 8, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize(
    ("stride", "atrous"), [(4, 8), (4, 16), (4, 32), (8, 8), (8, 16), (16, 16), (32, 32), (16, 32)]
)
def test_resnet_fpn_sizes(stride: int, atrous: int) -> None:
    backbone = ResNetFPN(
        depths=(1, 1, 1, 1),
        channels=(8, 8, 16, 16),
        out_channels=8,
        output_stride=stride,
        atrous_stride=atrous,
    )
    feature = backbone(torch.rand(2, 3, 70, 97))
    assert feature.shape == (2, 8, -(-70 // stride), -(-97 // stride))
    feature.sum().backward()


def test_resnet_fpn_needs_no_finer_stride_than_it_has() -> None:
    with pytest.raises(ValueError, match="output_stride"):
        ResNetFPN(output_stride=2)
    with pytest.raises(ValueError, match="atrous_stride 8"):
        ResNetFPN(output_stride=16, atrous_stride=8)


@pytest.mark.parametrize("name", ["unet", "resnet_fpn"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_embedding_has_unit_length(name: str, norm: str) -> None:
    options = {"channels": (8, 16, 16, 16), "norm": norm, "output_stride": 4}
    model = rpe.RPE(rpe.build_backbone(name, **options), dim=5)
    output = model(torch.rand(2, 3, 40, 36))
    assert output.embedding.shape == (2, 5, 10, 9)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(2, 10, 9))
    assert output.foreground is not None and output.foreground.shape == (2, 1, 10, 9)


def test_a_core_is_a_second_map_of_the_foreground_head() -> None:
    output = rpe.RPE(rpe.build_backbone("unet", channels=(8, 16)), core=True)(torch.rand(1, 3, 16, 16))
    assert output.foreground is not None and output.foreground.shape == (1, 2, 8, 8)
    with pytest.raises(ValueError, match="core needs the foreground head"):
        rpe.RPE(nn.Conv2d(3, 4, 1), foreground=False, core=True)


def test_any_module_that_returns_a_map_is_a_backbone() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 7, 3, stride=2, padding=1), nn.BatchNorm2d(7))
    model = rpe.RPE(plain, dim=4, foreground=False)
    assert model.output_stride == 2
    assert plain.training, "measuring the backbone must not change its mode"
    assert plain[1].num_batches_tracked == 0, "nor its statistics"
    output = model(torch.rand(1, 3, 20, 30))
    assert output.embedding.shape == (1, 4, 10, 15)
    assert output.foreground is None


def test_a_backbone_that_returns_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match="one feature map"):
        rpe.RPE(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4)))


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'unet'"):
        rpe.build_backbone("u-net")


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8).byte()]
)
def test_wrong_images_are_named(image: torch.Tensor) -> None:
    model = rpe.RPE(UNet(channels=(8,)), dim=4)
    with pytest.raises(ValueError, match=r"RPE: image must be a floating tensor \[B, 3, H, W\]"):
        model(image)


def test_position_is_periodic_and_follows_the_origin() -> None:
    position = PeriodicPosition((8, 4))
    image = torch.rand(2, 3, 16, 24)
    out = position(image)
    assert out.shape == (2, 3 + position.channels, 16, 24)
    torch.testing.assert_close(out[:, :3], image)
    torch.testing.assert_close(out[:, 3:, 8:, 8:], out[:, 3:, :-8, :-8], atol=1e-5, rtol=0)
    each = position(image, torch.tensor([[0, 0], [3, 2]]))
    assert torch.equal(each[0], out[0])
    torch.testing.assert_close(each[1, 3:, :-3, :-2], out[1, 3:, 3:, 2:])
    assert torch.equal(position(image, (3, 2))[1], each[1])
    far = position(image, (8 * 10**6, 4 * 10**6))
    assert torch.equal(far, out), "exact far from the first pixel"


def test_positions_are_exact_without_float64() -> None:
    """Against exact fractions, far from the origin and at periods that no binary number holds."""
    seen: set[torch.dtype] = set()

    class Types(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            found = func(*args, **(kwargs or {}))
            seen.update(part.dtype for part in tree_leaves(found) if isinstance(part, torch.Tensor))
            return found

    periods, far = (11.0, 24.7), 10**6 + 7
    with Types():
        waves = PeriodicPosition(periods)(torch.zeros(1, 3, 1, 9), (0, far))
        turned = PositionRotation(periods, dim=8, stride=4)(torch.ones(1, 8, 1, 9), (0, far))
    assert torch.float64 not in seen
    for column in range(9):
        for number, period in enumerate(periods):
            angle = 2 * math.pi * float(Fraction(far + column) / Fraction(period) % 1)
            sine, cosine = waves[0, 3 + 4 + number, 0, column], waves[0, 3 + 6 + number, 0, column]
            assert float(sine) == pytest.approx(math.sin(angle), abs=1e-6)
            assert float(cosine) == pytest.approx(math.cos(angle), abs=1e-6)
        # pair 1 of 4: along direction pi / 4, the second period
        rate = Fraction(math.cos(math.pi / 4) / periods[1])
        angle = 2 * math.pi * float((far + 4 * column) * rate % 1)
        assert float(turned[0, 1, 0, column]) == pytest.approx(math.cos(angle) - math.sin(angle), abs=1e-6)


def test_rotation_turns_pairs_of_channels_with_the_position() -> None:
    rotation = PositionRotation((8,), dim=5, stride=2)  # one pair turns along the rows, one down the columns
    embedding = F.normalize(torch.randn(5, generator=torch.Generator().manual_seed(0)), dim=0)
    whole = rotation(embedding[None, :, None, None].expand(2, 5, 12, 10))
    torch.testing.assert_close(whole[0, :, 0, 0], embedding)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(2, 12, 10))
    expected = embedding.clone()
    expected[[0, 1, 2, 3]] = embedding[[2, 3, 0, 1]] * torch.tensor(
        [-1.0, -1.0, 1.0, 1.0]
    )  # a quarter of a turn each
    torch.testing.assert_close(whole[0, :, 1, 1], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole[:, :, 8:, 4:], whole[:, :, :4, :6], atol=1e-5, rtol=0)


def test_rotation_keeps_similarities_wherever_an_image_lies() -> None:
    rotation = PositionRotation((24, 48), dim=8, stride=4)
    embedding = torch.randn(2, 8, 6, 7, generator=torch.Generator().manual_seed(0))

    def similarities(origin: Origin) -> torch.Tensor:
        rows = rotation(embedding, origin).flatten(2)
        return rows.mT @ rows

    here = similarities((0, 0))
    torch.testing.assert_close(similarities((13, 10**6)), here, atol=1e-4, rtol=0)
    torch.testing.assert_close(similarities(torch.tensor([[5, 3], [10**6, 7]])), here, atol=1e-4, rtol=0)
    part = rotation(embedding[:, :, 2:, 3:], (8, 12))
    torch.testing.assert_close(part, rotation(embedding)[:, :, 2:, 3:], atol=1e-5, rtol=0)
    assert PositionRotation((), dim=8, stride=4)(embedding) is embedding
    with pytest.raises(ValueError, match="rotation_periods must be above 0"):
        PositionRotation((0.0,), dim=8, stride=4)
    with pytest.raises(
        ValueError, match="2 periods turn two pairs of channels each at least, which takes a dim of 8"
    ):
        PositionRotation((8.0, 16.0), dim=7, stride=4)


def test_a_model_with_rotation_takes_the_backbone_as_it_is() -> None:
    settings = ModelConfig(rotation_periods=(16,), channels=(8, 8), dim=4)
    model = rpe.build_model(rpe.Config(model=settings)).eval()
    image = torch.rand(1, 3, 18, 20)
    output, moved = model(image), model(image, (3, 5))
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(1, 9, 10))
    assert torch.equal(output.foreground, moved.foreground)
    assert not torch.allclose(output.embedding, moved.embedding, atol=0.1)


def test_model_with_position_channels_takes_wider_backbones() -> None:
    settings = ModelConfig(position_periods=(16, 32), channels=(8, 8), dim=4)
    model = rpe.build_model(rpe.Config(model=settings))
    assert model(torch.rand(1, 3, 18, 20)).embedding.shape == (1, 4, 9, 10)


def test_a_registered_backbone_is_built_from_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    from rpe import backbones

    monkeypatch.setattr(backbones, "_REGISTRY", dict(backbones._REGISTRY))

    def builder(channels: tuple[int, ...], output_stride: int, norm: str, in_channels: int) -> nn.Module:
        return nn.Conv2d(in_channels, channels[0], output_stride, stride=output_stride)

    rpe.register_backbone("patches", builder)
    model = rpe.build_model(rpe.Config(model=ModelConfig(backbone="patches", output_stride=4, dim=3)))
    assert model.output_stride == 4
    assert model(torch.rand(1, 3, 16, 24)).embedding.shape == (1, 3, 4, 6)
    with pytest.raises(ValueError, match="is taken"):
        rpe.register_backbone("unet", builder)
    with pytest.raises(
        ValueError, match="model.depth: the backbone 'patches' has no such option; leave it out$"
    ):
        rpe.build_backbone("patches", depth=3)


def test_timm_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"'timm:resnet18' needs timm.*pip install 'rpe-ops\[timm\]'"):
        rpe.build_backbone("timm:resnet18", channels=(8,))


def test_timm_encoders_get_a_pyramid() -> None:
    try:
        import timm  # noqa: F401
    except Exception as error:  # torchvision of another build raises more than ImportError
        pytest.skip(f"timm cannot be imported: {error}")
    backbone = rpe.build_backbone(
        "timm:resnet18", channels=(8,), output_stride=4, atrous_stride=8, norm="group", in_channels=7
    )
    levels = backbone.levels(torch.rand(1, 7, 70, 97))
    assert [tuple(level.shape) for level in levels] == [(1, 8, 18, 25)] + 3 * [(1, 8, 9, 13)]
    with pytest.raises(ValueError, match="timm cannot build it"):
        rpe.build_backbone("timm:resnet18", channels=(8,), atrous_stride=4)


@pytest.mark.parametrize("stride", [4, 8])
def test_atrous_stages_keep_their_resolution(stride: int) -> None:
    settings = ModelConfig(
        backbone="resnet_fpn",
        channels=(8, 8, 8, 8),
        output_stride=stride,
        atrous_stride=stride,
        dim=4,
        position_periods=(8.0,),
    )
    model = rpe.build_model(rpe.Config(model=settings))
    levels = model.backbone.levels(torch.rand(1, 7, 45, 70))
    assert {level.shape[-2:] for level in levels} == {torch.Size((-(-45 // stride), -(-70 // stride)))}
    assert model(torch.rand(1, 3, 45, 70)).embedding.shape[-2:] == levels[0].shape[-2:]
    with pytest.raises(
        ValueError, match="model.atrous_stride: .*'unet' has no such option.*resnet_fpn, timm:NAME"
    ):
        rpe.build_model(rpe.Config(model=ModelConfig(atrous_stride=8)))


def test_boundary_model_embeds_every_depth() -> None:
    settings = ModelConfig(channels=(8, 8, 16), dim=3)
    model = rpe.build_model(rpe.Config(task="boundary", model=settings))
    output = model(torch.rand(2, 3, 22, 30))
    assert output.foreground is None and output.semantic is None and output.boundary is not None
    assert output.boundary.shape == (2, 4, 11, 15) and output.embedding.shape == (2, 9, 11, 15)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(2, 11, 15))
    for depth in output.embedding.chunk(3, dim=1):
        torch.testing.assert_close(depth.norm(dim=1), torch.full((2, 11, 15), 3**-0.5))
    plain = rpe.RPE(nn.Conv2d(3, 5, 3, padding=1), dim=3, foreground=False, boundary=True)
    alone = plain(torch.rand(1, 3, 8, 8)).boundary
    assert alone is not None and alone.shape == (1, 2, 8, 8), "a backbone without levels has one depth"
