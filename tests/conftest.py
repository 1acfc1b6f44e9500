"""Fixtures that every folder of tests shares; what one operator needs stands beside its own tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout, for tests that read the sources themselves."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real images that RPE_TEST_DATA names; skips, with the reason, where there is none."""
    root = os.environ.get("RPE_TEST_DATA")
    if not root:
        pytest.skip("RPE_TEST_DATA is not set: no real data on this machine")
    if not Path(root).is_dir():
        pytest.fail(f"RPE_TEST_DATA names {root}, which is not a folder")
    return Path(root)
