"""The tolerance that inference has by default changes no label on real test images.

The network is trained for a few steps only: points that have not learnt to meet are the harder case, and leave more
steps to the tolerance.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import rpe
from rpe.data import open_dataset
from rpe.decode import DecodeConfig, decode
from rpe.grouping import RecurrentGrouping
from rpe.settings import load_config
from rpe.train import train
from rpe_ops.backends.tile_list import SMALLEST

SHARED = os.environ.get("RPE_TEST_DATA")
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "dsb2018.toml"
IMAGES = (7, 21)  # of those with thousands of points, which a tolerance takes


class LargeGrouping(RecurrentGrouping):
    """Refuses what is too small for a tolerance to change."""

    def forward(self, points: Tensor, offsets: Tensor, num_steps: int | None = None) -> list[Tensor]:
        assert points.shape[0] >= SMALLEST
        return super().forward(points, offsets, num_steps)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> rpe.Predictor:
    if SHARED is None:
        pytest.skip("RPE_TEST_DATA is not set")
    overrides = {
        "data.root": f"dsb2018:{SHARED}/dsb2018",
        "data.test_split": "",
        "training.steps": 20,
        "training.batch_size": 4,
        "output": str(tmp_path_factory.mktemp("run")),
    }
    return rpe.load(train(load_config(CONFIG, overrides)), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kappa", [20.0, 100.0])
def test_labels_are_those_of_every_pair(predictor: rpe.Predictor, kappa: float) -> None:
    rules = DecodeConfig(foreground_threshold=0.4, core_threshold=0.3, num_steps=10, threshold=0.95)
    images = open_dataset(f"dsb2018:{SHARED}/dsb2018", "test")
    for index in IMAGES:
        image = images[index].image
        output = predictor.embed(image)
        assert output.foreground is not None
        assert int((output.foreground[0].sigmoid() > 0.5).all(0).sum()) >= SMALLEST, (
            "too few points to leave any out"
        )
        labels = []
        for tol in (0.0, RecurrentGrouping().tol):
            grouping = LargeGrouping(kappa=kappa, tol=tol).eval()
            found = decode(output.embedding[0], output.foreground[0], image.shape[1:], grouping, rules)
            labels.append(found.labels)
        assert RecurrentGrouping().tol > 0.0 and labels[0].any()
        assert np.array_equal(*labels)
