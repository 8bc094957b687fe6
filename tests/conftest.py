"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

import tensloradist._torchvision  # noqa: F401 (before a test imports transformers' image classes by itself)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets, weights and golden numbers."""
    root = Path(os.environ.get("TENSLORADIST_DATA", Path(__file__).parents[2] / "shared"))
    if not (root / "golden").is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no real data at {root}: in CI the tests on real data must run")
        pytest.skip(f"no real data at {root}; set TENSLORADIST_DATA")
    return root
