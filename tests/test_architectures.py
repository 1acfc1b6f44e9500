"""Which GPU architectures are compiled for, and which GPUs compiled code serves: no GPU and no nvcc is asked."""

from __future__ import annotations

import pytest

from rpe_ops.extensions import architectures, build

KNOWN = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0))


@pytest.mark.parametrize(
    "listed, expected",
    [
        ("8.0", "8.0"),
        ("8.0;9.0a 10.0+PTX", "8.0 9.0a 10.0+PTX"),
        (" 8.0, 8.0 ; 9.0+ptx ", "8.0 9.0+PTX"),
        ("7.5 8.0 8.6+PTX", "8.0 8.6+PTX"),
        ("Ampere;Hopper", "8.0 8.6+PTX 9.0+PTX"),
        ("Turing Blackwell", "10.0 10.3 12.0"),
    ],
)
def test_pytorchs_list_is_honoured(listed, expected):
    assert architectures.choose(listed, [(9, 0)], KNOWN) == tuple(expected.split())


@pytest.mark.parametrize(
    "gpus, expected",
    [
        ([(8, 0)], "8.0"),
        ([(9, 0), (8, 6), (9, 0)], "8.6 9.0"),
        ([(7, 0), (8, 9)], "8.9"),
        ([(13, 0)], "12.0+PTX"),
        ([(12, 1), (12, 0)], "12.0+PTX"),
        ([(11, 0)], "10.3+PTX"),
    ],
)
def test_without_a_list_the_gpus_decide(gpus, expected):
    chosen = architectures.choose("", gpus, KNOWN)
    assert chosen == tuple(expected.split())
    assert all(architectures.covers(chosen, gpu) for gpu in gpus if gpu >= architectures.OLDEST)


def test_gpus_that_no_nvcc_serves_are_a_reason():
    with pytest.raises(build.Obstacle, match="compute capability 7.0; the kernels need 8.0 or newer"):
        architectures.choose(None, [(7, 0)], KNOWN)


def test_without_a_list_and_a_gpu_a_named_list_is_compiled_for():
    assert architectures.choose(None, [], KNOWN) == ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")
    assert architectures.choose(None, [], KNOWN[:5]) == ("8.0", "8.6", "8.9", "9.0+PTX")
    with pytest.raises(build.Obstacle, match="install another CUDA toolkit"):
        architectures.choose(None, [], KNOWN[:1])


def test_nvccs_listing_is_read_in_any_order():
    assert architectures.known_to_nvcc("compute_110\ncompute_103\ncompute_90\n") == ((9, 0), (10, 3), (11, 0))


def test_flags_name_machine_code_and_ptx():
    assert architectures.nvcc_flags(("8.0", "9.0a", "10.0+PTX")) == (
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    )


@pytest.mark.parametrize(
    "built, gpu, serves",
    [
        ("8.0", (8, 0), True),
        ("8.0", (8, 6), True),
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("8.0+PTX", (9, 0), True),
        ("9.0+PTX", (8, 9), False),
        ("9.0a", (9, 0), True),
        ("9.0a+PTX", (10, 0), False),
        ("10.0a", (10, 3), False),
        ("10.0f", (10, 3), True),
        ("8.0 9.0", (9, 0), True),
        ("", (9, 0), False),
    ],
)
def test_which_gpus_built_code_serves(built, gpu, serves):
    assert architectures.covers(built.split(), gpu) == serves
