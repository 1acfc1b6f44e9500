"""Mean shift as a layer of somebody's network, `[B, N, D]` with learned kappa and eta, in all that PyTorch does to one.

The eager network on one process is the truth; what the operator computes is tested elsewhere.
"""

import copy
import io
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import numerics
import problems
import rpe_ops

DIM = 6


class Block(nn.Module):
    """A residual block whose attention is one blurring step on the sphere."""

    def __init__(self, backend: str, num_steps: int = 1) -> None:
        super().__init__()
        generator = problems.generator(5)
        self.project, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        with torch.no_grad():
            for parameter in self.parameters():
                values = torch.randn(parameter.shape, generator=generator, device="cpu")
                parameter.copy_(values / DIM**0.5)
        kappa, eta = nn.Parameter(torch.tensor(8.0)), nn.Parameter(torch.tensor(0.6))
        self.attention = rpe_ops.nn.MeanShift(kappa, eta=eta, num_steps=num_steps, backend=backend)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.out(self.attention(self.project(tokens)))


def tokens(num_images: int = 3, num_points: int = 10, seed: int = 0) -> Tensor:
    rows = problems.clustered(num_images * num_points, DIM, seed=seed)
    return rows.reshape(num_images, num_points, DIM).float()


def loss_of(output: Tensor) -> Tensor:
    return output.square().mean() + output[..., 0].mean()


def gradients(module: nn.Module, batch: Tensor, function=None) -> list[Tensor]:
    output = module(batch) if function is None else function(batch)
    return list(torch.autograd.grad(loss_of(output), list(module.parameters())))


def assert_same_gradients(found: list[Tensor], expected: list[Tensor]) -> None:
    for grad, right in zip(found, expected, strict=True):
        numerics.assert_same(grad, right, scale=0.1)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Training


