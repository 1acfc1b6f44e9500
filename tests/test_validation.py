"""Every bad input of the contract: the message names the function, the argument, what came, and the remedy."""

import math
import re
from types import SimpleNamespace

import pytest
import torch

import rpe_ops
from rpe_ops import validate

ROWS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([0, 0, 1, 1])
NAN, INF = math.nan, math.inf
HALF = torch.tensor(0.5)

# function, arguments over the good ones, exception, argument named, what came, remedy (regular expressions)
EMBEDDINGS = [
    ({"embedding": [[1.0, 0.0]]}, TypeError, "embedding", r"got list \[\[1.0, 0.0\]\]", "torch.as_tensor"),
    ({"embedding": None}, TypeError, "embedding", "got NoneType None", "torch.as_tensor"),
    ({"embedding": ROWS.long()}, TypeError, "embedding", r"got int64 \[4, 3\]", "float32"),
    ({"embedding": ROWS.to(torch.complex64)}, TypeError, "embedding", r"got complex64 \[4, 3\]", "float32"),
    ({"embedding": ROWS > 0}, TypeError, "embedding", r"got bool \[4, 3\]", "float32"),
    ({"embedding": ROWS.to_sparse()}, TypeError, "embedding", "got a torch.sparse_coo", "to_dense"),
    ({"embedding": ROWS[0]}, ValueError, "embedding", r"got float32 \[3\]", ";"),
    ({"embedding": ROWS[None, None]}, ValueError, "embedding", r"got float32 \[1, 1, 4, 3\]", "feature maps"),
    ({"embedding": torch.zeros(4, 0)}, ValueError, "embedding", r"got float32 \[4, 0\]", "at least 1"),
    ({"offsets": [0, 4]}, TypeError, "offsets", r"got list \[0, 4\]", "torch.as_tensor"),
    (
        {"offsets": torch.tensor([0.0, 4.0])},
        TypeError,
        "offsets",
        r"got float32 \[2\]",
        "first row of each image",
    ),
    (
        {"offsets": torch.tensor([[0, 4]])},
        ValueError,
        "offsets",
        r"got int64 \[1, 2\]",
        "first row of each image",
    ),
    ({"offsets": torch.tensor(4)}, ValueError, "offsets", r"got int64 \[\]", "first row of each image"),
    (
        {"offsets": torch.zeros(0).long()},
        ValueError,
        "offsets",
        r"got int64 \[0\]",
        "first row of each image",
    ),
    ({"offsets": torch.tensor([0, 3])}, ValueError, "offsets", r"got \[0, 3\]", "first row of each image"),
    ({"offsets": torch.tensor([1, 4])}, ValueError, "offsets", r"got \[1, 4\]", "first row of each image"),
    ({"offsets": torch.tensor([0, 3, 2, 4])}, ValueError, "offsets", r"got \[0, 3, 2, 4\]", "first row of"),
    ({"offsets": torch.tensor([0, 9, 4])}, ValueError, "offsets", r"got \[0, 9, 4\]", "first row of each"),
    ({"offsets": torch.tensor([0, -1, 4])}, ValueError, "offsets", r"got \[0, -1, 4\]", "first row of each"),
    (
        {"embedding": ROWS[None], "offsets": torch.tensor([0, 1])},
        ValueError,
        "embedding",
        r"\[1, 4, 3\]",
        "drop",
    ),
    (
        {"backend": "gpu"},
        ValueError,
        "backend",
        "got 'gpu'",
        "'auto', 'reference', 'torch', 'cpu', 'triton', 'cuda'",
    ),
]

