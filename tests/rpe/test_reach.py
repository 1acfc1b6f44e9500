"""How far networks see: hand-worked cases, and that tiles see as far, so that they give what the whole image gives."""

import pytest
import torch
from torch import nn

from rpe import RPE, Config, Predictor, build_model
from rpe import predict as predict_module
from rpe.config import ModelConfig
from rpe.reach import measured_reach

WIDE = ModelConfig(backbone="resnet_fpn", channels=(8, 8, 8, 8), output_stride=4, atrous_stride=16, dim=4)


class Layers(nn.Sequential):
    """A backbone of stride 1."""

    out_channels, output_stride, total_stride = 3, 1, 1


def model_of(*layers: nn.Module) -> RPE:
    return RPE(Layers(*layers), dim=2).eval()


@pytest.mark.parametrize(
    ("layers", "reach"),
    [
        ([nn.Conv2d(3, 3, 1)], 0),
        ([nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)], 2),
        ([nn.Conv2d(3, 3, 5, padding=6, dilation=3)], 6),
        ([nn.Conv2d(3, 3, (1, 9), padding=(0, 4))], 4),
        ([nn.Conv2d(3, 3, (9, 1), padding=(4, 0))], 4),
        ([nn.MaxPool2d(7, 1, padding=3), nn.AvgPool2d(3, 1, padding=1)], 4),
        ([nn.Conv2d(3, 3, 7, padding=3, padding_mode="reflect")], 3),
        ([nn.GroupNorm(1, 3)], 50),
    ],
)
def test_reach_is_that_of_the_layers(layers: list[nn.Module], reach: int) -> None:
    assert measured_reach(model_of(*layers), 1, 50) == reach


def test_coarse_maps_reach_to_the_ends_of_their_cells() -> None:
    """Stride 4 and back: a cell of 4 x 4 pixels sees one on each side, of which the nearest pixel is 1 away."""
    layers = [
        nn.Conv2d(3, 3, 4, stride=4),
        nn.Conv2d(3, 3, 3, padding=1),
        nn.UpsamplingNearest2d(scale_factor=4),
    ]
    assert measured_reach(model_of(*layers), 4, 50) == 4
    assert measured_reach(model_of(*layers), 4, 3) == 3


def test_wide_networks_see_further_than_the_least_context() -> None:
    """ResNet-18: stem 3, pool 2, stages of 4 convolutions with strides 4 and 4, 8, 16, 16 dilated by 2; pyramid."""
    config = Config(model=WIDE)
    predictor = Predictor(build_model(config), config)
    convolutions = 3 + 2 + 4 * 4 + (4 + 3 * 8) + (8 + 3 * 16) + 4 * 32 + 4
    assert predict_module._CONTEXT < predictor.reach
    assert abs(predictor.reach - convolutions) <= 16, "up to a cell of the deepest maps"


def test_a_backbone_may_say_how_far_it_sees() -> None:
    backbone = Layers(nn.GroupNorm(1, 3))
    config = Config()
    assert Predictor(RPE(backbone, dim=2), config).reach == predict_module._MOST_CONTEXT
    backbone.reach = 7  # type: ignore[assignment]
    assert Predictor(RPE(backbone, dim=2), config).reach == 7


@pytest.mark.parametrize("size", [(1026, 45), (45, 1026)])
def test_tiles_see_as_far_as_the_network(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels 240 away matter as much as near ones: with the least context alone the maps differ."""
    torch.manual_seed(0)
    far = [nn.Conv2d(3, 3, 3, padding=120, dilation=120) for _ in range(2)]
    predictor = Predictor(RPE(Layers(*far), dim=2), Config())
    image = torch.rand(3, *size)
    assert len(predictor._parts(*size)) == 1
    whole = predictor.embed(image).embedding
    monkeypatch.setattr(predict_module, "_TILE", 128)
    assert predictor.reach == 240 and len(predictor._parts(*size)) > 3
    torch.testing.assert_close(predictor.embed(image).embedding, whole, rtol=0, atol=1e-5)
    predictor.reach = 0
    assert (predictor.embed(image).embedding - whole).abs().max() > 0.01


@pytest.mark.parametrize("settings", [WIDE, ModelConfig(dim=3)], ids=["resnet_fpn", "unet"])
@pytest.mark.parametrize("size", [(1026, 45), (45, 1026)])
def test_every_depth_of_tiles_is_that_of_the_whole_image(
    settings: ModelConfig, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides that no stride divides."""
    torch.manual_seed(0)
    config = Config(task="boundary", model=settings)
    predictor = Predictor(build_model(config), config)
    image = torch.rand(3, *size)
    whole = predictor.embed(image)
    monkeypatch.setattr(predict_module, "_TILE", 128)
    assert len(predictor._parts(*size)) > 3
    tiled = predictor.embed(image)
    torch.testing.assert_close(tiled.embedding, whole.embedding, rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled.boundary, whole.boundary, rtol=0, atol=1e-5)
