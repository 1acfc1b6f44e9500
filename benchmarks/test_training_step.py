"""The model package with each backend: one whole training step (forward, losses, backward, optimiser) on generated
images, and `predict` on one image. What `rpe train` and `rpe predict` do with the default settings but for D; N counts
the cells of one image.

A step is right when its losses and the gradient of every parameter are those that the objective gives on a float64 copy
of the network's output; a prediction, when its label map and scores are those decoded from such a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rpe_ops
from harness import Case, Result
from inputs import operator_providers

try:
    import rpe
    from rpe import train
    from rpe.config import DataConfig, DecodeConfig, ModelConfig
    from rpe.data import open_dataset, sample_generator
    from rpe.model import Output
    from rpe.position import Origin

    MISSING = None
except ModuleNotFoundError as error:
    MISSING = f"the model package needs {error.name}: pip install 'rpe-ops[train]'"

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

# Cells of an image, of 128 x 128 pixels at stride 2 on a CPU; conftest.py takes these instead of the usual sizes.
SIZES = {"cpu": (4_096,), "cuda": (16_384,)}


def config_of(case: Case, side: int, backend: str) -> rpe.Config:
    return rpe.Config(
        backend=backend,
        data=DataConfig(root=f"synthetic:num_images=8,size={side},instances=12", crop=side),
        model=ModelConfig(dim=case.dim),
        # An untrained foreground head knows nothing: every cell takes part.
        decode=DecodeConfig(background="none"),
    )


class Exact(nn.Module):
    """A network whose output is a float64 copy, so that everything after it computes in float64."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.grouping = model, model.grouping

    def forward(self, image: Tensor, origin: Origin) -> Output:
        output = self.model(image, origin)
        return Output(output.embedding.double(), output.foreground.double())


def case_of(mode: str, case_shape: tuple) -> tuple[Case, int]:
    """The case, and the side in pixels of an image that has about its number of cells."""
    num_points, dim, dtype, device = case_shape
    if dtype is not torch.float32:
        pytest.skip("the model package computes in float32")
    cells = math.isqrt(num_points)
    operation = "rpe.train step" if mode == "training" else "rpe.predict"
    return Case(operation, mode, cells**2, dim, dtype, device), 2 * cells


def training_step(case: Case, side: int, backend: str, exact: bool = False) -> Callable[[], Result]:
    """A function that takes one step with the same weights every time: AdamW with the rate 0 does all its work and
    moves nothing."""
    config = config_of(case, side, backend)
    torch.manual_seed(config.seed)
    step = train.TrainingStep(config).to(case.device, memory_format=torch.channels_last)
    samples = list(open_dataset(config.data.root))[: config.training.batch_size]
    image = torch.stack([sample.image for sample in samples]).to(case.device)
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.stack([sample.label for sample in samples]).to(case.device)
    if exact:
        step.model = Exact(step.model)
    parameters = list(step.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.0)

    def run() -> Result:
        losses = step(image, label, sample_generator(config.seed, 1, 0))
        losses.total.backward()
        nn.utils.clip_grad_norm_(parameters, config.training.clip)
        optimizer.step()
        gradient = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
        optimizer.zero_grad()
        return losses.total.detach(), losses.steps.detach(), gradient

    return run


def prediction(case: Case, side: int, backend: str, exact: bool = False) -> Callable[[], Result]:
    """A function that segments one image with fresh weights."""
    config = config_of(case, side, backend)
    torch.manual_seed(config.seed)
    predictor = rpe.Predictor(rpe.build_model(config), config, case.device)
    image = open_dataset(config.data.root)[0].image
    # An untrained network gives all cells one direction, and one object whatever the backend does. Centred, its
    # embeddings spread over the sphere and fall into several objects.
    with torch.no_grad():
        model = predictor.model
        feature = model.backbone(model.position(image[None].to(case.device)))
        model.embedding_head.bias -= model.embedding_head(feature).mean((0, 2, 3))

    def run() -> Result:
        if exact:
            output = predictor.embed(image)
            output = Output(output.embedding.double(), output.foreground.double())
            found = predictor.decode(output, (side, side), config.decode)
        else:
            found = predictor.predict(image)
        return torch.from_numpy(found.labels), torch.from_numpy(found.scores)

    return run


@pytest.mark.parametrize("mode", ["training", "inference"])
def test_training_step(mode, case_shape, bench):
    case, side = case_of(mode, case_shape)
    make = training_step if mode == "training" else prediction
    # Networks and images are made here, so that no call's time or memory contains them.
    able = [name for name, reason in rpe_ops.available_backends(case.device).items() if reason is None]
    runs = {backend: make(case, side, backend) for backend in able}
    expected = tuple(part.double() for part in make(case, side, "torch", exact=True)())
    bench(case, operator_providers(case, lambda backend: runs[backend]()), expected)