LOSSES = [
    ({"label": [0, 0, 1, 1]}, TypeError, "label", r"got list \[0, 0, 1, 1\]", "torch.as_tensor"),
    ({"label": LABEL.float()}, TypeError, "label", r"got float32 \[4\]", "long"),
    ({"label": LABEL[:3]}, ValueError, "label", r"got int64 \[3\]", "one id for each row"),
    ({"label": LABEL[None]}, ValueError, "label", r"got int64 \[1, 4\]", "one id for each row"),
    ({"label": LABEL.to("meta")}, ValueError, "label", "got meta", r"label.to\(embedding.device\)"),
    ({"margin": -0.1}, ValueError, "margin", "got -0.1", r"0.5 is a right angle"),
    ({"margin": 1.1}, ValueError, "margin", "got 1.1", "0.5 is a right angle"),
    ({"margin": NAN}, ValueError, "margin", "got nan", "0.5 is a right angle"),
    ({"margin": "0.5"}, TypeError, "margin", "got str '0.5'", "Python number"),
    ({"margin": None}, TypeError, "margin", "got NoneType", "Python number"),
    ({"margin": HALF}, TypeError, "margin", r"got float32 \[\]", "Python number"),
    ({"weight": "size"}, ValueError, "weight", "got str 'size'", "'instance', 'uniform'"),
    ({"weight": None}, (TypeError, ValueError), "weight", "got NoneType", ";"),
    ({"weight": [1.0] * 4}, TypeError, "weight", "got list", "torch.as_tensor"),
    ({"weight": torch.ones(4).long()}, TypeError, "weight", r"got int64 \[4\]", "float"),
    ({"weight": torch.ones(3)}, ValueError, "weight", r"got float32 \[3\]", "one value for each row"),
    ({"weight": torch.tensor([1.0, -1.0, 0.0, 2.0])}, ValueError, "weight", "from -1 to 2", "at least 0"),
    ({"weight": torch.tensor([1.0, NAN, 0.0, 2.0])}, ValueError, "weight", "nan", "finite"),
    ({"weight": torch.tensor([1.0, INF, 0.0, 2.0])}, ValueError, "weight", "inf", "finite"),
    ({"weight": torch.ones(4, requires_grad=True)}, ValueError, "weight", "require grad", r"\.detach\(\)"),
    (
        {"weight": torch.ones(4, device="meta")},
        ValueError,
        "weight",
        "got meta",
        r"weight.to\(embedding.device\)",
    ),
    ({"normalizer": "pairs"}, ValueError, "normalizer", "got str 'pairs'", "'points', 'weights', 'none'"),
    ({"normalizer": None}, ValueError, "normalizer", "got NoneType", "'points', 'weights', 'none'"),
    ({"reduction": "max"}, ValueError, "reduction", "got str 'max'", "'sum', 'mean', 'none'"),
    ({"ignore_index": 0.0}, TypeError, "ignore_index", "got float 0.0", "one label value"),
    ({"ignore_index": True}, TypeError, "ignore_index", "got bool True", "one label value"),
    ({"label": LABEL.to_sparse()}, TypeError, "label", "got a torch.sparse_coo", "to_dense"),
    ({"ignore_index": [255]}, TypeError, "ignore_index", r"got list \[255\]", "one label value"),
]

SHIFTS = [
    ({"kappa": None}, ValueError, "kappa and bandwidth", "got neither", "kappa_from_margin"),
    ({"bandwidth": 0.1}, ValueError, "kappa and bandwidth", "got both", "kappa_from_margin"),
    ({"kappa": 0.0}, ValueError, "kappa", "got 0", "above 0"),
    ({"kappa": -3.0}, ValueError, "kappa", "got -3", "above 0"),
    ({"kappa": NAN}, ValueError, "kappa", "got nan", "finite"),
    ({"kappa": INF}, ValueError, "kappa", "got inf", "finite"),
    ({"kappa": 1e39}, ValueError, "kappa", "got 1e[+]39", "float64"),
    ({"kappa": 9.0, "eta": 1e39}, ValueError, "eta", "got 1e[+]39", "smaller"),
    ({"kappa": "20"}, TypeError, "kappa", "got str '20'", "Python number"),
    ({"kappa": True}, TypeError, "kappa", "got bool True", "Python number"),
    ({"kappa": torch.tensor(-1.0)}, ValueError, "kappa", "got -1", "above 0"),
    ({"kappa": torch.tensor(NAN)}, ValueError, "kappa", "got nan", "finite"),
    ({"kappa": torch.ones(4)}, ValueError, "kappa", r"got float32 \[4\]", "one value serves all"),
    ({"kappa": torch.tensor(3)}, TypeError, "kappa", r"got int64 \[\]", "0-d floating"),
    ({"kappa": None, "bandwidth": 0.0}, ValueError, "bandwidth", "got 0", "above 0"),
    ({"kappa": None, "bandwidth": -0.1}, ValueError, "bandwidth", "got -0.1", "above 0"),
    ({"kappa": None, "bandwidth": 1e-200}, ValueError, "bandwidth", "got 1e-200", "another value"),
    ({"eta": -0.5}, ValueError, "eta", "got -0.5", "at least 0"),
    ({"eta": INF}, ValueError, "eta", "got inf", "finite"),
    ({"eta": None}, TypeError, "eta", "got NoneType", "Python number"),
    ({"eta": torch.ones(2)}, ValueError, "eta", r"got float32 \[2\]", "one value serves all"),
    ({"num_steps": -1}, ValueError, "num_steps", "got -1", "only normalises"),
    ({"num_steps": 1.5}, TypeError, "num_steps", "got float 1.5", "0 or more steps"),
    ({"num_steps": True}, TypeError, "num_steps", "got bool True", "0 or more steps"),
    ({"tol": -1e-3}, ValueError, "tol", "got -0.001", "0 is exact"),
    ({"tol": 1.0}, ValueError, "tol", "got 1", "0 is exact"),
    ({"tol": "0"}, TypeError, "tol", "got str '0'", "Python number"),
    ({"seeds": [[1.0, 0.0, 0.0]]}, TypeError, "seeds", "got list", "torch.as_tensor"),
    ({"seeds": ROWS.double()}, TypeError, "seeds", "got torch.float64", "seeds.to"),
    ({"seeds": ROWS[:, :2]}, ValueError, "seeds", r"got float32 \[4, 2\]", "3 columns"),
    ({"seeds": ROWS[0]}, ValueError, "seeds", r"got float32 \[3\]", ";"),
    ({"seeds": ROWS.expand(2, 4, 3)}, ValueError, "seeds", "got 2 groups for 1 image", "seed_offsets"),
    ({"seeds": ROWS.to("meta")}, ValueError, "seeds", "got meta", r"seeds.to\(embedding.device\)"),
    ({"seed_offsets": torch.tensor([0, 4])}, ValueError, "seed_offsets", "without seeds", "drop it"),
    (
        {"seeds": ROWS, "seed_offsets": torch.tensor([0, 3])},
        ValueError,
        "seed_offsets",
        r"got \[0, 3\]",
        "first row",
    ),
    (
        {"seeds": ROWS, "seed_offsets": torch.tensor([0, 2, 4])},
        ValueError,
        "seeds",
        "got 2 groups",
        "seed_offsets",
    ),
    ({"weight": "instance"}, TypeError, "weight", "got str 'instance'", "torch.as_tensor"),
    ({"weight": torch.ones(3)}, ValueError, "weight", r"got float32 \[3\]", "one value for each row"),
    ({"weight": -torch.ones(4)}, ValueError, "weight", "from -1 to -1", "at least 0"),
    ({"weight": torch.ones(4).int()}, TypeError, "weight", r"got int32 \[4\]", "float"),
    ({"weight": torch.ones(4).to_sparse()}, TypeError, "weight", "got a torch.sparse_coo", "to_dense"),
    (
        {"weight": torch.full((4,), 1e300, dtype=torch.float64)},
        ValueError,
        "weight",
        "got values up to 1e",
        "largest value",
    ),
    ({"backend": ["cpu"]}, ValueError, "backend", r"got \['cpu'\]", "one of"),
]