def test_kappa_and_eta_are_learned(backend):
    block = Block(backend, num_steps=2)
    names = [name for name, _ in block.named_parameters()]
    assert {"attention.kappa", "attention.eta"} <= set(names)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    before, losses = copy.deepcopy(block.state_dict()), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(block(tokens()))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    for name, value in block.state_dict().items():
        assert not torch.equal(value, before[name]), name
    restored = Block(backend, num_steps=2)
    restored.load_state_dict(block.state_dict())
    assert torch.equal(restored(tokens()), block(tokens()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(backend, reentrant):
    block, batch = Block(backend), tokens().requires_grad_()
    expected = gradients(block, batch)
    loss_of(checkpoint(block, batch, use_reentrant=reentrant)).backward()
    assert all(map(torch.equal, [parameter.grad for parameter in block.parameters()], expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(backend, dtype):
    block = Block(backend)
    with torch.autocast(torch.get_default_device().type, dtype=dtype):
        output = block(tokens())
    grads = torch.autograd.grad(loss_of(output.float()), list(block.parameters()))
    numerics.assert_values(output.to(dtype), block(tokens()).double(), scale=4.0)
    assert all(grad.dtype == torch.float32 and bool(grad.isfinite().all()) for grad in grads)
    assert all(float(grad.abs().max()) > 0.0 for grad in grads)


# Compiled, exported, captured


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_whole(backend, fresh_dynamo, dynamic):
    block = Block(backend)
    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (tokens(), tokens(2, 7)):
        numerics.assert_same(compiled(batch), block(batch))
        assert_same_gradients(gradients(block, batch, compiled), gradients(block, batch))


def test_compiled_with_numbers_that_change(backend, fresh_dynamo):
    """From the second value on torch.compile traces a float as a symbol."""

    def step(rows: Tensor, kappa: float, eta: float) -> Tensor:
        return rpe_ops.mean_shift(rows, kappa=kappa, eta=eta, backend=backend)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for kappa, eta in ((5.0, 1.0), (6.5, 0.5), (8.0, 0.25)):
        numerics.assert_same(compiled(tokens(), kappa, eta), step(tokens(), kappa, eta))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_any_number_of_points(backend, fresh_dynamo, strict):
    block = Block(backend)
    shape = {0: torch.export.Dim("images", min=1, max=64), 1: torch.export.Dim("points", min=2, max=4096)}
    program = torch.export.export(block, (tokens(),), dynamic_shapes=({**shape},), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (tokens(), tokens(5, 3)):
        numerics.assert_same(loaded(batch), block(batch))


def test_an_exported_program_can_be_trained(backend, fresh_dynamo):
    block = Block(backend)
    program = torch.export.export(block, (tokens(),)).module()
    assert_same_gradients(gradients(program, tokens()), gradients(block, tokens()))

    class Objective(nn.Module):
        def forward(self, rows: Tensor, label: Tensor) -> Tensor:
            return rpe_ops.pairwise_loss(rows, label, margin=0.3, backend=backend)

    label = torch.arange(30).reshape(3, 10) % 4
    rows = tokens().requires_grad_()
    exported = torch.export.export(Objective(), (tokens(), label)).module()
    (grad,) = torch.autograd.grad(exported(rows, label), rows)
    (expected,) = torch.autograd.grad(Objective()(rows, label), rows)
    numerics.assert_same(grad, expected)


@pytest.mark.gpu
def test_captured_in_a_cuda_graph(backend):
    if not torch.cuda.is_available() or torch.get_default_device().type != "cuda":
        pytest.skip("CUDA graphs need a GPU and a backend that runs on it")
    block = Block(backend).cuda()
    captured = torch.cuda.make_graphed_callables(copy.deepcopy(block), (tokens().cuda().requires_grad_(),))
    batch = tokens(seed=1).cuda().requires_grad_()
    numerics.assert_same(captured(batch), block(batch))
    assert_same_gradients(gradients(captured, batch), gradients(block, batch))


# torch.func


def test_gradients_of_each_image_by_vmap(backend):
    block, batch = Block(backend), tokens()
    parameters = dict(block.named_parameters())

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return loss_of(torch.func.functional_call(block, values, (image,)))

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
    for image, rows in enumerate(batch):
        expected = gradients(block, rows)
        assert_same_gradients([each[name][image] for name in parameters], expected)


def test_an_ensemble_of_layers_by_vmap(backend):
    blocks = [Block(backend), Block(backend)]
    with torch.no_grad():
        blocks[1].attention.kappa.fill_(3.0)
    parameters, buffers = torch.func.stack_module_state(blocks)

    def call(values: dict[str, Tensor], rest: dict[str, Tensor], rows: Tensor) -> Tensor:
        return torch.func.functional_call(blocks[0], (values, rest), (rows,))

    outputs = torch.func.vmap(call, in_dims=(0, 0, None))(parameters, buffers, tokens())
    for output, block in zip(outputs, blocks, strict=True):
        numerics.assert_same(output, block(tokens()))


def test_derivatives_in_the_parameters_by_every_transform(backend):
    block, batch = Block(backend), tokens(1, 5)
    parameters = dict(block.named_parameters())

    def loss(kappa: Tensor, eta: Tensor) -> Tensor:
        scalars = {"attention.kappa": kappa, "attention.eta": eta}
        return loss_of(torch.func.functional_call(block, parameters | scalars, (batch,)))

    scalars = (block.attention.kappa.detach(), block.attention.eta.detach())
    expected = torch.autograd.grad(loss_of(block(batch)), [block.attention.kappa, block.attention.eta])
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        assert_same_gradients(list(transform(loss, argnums=(0, 1))(*scalars)), list(expected))
    hessian = torch.func.hessian(loss, argnums=(0, 1))(*scalars)
    numerics.assert_same(hessian[0][1], hessian[1][0], scale=0.1)


# Several processes

WORKER = """
import gc, sys
import torch, torch.distributed as dist
import torch.distributed.nn  # before there is a process group, which its functions would keep
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[3])
from test_attention_layer import Block, loss_of, tokens

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
block = DistributedDataParallel(Block("torch"))
loss_of(block(tokens(4)[rank::2])).backward()
torch.save([parameter.grad for parameter in block.parameters()], f"{store}.{rank}")
dist.barrier()
# the last reference ends the group's threads, one of which could abort the process at its end
del block
gc.collect()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_their_gradients(repository, tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WORKER,
                str(rank),
                str(tmp_path / "store"),
                str(repository / "tests"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(errors)
    first, second = (torch.load(tmp_path / f"store.{rank}") for rank in range(2))
    assert all(map(torch.equal, first, second))
    assert_same_gradients(first, gradients(Block("torch"), tokens(4)))
