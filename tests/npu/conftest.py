"""Tests marked `inside("torch_npu")` or `inside("strict")` run in a process of their own that has that simulated NPU.

All such tests of one file share one process; here each only reports what became of it there. Those marked
`inside("torch_npu", CHIP)` share one in which the NPU is that chip.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.npu.build import Unavailable, environment_with_torch_npu, simulated_npu_environment, strict_device

if library := os.environ.get("M2DET_STRICT_NPU"):
    from tests.npu.strict import install

    install(Path(library))  # before anything runs backward: autograd counts the devices then
INSIDE = "M2DET_STRICT_NPU" in os.environ or os.environ.get("M2DET_SIMULATED_NPU") == "1"


@pytest.fixture(scope="session")
def python_with_torch_npu():
    """The Python of an environment with the real torch_npu over stand-ins for CANN."""
    try:
        return environment_with_torch_npu()
    except Unavailable as reason:
        pytest.skip(str(reason))


def pytest_configure(config):
    config.addinivalue_line("markers", "inside(which, chip): runs where that simulated NPU is")


def pytest_collection_modifyitems(items):
    if not INSIDE:
        items[:] = [There.of(item) if item.get_closest_marker("inside") else item for item in items]


class There(pytest.Item):
    """A test that runs in the other process, and its outcome here."""

    @classmethod
    def of(cls, item):
        there = cls.from_parent(item.parent, name=item.name)
        there.own_markers = item.own_markers  # a parameter's own among them, before the file's
        return there

    def runtest(self):
        path = str(self.path.relative_to(ROOT))
        where = self.get_closest_marker("inside").args
        there = [i for i in self.session.items if isinstance(i, There) and i.path == self.path]
        chosen = tuple(i.name for i in there if i.get_closest_marker("inside").args == where)
        outcomes = run_file(where, path, chosen, str(self.config.getoption("-m")))
        if self.name not in outcomes:
            pytest.fail(outcomes["output"], pytrace=False)
        for problem in outcomes[self.name]:
            if problem.tag == "skipped":
                pytest.skip(problem.get("message"))
            elif problem.tag in ("failure", "error"):
                pytest.fail(problem.text, pytrace=False)


@cache
def run_file(where, path, names, mark):
    """The XML element of each test's outcome by its name, and under "output" what the process printed."""
    try:
        if where == ("strict",):
            python, environment = sys.executable, os.environ | {"M2DET_STRICT_NPU": str(strict_device())}
        else:
            python, environment = str(environment_with_torch_npu()), simulated_npu_environment(*where[1:])
            environment["TORCH_NPU_FALLBACK_CPU_DISABLE"] = "1"  # an operator without an NPU kernel is an error
    except Unavailable as reason:
        pytest.skip(str(reason))
    report = ROOT / ".npu-sim" / f"{Path(path).stem}-{os.getpid()}.xml"
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", mark]
    command += [f"--junitxml={report}", *(f"{path}::{name}" for name in names)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    outcomes = {"output": done.stdout[-3000:] + done.stderr[-3000:]}
    if report.exists():
        outcomes |= {case.get("name"): case for case in ET.parse(report).iter("testcase")}
        report.unlink()
    return outcomes