COMPONENTS = [
    ({"threshold": -0.1}, ValueError, "threshold", "got -0.1", "right angle"),
    ({"threshold": 1.01}, ValueError, "threshold", "got 1.01", "right angle"),
    ({"threshold": NAN}, ValueError, "threshold", "got nan", "right angle"),
    ({"threshold": "0.9"}, TypeError, "threshold", "got str '0.9'", "Python number"),
]

GOOD = {
    "pairwise_loss": {"embedding": ROWS, "label": LABEL},
    "mean_shift": {"embedding": ROWS, "kappa": 20.0},
    "connected_components": {"embedding": ROWS, "threshold": 0.9},
}
OWN = {"pairwise_loss": LOSSES, "mean_shift": SHIFTS, "connected_components": COMPONENTS}
CASES = [(function, *case) for function in GOOD for case in (*EMBEDDINGS, *OWN[function])]
IDS = [f"{case[0]}-{'-'.join(case[1])}-{index}" for index, case in enumerate(CASES)]


@pytest.mark.parametrize("function, changed, exception, argument, came, remedy", CASES, ids=IDS)
def test_message(function, changed, exception, argument, came, remedy):
    with pytest.raises(exception) as caught:
        getattr(rpe_ops, function)(**(GOOD[function] | changed))
    message = str(caught.value)
    assert message.startswith(f"{function}: "), message
    for pattern in (rf"\b{argument}\b", came, remedy):
        assert re.search(pattern, message), f"{pattern!r} is not in: {message}"


@pytest.mark.parametrize("function", GOOD)
def test_the_good_arguments_are_good(function):
    getattr(rpe_ops, function)(**GOOD[function])


def test_the_message_of_the_contract_word_for_word():
    with pytest.raises(TypeError) as caught:
        rpe_ops.mean_shift(torch.zeros(3, 64, 32, 32, dtype=torch.int64), kappa=20.0)
    assert str(caught.value) == (
        "mean_shift: embedding must be a floating tensor [N, D], [B, N, D] or [T, D] with offsets, "
        "got int64 [3, 64, 32, 32]; for feature maps use rpe_ops.nn.MeanShift(channel_dim=1)"
    )


