"""Fixtures of the training's tests."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from m2det.train.writer import BackgroundWriter


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """Join a process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def in_background(monkeypatch):
    """Write checkpoints in a thread, as on an accelerator."""
    monkeypatch.setattr("m2det.train.trainer.make_writer", lambda _, on_error: BackgroundWriter(on_error))
