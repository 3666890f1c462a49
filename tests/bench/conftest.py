"""The measurements train on the squares of tests/train."""

from tests.train.conftest import material  # noqa: F401
