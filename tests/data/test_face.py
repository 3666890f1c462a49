"""The names that `m2det.data` offers."""

import subprocess
import sys

import pytest

import m2det.data
from tests.conftest import ROOT


@pytest.mark.parametrize("name", m2det.data.__all__)
def test_every_name_is_the_one_of_its_module(name):
    assert getattr(m2det.data, name).__name__ == name


def test_importing_the_package_imports_no_library():
    program = "import sys, m2det.data; print({'cv2', 'lmdb', 'numpy', 'pyarrow', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'m2det\.data' has no attribute 'Unknown'"):
        m2det.data.Unknown  # noqa: B018
