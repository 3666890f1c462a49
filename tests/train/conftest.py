"""Fixtures of the training tests."""

import pytest

from m2det.train.writer import BackgroundWriter


@pytest.fixture
def in_background(monkeypatch):
    """Write checkpoints in a thread, as on an accelerator."""
    monkeypatch.setattr("m2det.train.trainer.make_writer", lambda _, on_error: BackgroundWriter(on_error))
