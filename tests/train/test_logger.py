"""What a progress line says of the time."""

import re

import torch

from m2det.distributed.threads import describe_load
from m2det.model.flops import Cost
from m2det.progress import ETA_LINES
from m2det.train.logger import TrainingLog


def test_the_remaining_time_follows_the_recent_rate(tmp_path, monkeypatch):
    """A machine that was busy at first, 10 seconds a step, and then is not: 1 second a step."""
    now = [0.0]
    monkeypatch.setattr("m2det.progress.time.perf_counter", lambda: now[0])
    path, steps = tmp_path / "log.txt", 1000
    with TrainingLog(path, 0, steps, 4, Cost(0.0, 0.0, torch.device("cpu"))) as log:
        for step in range(1, 121):
            now[0] += 10.0 if step <= 100 else 1.0
            log.step_done()
            log.progress(0.0, 1, {"loc": 1.0}, 0.1, 1.0)
    found = [re.search(r"eta (\d+):(\d\d)", line) for line in path.read_text().splitlines()]
    seconds = [60 * int(eta[1]) + int(eta[2]) for eta in found]
    assert seconds[99] == 10 * (steps - 100)
    assert seconds[99 + ETA_LINES] == steps - 100 - ETA_LINES, "the busy time is forgotten"


def test_a_rate_that_falls_is_told_with_the_load_of_the_machine(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("m2det.progress.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("m2det.distributed.threads.os.getloadavg", lambda: (8.13, 4.0, 2.0))
    path = tmp_path / "log.txt"
    with TrainingLog(path, 0, 4, 4, Cost(0.0, 0.0, torch.device("cpu"))) as log:
        for seconds in (2.0, 1.0, 1.5, 4.0):
            now[0] += seconds
            log.step_done()
            log.progress(0.0, 1, {"loc": 1.0}, 0.1, 1.0)
    lines = path.read_text().splitlines()
    assert [line.endswith(f"; slower than before: {describe_load()}") for line in lines] == [False, False, False, True]
    assert re.fullmatch(r"load 8\.1 on \d+ cores?, \d+ threads?", describe_load())
