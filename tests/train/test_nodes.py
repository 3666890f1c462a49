"""Two nodes train as one: two torchruns on this machine, each for its node, with gloo."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from m2det.config import load_params
from m2det.distributed.children import run_child
from m2det.train.rank import train_distributed
from tests.conftest import ROOT
from tests.training import write_params

pytestmark = pytest.mark.slow


def free_port() -> int:
    """A port that is free, and the next one, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@contextmanager
def joined(port: int, cache: Path, *options: str) -> Iterator[subprocess.Popen]:
    """`m2det join` as a process, which has ended at the end of the block."""
    command = [sys.executable, "-m", "m2det", "join", f"127.0.0.1:{port}", "--cache", str(cache), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def together(material, folder: Path, **options):
    params_file = write_params(folder, microbatch=2, **options)
    return train_distributed(
        load_params(params_file), params_file, *material, folder / "state", options["processes"], run_child
    )


def test_two_nodes_train_the_bytes_of_one(material, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    port = free_port()
    one = together(material, tmp_path / "one", processes=2)
    with joined(port, material[0]) as other:
        two = together(material, tmp_path / "two", processes=1, nodes=2, rendezvous=f"127.0.0.1:{port}")
    assert other.returncode == 0, other.stdout.read()
    assert two.rows == one.rows
    found = two.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in one.model.state_dict().items())
