"""The exported network equals the eager one for batches and sizes it was not traced with."""

from pathlib import Path

import pytest
import torch

import rpe
from rpe.config import ModelConfig
from rpe.errors import UserError
from rpe.program import write_network

MODELS = {
    "unet": ModelConfig(
        channels=(8, 8, 8), dim=4, position_periods=(16, 24), rotation_periods=(16,), core=True
    ),
    "resnet_fpn": ModelConfig(
        backbone="resnet_fpn", channels=(8, 8, 8, 8), output_stride=4, dim=4, norm="group"
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_exported_network_is_the_eager_one(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = rpe.build_model(rpe.Config(model=MODELS[name])).eval()
    stride = model.backbone.total_stride
    assert isinstance(stride, int)
    path = tmp_path / "deep" / "network.pt2"
    write_network(model, path)
    program = torch.export.load(path).module()
    for batch, rows, columns in ((1, 2, 2), (3, 2, 5)):
        image = torch.rand(batch, 3, rows * stride, columns * stride)
        origin = torch.randint(1000, (batch, 2))
        maps = program(image, origin)
        with torch.no_grad():
            wanted = model(image, origin)
        assert set(maps) == {"embedding", "foreground"}
        assert maps["foreground"].shape[1] == (2 if MODELS[name].core else 1)
        for key, values in maps.items():
            torch.testing.assert_close(values, getattr(wanted, key), rtol=1e-4, atol=1e-5)


def test_the_name_of_a_program_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"network\.onnx: an exported program is a \.pt2 file"):
        write_network(rpe.build_model(rpe.Config()), tmp_path / "network.onnx")
