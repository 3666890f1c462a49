"""Training resumes bit for bit, learns, stops on a loss that is not finite, and can be asked to stop."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from m2det.config import Params, load_params
from m2det.data.loader import TrainingOrder
from m2det.data.store import PackedSplit
from m2det.errors import InputError
from m2det.loss import MultiBoxLoss
from m2det.model import prior_boxes
from m2det.train import loop
from m2det.train.checkpoint import load_state
from m2det.train.group import Group
from m2det.train.log import write_curves
from m2det.train.precision import Precision
from m2det.train.run import Run
from m2det.train.validate import validate
from tests.conftest import ROOT


def settings(**changes) -> Params:
    base = load_params(ROOT / "params.yaml").model_dump()
    base |= {"epochs": 3, "device": "cpu"}
    base["train"] |= {"batch_size": 4, "workers": 0, "evaluate_every": 2, "log_every": 1, "max_steps": 0}
    for key, value in changes.items():
        target = base["train"] if key in base["train"] else base
        target[key] = value
    return Params.model_validate(base)


def run(material, folder, params):
    return loop.train(params, *material, folder / "state", folder / "log.txt")


def interrupt_at_5(material, folder, params, monkeypatch):
    """Train until SIGTERM arrives in the fifth step."""
    note = Run.note

    def stop_after_5(self, losses):
        note(self, losses)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(Run, "note", stop_after_5)
        run(material, folder, params)
    assert stopped.value.code == 143
    assert load_state(folder / "state")["step"] == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(material, tmp_path, monkeypatch, workers):
    whole = run(material, tmp_path / "whole", settings())
    interrupt_at_5(material, tmp_path / "parts", settings(workers=workers), monkeypatch)
    resumed = run(material, tmp_path / "parts", settings(workers=workers))
    assert resumed.steps == whole.steps == 9
    assert resumed.rows == whole.rows
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_it_learns(material, tmp_path):
    """120 steps bring AP50 to 1.0 on any number of threads."""
    options = {"epochs": 40, "lr": 0.04, "ema": 0.0, "crop_probability": 0.0, "expand_probability": 0.0}
    outcome = run(material, tmp_path, settings(**options))
    first, last = outcome.rows[0], outcome.rows[-1]
    # not the confidence: its negatives are mined anew at each step, always the hardest
    assert last["loss_loc"] < 0.5 * first["loss_loc"]
    assert last["AP50"] > 0.7


def test_best_keeps_the_best_epoch(material, tmp_path):
    outcome = run(material, tmp_path, settings(epochs=4, keep="best"))
    best = max((row for row in outcome.rows if "AP" in row), key=lambda row: row["AP"])
    assert outcome.kept_epoch == best["epoch"]
    model, split = outcome.model.eval(), PackedSplit(material[0], "val")
    found = validate(model, prior_boxes(model.config), split, 96, torch.device("cpu"), Group())
    assert found["AP"] == pytest.approx(best["AP"], abs=1e-4)


def test_a_loss_that_is_not_finite_stops_with_the_images(material, tmp_path, monkeypatch):
    order = TrainingOrder(14, 4, settings().seed, 9)
    third = {1 + index for _, index in order.batch(2)}
    forward = MultiBoxLoss.forward
    calls = iter(range(100))

    def poisoned(self, *arguments):
        losses = forward(self, *arguments)
        return {**losses, "loc": losses["loc"] * (float("nan") if next(calls) == 2 else 1)}

    monkeypatch.setattr(MultiBoxLoss, "forward", poisoned)
    with pytest.raises(InputError) as error:
        run(material, tmp_path, settings())
    assert "step 3 is not finite" in str(error.value)
    assert {int(i) for i in str(error.value).split("[")[1].split("]")[0].split(",")} == third


def test_the_first_layer_that_is_not_finite_is_named_and_no_update_follows(material, tmp_path, monkeypatch):
    note, weights = Run.note, {}

    def poison(self, losses):
        note(self, losses)
        if self.step == 3:  # in the fourth step this layer's output overflows
            self.model.unet2.layers[0].conv.register_forward_hook(lambda *call: call[2] * float("inf"))
        if self.step == 4:
            weights.update({k: v.clone() for k, v in self.model.named_parameters()})
        if self.step == 6:
            for name, parameter in self.model.named_parameters():
                assert torch.equal(parameter, weights[name]), name

    monkeypatch.setattr(Run, "note", poison)
    with pytest.raises(InputError, match=r"the loss of step 4 .*first: the output of layer unet2\.layers\.0\.conv"):
        run(material, tmp_path, settings(log_every=6))


def test_infinite_weights_are_named(material, tmp_path, monkeypatch):
    note = Run.note

    def poison(self, losses):
        note(self, losses)
        if self.step == 2:
            with torch.no_grad():
                self.model.loc[1].bias[0] = float("nan")

    monkeypatch.setattr(Run, "note", poison)
    with pytest.raises(InputError, match=r"the loss of step 3 .*first: the weights loc\.1\.bias"):
        run(material, tmp_path, settings())


def test_infinite_weights_are_never_kept(material, tmp_path, monkeypatch):
    """A finite loss with an infinite gradient at the last step: nothing later would see it."""
    step = Precision.step

    def poison(self, optimizer, clip_norm, skip):
        step(self, optimizer, clip_norm, skip)
        if next(calls) == 9:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0][0] = float("inf")

    calls = iter(range(1, 100))
    monkeypatch.setattr(Precision, "step", poison)
    with pytest.raises(InputError, match=r"after step 9 the weights unet1.* are not finite"):
        run(material, tmp_path, settings())


def test_who_interrupts_an_evaluation_loses_no_epoch(material, tmp_path, monkeypatch):
    whole = run(material, tmp_path / "whole", settings())

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("m2det.train.run.validate", interrupted)
        run(material, tmp_path / "parts", settings())
    assert load_state(tmp_path / "parts/state")["step"] == 6
    resumed = run(material, tmp_path / "parts", settings())
    assert resumed.rows == whole.rows


def test_options_that_help_train_and_resume(material, tmp_path, monkeypatch):
    """EMA, cosine, label smoothing and undecayed norms, interrupted and resumed: the same as undisturbed."""
    options = {"ema": 0.9, "schedule": "cosine", "label_smoothing": 0.1, "decay_norms": False, "optimizer": "adamw"}
    whole = run(material, tmp_path / "whole", settings(**options))
    plain = run(material, tmp_path / "plain", settings(**(options | {"ema": 0.0})))
    assert not torch.equal(whole.model.loc[0].weight, plain.model.loc[0].weight)
    interrupt_at_5(material, tmp_path / "parts", settings(**options), monkeypatch)
    resumed = run(material, tmp_path / "parts", settings(**options))
    assert resumed.rows == whole.rows
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_what_is_frozen_stays(material, tmp_path):
    frozen = run(material, tmp_path, settings(freeze_backbone=True, freeze_norms=True, epochs=2))
    state, given = frozen.model.state_dict(), load_file(str(material[1]))
    assert all(torch.equal(state[key], value) for key, value in given.items())
    assert all((v == 0).all() for k, v in state.items() if k.endswith("running_mean"))
    assert state["Norm.weight"].ne(1).any()  # statistics only: its parameters are trained


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_record_is_one_sentence_that_names_it(material, tmp_path, workers):
    """LMDB has no checksums: a flipped byte would train in silence."""
    cache = shutil.copytree(material[0], tmp_path / "cache")
    data = bytearray((cache / "train.lmdb").read_bytes())
    jpeg = PackedSplit(material[0], "train").record(3)
    data[data.index(jpeg) + len(jpeg) // 2] ^= 1
    (cache / "train.lmdb").write_bytes(data)
    with pytest.raises(InputError) as error:
        loop.train(settings(workers=workers), cache, material[1], tmp_path / "state", tmp_path / "log.txt")
    assert str(error.value) == f"{cache}/train.lmdb is damaged at image 4.jpg; run `dvc repro -f pack`"


def test_impossible_settings_are_refused(material, tmp_path):
    with pytest.raises(InputError, match="a CPU has no synchronised"):
        run(material, tmp_path, settings(sync_norms=True))
    one = settings(batch_size=1).model_dump()
    one["model"] = {"name": "m2det320-vgg16", "sfam": False, "overrides": {"planes": 16, "levels": 2}}
    with pytest.raises(InputError, match=r"train\.batch_size is 1.* 1x1"):
        run(material, tmp_path, Params.model_validate(one))
    with pytest.raises(InputError, match="there are only 14 training images"):
        run(material, tmp_path, settings(batch_size=15))


def test_every_image_once_an_epoch_and_another_order_in_the_next():
    order = TrainingOrder(12, 4, 1, 6)
    steps = list(order)
    first, second = ([index for batch in part for _, index in batch] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(12)) and first != second
    assert list(TrainingOrder(12, 4, 1, 6, start=4)) == steps[4:]


def test_curves_have_their_columns(tmp_path):
    write_curves(tmp_path / "c.csv", [{"epoch": 1, "step": 2, "lr": 0.1, "loss_loc": 1.0, "loss_conf": 2.0}])
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["epoch", "step", "lr", "loss_loc", "loss_conf", "AP", "AP50"],
        ["1", "2", "0.1", "1.0", "2.0", "", ""],
    ]


@pytest.mark.slow
def test_a_killed_process_resumes(material, tmp_path):
    """SIGKILL anywhere leaves a checkpoint that loads."""
    code = (
        "import logging, sys; from pathlib import Path\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from tests.train.test_loop import settings; from m2det.train import loop\n"
        "cache, backbone, folder = map(Path, sys.argv[1:])\n"
        "out = loop.train(settings(epochs=6), cache, backbone, folder / 'state', folder / 'log.txt')\n"
        "print('finished', out.steps)\n"
    )
    command = [sys.executable, "-c", code, *map(str, material), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (tmp_path / "state/checkpoint.pt").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "resuming at step" in done.stdout and "finished 18" in done.stdout
