"""Fixtures shared by all tests, and what makes them repeat: seeds, and the same examples of hypothesis in every run."""

import os
import random
import signal
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

import tensloradist._torchvision  # noqa: F401 (before a test imports transformers' image classes by itself)

# No deadline: on a busy machine any example may take long. No database: what failed once in another run is no example.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("random", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("fixed")  # `--hypothesis-profile random` replaces it

# A shell's background job ignores SIGINT, that of nohup SIGHUP, and so would all that the tests start: a process hands
# on what it ignores, and no handlers.
for ignored in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else lambda number, frame: None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start every test, and the fixtures made for it, from the same random numbers, whatever ran before.

    Nor does an Accelerator that a test made choose the next one's precision: Accelerate keeps one state a process.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if accelerate_state := sys.modules.get("accelerate.state"):
        accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets, weights and golden numbers."""
    root = Path(os.environ.get("TENSLORADIST_DATA", Path(__file__).parents[2] / "shared"))
    if not (root / "golden").is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"no real data at {root}: in CI the tests on real data must run")
        pytest.skip(f"no real data at {root}; set TENSLORADIST_DATA")
    return root