@pytest.mark.parametrize("function", GOOD)
@pytest.mark.parametrize("backend", ["triton", "cuda", "cpu"])
def test_a_backend_that_cannot_run_says_why(function, backend):
    device = "meta" if backend == "cpu" else "cpu"
    reason = rpe_ops.available_backends(device)[backend]
    if reason is None:
        pytest.skip(f"backend {backend} can run here")
    arguments = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in GOOD[function].items()
    }
    with pytest.raises(RuntimeError) as caught:
        getattr(rpe_ops, function)(**arguments, backend=backend)
    message = str(caught.value)
    assert message.startswith(f"{function}: backend '{backend}' cannot run on {device} tensors")
    assert reason in message
    for name in rpe_ops.available_backends(device):
        assert f"{name}: " in message


def test_numbers_of_other_libraries_are_numbers():
    numpy = pytest.importorskip("numpy")
    expected = rpe_ops.pairwise_loss(ROWS, LABEL, margin=0.5, ignore_index=1)
    assert torch.equal(
        rpe_ops.pairwise_loss(ROWS, LABEL, margin=numpy.float32(0.5), ignore_index=numpy.int64(1)), expected
    )
    moved = rpe_ops.mean_shift(ROWS, kappa=20.0, eta=1.0, num_steps=2)
    other = rpe_ops.mean_shift(ROWS, kappa=numpy.float64(20.0), eta=1, num_steps=numpy.int32(2))
    assert torch.equal(other, moved)


def test_arguments_after_the_tensors_are_keywords():
    with pytest.raises(TypeError):
        rpe_ops.pairwise_loss(ROWS, LABEL, 0.5)
    with pytest.raises(TypeError):
        rpe_ops.mean_shift(ROWS, 20.0)
    with pytest.raises(TypeError):
        rpe_ops.connected_components(ROWS, 0.9)


def test_all_backends_refuse_alike(backend):
    for function, arguments in GOOD.items():
        messages = set()
        for chosen in (backend, "reference"):
            with pytest.raises(TypeError) as caught:
                getattr(rpe_ops, function)(**(arguments | {"embedding": ROWS.long()}), backend=chosen)
            messages.add(str(caught.value))
        assert len(messages) == 1


def test_tensors_from_the_cpu_are_refused_in_a_cuda_graph(monkeypatch):
    on_gpu = SimpleNamespace(is_cuda=True, device="cuda:0")
    kappa = torch.tensor(9.0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    validate.stays_in_capture("mean_shift", "kappa", kappa, on_gpu)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    validate.stays_in_capture("mean_shift", "kappa", kappa, ROWS)
    with pytest.raises(ValueError, match="kappa must be on cuda:0 while a CUDA graph is captured"):
        validate.stays_in_capture("mean_shift", "kappa", kappa, on_gpu)
    validate.stays_in_capture("mean_shift", "kappa", 9.0, on_gpu)


def test_what_cannot_be_captured_is_refused_in_a_cuda_graph(monkeypatch):
    on_gpu = SimpleNamespace(is_cuda=True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    validate.can_be_captured("mean_shift", on_gpu, "this")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    validate.can_be_captured("mean_shift", on_gpu, None)
    validate.can_be_captured("mean_shift", ROWS, "this")
    with pytest.raises(RuntimeError, match="mean_shift: a CUDA graph cannot capture this"):
        validate.can_be_captured("mean_shift", on_gpu, "this")


@pytest.mark.parametrize(
    "function, name, remedy",
    [
        ("mean_shift", "embedding", r"use rpe_ops.nn.MeanShift\(channel_dim=1\)$"),
        ("pairwise_loss", "embedding", r"use rpe_ops.nn.PairwiseLoss\(channel_dim=1\)$"),
        ("select_seeds", "embedding", r"embedding.flatten\(2\).mT$"),
        ("mean_shift", "seeds", r"seeds.flatten\(2\).mT$"),
    ],
)
def test_feature_maps_are_told_how_to_be_rows(function, name, remedy):
    with pytest.raises(ValueError, match=remedy):
        validate.embedding_rows(function, torch.ones(2, 3, 4, 5), None, name=name)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_told_how_to_be_packed(layout):
    nested = torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(2, 4)], layout=layout)
    with pytest.raises(TypeError, match=r"embedding.values\(\) and offsets=embedding.offsets\(\)"):
        rpe_ops.mean_shift(nested, kappa=9.0)


def test_negative_first_seeds_are_refused_in_compiled_code_too(monkeypatch):
    monkeypatch.setattr(validate, "can_read", lambda tensor: False)
    with pytest.raises(ValueError, match="first must be a row number .* got int -1"):
        rpe_ops.select_seeds(ROWS, 2, first=-1)
