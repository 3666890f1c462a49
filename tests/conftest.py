"""Where material that is not part of the project lies, when it is there at all; how processes of tests begin."""

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# before torch reads it: two threads add up in another order than one, and tests run side by side
os.environ.setdefault("OMP_NUM_THREADS", "1")

# as in a terminal: under nohup, or as a shell's background job, processes that tests start would ignore these
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and sample data beside the checkout; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside this checkout: golden numbers and sample data are not part of a clone")
    return folder


@pytest.fixture
def quiet_signals() -> Iterator[None]:
    """Processes forked inside may be killed by SIGBUS without pytest's trace of them."""
    faulthandler.disable()
    yield
    faulthandler.enable(sys.__stderr__)


@pytest.fixture
def forkserver() -> Iterator[None]:
    """Processes start as from Python 3.14 on: not as copies of this one."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)
