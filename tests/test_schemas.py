"""The operators that the compiled extensions register take what the Python functions above them pass, by name."""

import inspect

import pytest
import torch

from rpe_ops import backends

NAMESPACES = {"cpu": "rpe_ops_native", "cuda": "rpe_ops_cuda"}
# What a Python function makes of its arguments: lists of tiles, in place of the tolerance.
MADE = {"seen", "seeing"}


@pytest.mark.parametrize(
    "operator, function",
    [("mean_shift", "forward"), ("mean_shift", "backward"), ("pairwise_loss", "forward")],
)
def test_arguments_have_the_names_of_the_python_function(backend, operator, function):
    if backend not in NAMESPACES:
        pytest.skip(f"backend {backend} registers nothing with torch")
    backends.package(backend).prepare()
    packet = getattr(getattr(torch.ops, NAMESPACES[backend]), f"{operator}_{function}")
    registered = [argument.name for argument in packet.default._schema.arguments if argument.name not in MADE]
    python = list(
        inspect.signature(getattr(backends.operator_module(backend, operator), function)).parameters
    )
    # an extension need not take what it has no use for
    assert registered == [name for name in python if name in registered]
    assert set(python) - set(registered) <= {"half", "tol"}
