"""Fixtures and settings of all tests: sample data beside the checkout, signals, how processes start."""

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# set before torch is imported: two threads sum in another order than one, and tests run in parallel
os.environ.setdefault("OMP_NUM_THREADS", "1")

# as in a terminal: processes that tests start under nohup or in a background job would ignore these signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of sample data beside the checkout; tests that use it skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside this checkout: sample data is not part of a clone")
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a packed cache of 14 images with one bright square each, and a backbone."""
    from tests.squares import make_material  # it imports torch, which reads OMP_NUM_THREADS

    return make_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def quiet_signals() -> Iterator[None]:
    """Keep pytest from printing a traceback when a forked process is killed by SIGBUS."""
    faulthandler.disable()
    yield
    faulthandler.enable(sys.__stderr__)


@pytest.fixture
def forkserver() -> Iterator[None]:
    """Start processes by forkserver, the default from Python 3.14 on."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)
