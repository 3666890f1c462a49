"""What is seen of a training while it runs, whatever run.log_every says."""

import json
import re

import pytest
import torch

from m2det.distributed.group import ALONE
from m2det.progress import VARIABLE
from m2det.train.loss_monitor import LossMonitor
from m2det.train.state import Callbacks
from tests.training import run, settings

STEP_SECONDS = 25.0


class Watched(Callbacks):
    """Each step takes 25 seconds of the progress's clock; what the file holds after it is kept."""

    def __init__(self, file) -> None:
        self.now, self.file, self.contents = 0.0, file, []

    def on_step_begin(self, state):  # noqa: ARG002
        self.now += STEP_SECONDS

    def on_step_end(self, state):  # noqa: ARG002
        self.contents.append(json.loads(self.file.read_text()))


@pytest.fixture
def watched(tmp_path, monkeypatch):
    watched = Watched(tmp_path / "progress.json")
    monkeypatch.setenv(VARIABLE, str(watched.file))
    monkeypatch.setattr("m2det.progress.time.perf_counter", lambda: watched.now)
    return watched


def progress_lines(folder):
    return [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("step ")]


def test_lines_and_the_file_come_by_the_clock_and_change_no_bit(material, tmp_path, watched):
    params = settings(epochs=4, log_every=10**9, evaluate_every=2)
    result = run(material, tmp_path, params, watched)
    steps = [int(re.match(r"step (\d+)/12 ", line)[1]) for line in progress_lines(tmp_path)]
    assert steps == [1, 3, 5, 6, 8, 9, 11, 12], "after 25 seconds, then before a minute is over, and at an epoch's end"
    number = r"[\d.e+-]+"
    assert re.fullmatch(
        rf"step 5/12 41% epoch 1.67/4 loss_loc {number} loss_conf {number} \(epoch mean of process 0\) lr {number} "
        rf"0.16 img/s data_wait \d+% {number} TFLOP/s mem {number} GB eta 2:55",
        progress_lines(tmp_path)[2],
    ), progress_lines(tmp_path)[2]

    assert [content["done"] for content in watched.contents] == list(range(1, 13))
    first, last = watched.contents[0], watched.contents[-1]
    same = {"stage": "train", "doing": "training", "total": 12, "unit": "steps", "img_s": 0.16}
    assert first == same | {"done": 1, "eta_s": 275}
    assert last == same | {"done": 12, "eta_s": 0, "loss": last["loss"], "AP": result.rows[1]["AP"]}
    read = re.search(rf"step 11/12 .* loss_loc ({number}) loss_conf ({number}) ", progress_lines(tmp_path)[6])
    assert last["loss"] == pytest.approx(float(read[1]) + float(read[2]), abs=0.002)

    watched.file.unlink()
    with pytest.MonkeyPatch.context() as plain:
        plain.delenv(VARIABLE)
        plain.setattr("m2det.progress.time.perf_counter", iter(range(10**9)).__next__)
        unseen = run(material, tmp_path / "unseen", params)
    assert not watched.file.exists() and unseen.rows == result.rows
    for name, tensor in unseen.model.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name]), name


def test_an_evaluation_within_a_training_is_no_silence(material, tmp_path, monkeypatch):
    monkeypatch.setattr("m2det.progress.FIRST_LINE", 0.0)
    run(material, tmp_path, settings(epochs=1, log_every=10**9))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert any(re.fullmatch(r"evaluating: 1/\d+ images \d+% .* img/s eta \d+:\d\d", line) for line in lines), lines


def test_a_line_by_the_clock_reads_nothing_from_an_accelerator():
    """As torch's device meta, whose values cannot be read."""
    monitor = LossMonitor(ALONE, torch.device("meta"), str)
    monitor.update(0, {name: torch.zeros((), device="meta") for name in ("loc", "conf")})
    monitor.end_step()
    assert monitor.own_mean() == {}
