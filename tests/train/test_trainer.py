"""Training resumes bit for bit, learns, stops on a loss that is not finite, and can be asked to stop."""

import csv
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from m2det.config import Params
from m2det.data.packed.reader import REPACK, PackedSplit
from m2det.data.sampler import TrainingBatchSampler
from m2det.distributed.group import ALONE
from m2det.errors import InputError
from m2det.model import build_model, prior_boxes
from m2det.model.flops import forward_flops
from m2det.train.amp import Precision
from m2det.train.checkpoint import checkpoints, load_state, save_state
from m2det.train.evaluator import validate
from m2det.train.logger import write_curves
from m2det.train.state import Callbacks
from m2det.train.trainer import train
from tests.conftest import ROOT
from tests.train.one_of_several import Poisoned, assert_close, first_gradients
from tests.training import AfterStep, interrupt_at_5, run, settings

OBJECTIVES = [pytest.param("multibox", marks=pytest.mark.slow), "aligned"]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"workers": 0}, marks=pytest.mark.slow),
        {"workers": 2},
        pytest.param({"objective": "multibox", "microbatch": 2}, marks=pytest.mark.slow),
        {"objective": "aligned", "microbatch": 2, "loss_normalization": "global"},
        pytest.param({"dtype": "bfloat16", "loss_scale": "dynamic"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(material, tmp_path, how):
    whole = run(material, tmp_path / "whole", settings(**how | {"workers": 0}))
    interrupt_at_5(material, tmp_path / "parts", settings(**how))
    resumed = run(material, tmp_path / "parts", settings(**how))
    assert resumed.steps == whole.steps == 9
    assert resumed.rows == whole.rows
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_learns(material, tmp_path, objective):
    """120 steps bring AP50 to 1.0 on any number of threads."""
    options = {
        "objective": objective,
        "epochs": 40,
        "lr": 0.04,
        "ema_decay": 0.0,
        "crop_probability": 0.0,
        "expand_probability": 0.0,
    }
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
    precision = Precision(settings().precision, torch.device("cpu"))
    metrics = validate(model, prior_boxes(model.config), split, precision.device, ALONE, precision, workers=0)
    assert metrics["AP"] == pytest.approx(best["AP"], abs=1e-4)


def test_a_loss_that_is_not_finite_stops_with_the_images(material, tmp_path, monkeypatch):
    order = TrainingBatchSampler(14, 4, settings().seed, 9)
    third = {1 + index for _, index in order.batch(2)}
    monkeypatch.setattr("m2det.train.build.AlignedLoss", Poisoned)
    monkeypatch.setattr(Poisoned, "calls", 0)
    with pytest.raises(InputError) as error:
        run(material, tmp_path, settings())
    assert "step 3 is not finite" in str(error.value)
    assert {int(i) for i in str(error.value).split("[")[1].split("]")[0].split(",")} == third


def test_the_first_layer_that_is_not_finite_is_named_and_no_update_follows(material, tmp_path):
    weights = {}

    def poison(state):
        model = state.parts.model
        if state.step == 3:  # in the fourth step this layer's output overflows
            model.unet2.layers[0].conv.register_forward_hook(lambda *call: call[2] * float("inf"))
            weights.update({k: v.clone() for k, v in model.named_parameters()})
        if state.step == 6:
            for name, parameter in model.named_parameters():
                assert torch.equal(parameter, weights.pop(name)), name

    with pytest.raises(InputError, match=r"the loss of step 4 .*first: the output of layer unet2\.layers\.0\.conv"):
        run(material, tmp_path, settings(log_every=6), AfterStep(poison))
    assert not weights, "all were compared"


def test_infinite_weights_are_named(material, tmp_path):
    poison = AfterStep(lambda state: state.parts.model.loc[1].bias.data[0].fill_(float("nan")), 2)
    with pytest.raises(InputError, match=r"the loss of step 3 .*first: the weights loc\.1\.bias"):
        run(material, tmp_path, settings(), poison)


def test_infinite_weights_are_never_kept(material, tmp_path):
    """A finite loss with an infinite gradient at the last step: nothing later would see it."""
    poison = AfterStep(lambda state: state.parts.model.unet1.layers[0].conv.weight.data[0].fill_(float("inf")), 9)
    with pytest.raises(InputError, match=r"after step 9 the weights unet1.* are not finite"):
        run(material, tmp_path, settings(), poison)


class InterruptedEvaluation(Callbacks):
    def on_evaluated(self, state, metrics):  # noqa: ARG002
        raise KeyboardInterrupt


def epoch_lines(folder):
    return [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("epoch")]


@pytest.mark.slow
def test_an_interrupted_evaluation_loses_no_epoch_and_no_line_of_the_log(material, tmp_path):
    whole = run(material, tmp_path / "whole", settings())
    with pytest.raises(KeyboardInterrupt):
        run(material, tmp_path / "parts", settings(), InterruptedEvaluation())
    state = load_state(tmp_path / "parts/state")
    assert state["step"] == 6 and state["pending_evaluation"]
    resumed = run(material, tmp_path / "parts", settings())
    assert resumed.rows == whole.rows
    assert epoch_lines(tmp_path / "parts") == epoch_lines(tmp_path / "whole")


@pytest.mark.slow
def test_options_that_help_train_and_resume(material, tmp_path):
    """EMA, cosine, label smoothing and undecayed norms, interrupted and resumed: the same as undisturbed."""
    options = {
        "objective": "multibox",
        "ema_decay": 0.9,
        "schedule": "cosine",
        "label_smoothing": 0.1,
        "weight_decay_norm_bias": False,
        "optimizer": "adamw",
    }
    whole = run(material, tmp_path / "whole", settings(**options))
    plain = run(material, tmp_path / "plain", settings(**(options | {"ema_decay": 0.0})))
    assert not torch.equal(whole.model.loc[0].weight, plain.model.loc[0].weight)
    interrupt_at_5(material, tmp_path / "parts", settings(**options))
    resumed = run(material, tmp_path / "parts", settings(**options))
    assert resumed.rows == whole.rows
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_frozen_stays(material, tmp_path, objective):
    options = {"objective": objective, "freeze_backbone": True, "freeze_bn_stats": True}
    frozen = run(material, tmp_path, settings(**options, epochs=2))
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
        run((cache, material[1]), tmp_path, settings(workers=workers))
    assert str(error.value) == f"{cache}/train.lmdb is damaged at image 4.jpg; {REPACK}"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_batches_that_are_accumulated_are_one_larger_batch(material, objective):
    """With batch normalisation fixed and the loss per positive of the whole step."""
    options = {
        "objective": objective,
        "freeze_bn_stats": True,
        "loss_normalization": "global",
        "batch_size": 12,
        "opt_level": "O0",
        "max_grad_norm": 0.0,
    }
    whole = first_gradients(settings(**options), *material)
    parts = first_gradients(settings(**options | {"microbatch": 3}), *material)
    assert_close(parts, whole)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_may_have_batches_without_any_object(material, tmp_path, monkeypatch, objective):
    """Normalised over the step, an empty batch weighs nothing; by itself it is divided by one, not by zero."""
    empty = PackedSplit.annotations

    def without(self, index):
        objects = empty(self, index)
        return replace(objects, boxes=objects.boxes[:0], labels=objects.labels[:0], iscrowd=objects.iscrowd[:0])

    monkeypatch.setattr(PackedSplit, "annotations", without)
    for normalize in ("local", "global"):
        folder = tmp_path / normalize
        options = {"objective": objective, "loss_normalization": normalize, "microbatch": 2, "max_steps": 2}
        outcome = run(material, folder, settings(**options))
        assert outcome.rows[-1]["loss_loc"] == outcome.rows[-1]["loss_conf"] == 0.0


def test_checkpoints_within_an_epoch_and_the_last_two_are_kept(material, tmp_path):
    whole = run(material, tmp_path / "whole", settings())
    interrupt_at_5(material, tmp_path / "parts", settings(save_every=1))
    state = tmp_path / "parts/state"
    assert [path.name for path in checkpoints(state)] == ["step-000000004.pt", "step-000000005.pt"]
    newest = checkpoints(state)[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])  # a failing disk
    resumed = run(material, tmp_path / "parts", settings())
    assert resumed.rows == whole.rows
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_a_folder_of_damaged_checkpoints_is_one_sentence(material, tmp_path):
    interrupt_at_5(material, tmp_path, settings())
    for path in checkpoints(tmp_path / "state"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"can be used \(.*does not end in a checksum.*\); delete the folder"):
        run(material, tmp_path, settings())


def test_an_evaluated_epoch_writes_one_checkpoint(material, tmp_path, monkeypatch):
    """Gigabytes each; what the evaluation adds is a few values."""
    steps = []

    def save(run_dir, state):
        steps.append(state["step"])
        save_state(run_dir, state)

    monkeypatch.setattr("m2det.train.state.save_state", save)
    run(material, tmp_path, settings(epochs=2, evaluate_every=1))
    assert steps == [3, 6]
    sizes = [path.with_suffix(".evaluated").stat().st_size for path in checkpoints(tmp_path / "state")]
    assert len(sizes) == 2 and max(sizes) < 5000
    assert {row["epoch"] for row in load_state(tmp_path / "state")["rows"] if "AP" in row} == {1, 2}


class Scores(Callbacks):
    """Evaluations that measure these AP."""

    def __init__(self, *values):
        self.values = values

    def on_evaluated(self, state, metrics):
        metrics |= {"AP": self.values[state.epoch - 1], "AP50": 0.0}


def test_the_best_epochs_weights_survive_an_interruption(material, tmp_path):
    """Whichever of the last two checkpoints it continues from, the weights that it names are there."""
    folder, scores = tmp_path / "state", Scores(0.5, 0.4, 0.6, 0.1, 0.2)
    outcome = run(material, tmp_path, settings(epochs=5, evaluate_every=1, keep="best"), scores)
    assert outcome.kept_epoch == 3
    for checkpoint in checkpoints(folder):
        best = torch.load(checkpoint, weights_only=True)["best"]
        assert best == {"AP": 0.6, "epoch": 3, "file": "best-000003.pt"} and (folder / "best-000003.pt").exists()
    assert len(list(folder.glob("best-*.pt"))) <= 2


def test_patience_ends_a_training_that_gets_no_better(material, tmp_path):
    """An AP of nearly 0, before anything is learned, is not waited upon; the learning rate is that of all epochs."""
    scores = Scores(0.002, 0.001, 0.0, 0.6, 0.5, 0.6, 0.9)
    how = {"epochs": 7, "evaluate_every": 1, "keep": "best"}
    outcome = run(material, tmp_path / "early", settings(**how, patience=2), scores)
    whole = run(material, tmp_path / "whole", settings(**how | {"evaluate_every": 7}), scores)
    without = [{key: value for key, value in row.items() if "AP" not in key} for row in outcome.rows]
    assert without == whole.rows[:6] and outcome.steps == 18 and outcome.kept_epoch == 4
    last = (tmp_path / "early/log.txt").read_text().splitlines()[-1]
    assert last == (
        "training ends after epoch 6: no AP above 0.6000, that of epoch 4, in 2 evaluations (train.patience); the "
        "weights of epoch 4 are kept"
    )


@pytest.mark.parametrize(
    "moment",
    [*(pytest.param(f"in the last {what}", marks=pytest.mark.slow) for what in ("evaluation", "step")), "none"],
)
def test_a_training_that_patience_ended_is_resumed_to_the_same_end(material, tmp_path, moment):
    """Interrupted in its last evaluation, in its last step, or not at all: then the same command ends at once."""
    how = settings(epochs=6, evaluate_every=1, keep="best", patience=1)
    scores = Scores(0.5, 0.6, 0.4, 0.9)
    whole = run(material, tmp_path / "whole", how, scores)
    assert [row["epoch"] for row in whole.rows] == [1, 2, 3]

    class Interrupted(Scores):
        def on_evaluated(self, state, metrics):
            super().on_evaluated(state, metrics)
            if state.epoch == 3 and moment == "evaluation":
                raise KeyboardInterrupt

        def on_step_end(self, state):
            if state.step == 9 and moment == "step":
                os.kill(os.getpid(), signal.SIGTERM)

    with suppress(KeyboardInterrupt, SystemExit):
        run(material, tmp_path / "parts", how, Interrupted(*scores.values))
    resumed = run(material, tmp_path / "parts", how, scores)
    assert (resumed.rows, resumed.steps, resumed.kept_epoch) == (whole.rows, 9, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_a_log_line_says_what_a_step_cost(material, tmp_path):
    run(material, tmp_path, settings(epochs=1, log_every=3))
    [line] = [line for line in (tmp_path / "log.txt").read_text().splitlines() if line.startswith("step")]
    number = r"[\d.e+-]+"
    assert re.fullmatch(
        rf"step 3/3 100% epoch 1.00/1 loss_loc {number} loss_conf {number} \(epoch mean\) lr {number} "
        rf"loss_scale {number} {number} img/s data_wait \d+% {number} TFLOP/s mem {number} GB eta \d+:\d\d",
        line,
    ), line
    rate, achieved = (float(re.search(rf"({number}) {unit}", line)[1]) for unit in ("img/s", "TFLOP/s"))
    model = build_model("m2det-tiny", 1, sfam=True)
    assert achieved == pytest.approx(3 * forward_flops(model) * rate / 1e12, rel=0.05)


def test_each_start_writes_how_the_training_is_run_into_the_log(material, tmp_path, caplog):
    """As on the screen, the lines of the loggers included."""
    caplog.set_level(logging.INFO, "m2det")
    interrupt_at_5(material, tmp_path, settings(microbatch=2))
    run(material, tmp_path, settings(microbatch=2))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    first, second = (i for i, line in enumerate(lines) if line.startswith("training "))
    assert lines[first] == "training m2det-tiny from step 0 of 9, 4 images per step"
    assert lines[second] == "training m2det-tiny from step 5 of 9, 4 images per step"
    for start in (first, second):
        device, precision, columns = lines[start + 1 : start + 4]
        how = "processes (world size) 1, accumulation 2, microbatch 2, workers 0, compile False, graph False"
        assert device.startswith("device cpu (") and device.endswith(f"; requested), {how}")
        assert re.fullmatch(r"precision \w+ \(.+\), loss scale \d+; optimizer sgd fused; torch [\d.+a-z]+", precision)
        assert columns.startswith("loss_loc, loss_conf: means since the epoch's start")
    for before in (lines[:first], lines[first:second]):
        for start in ("precision: ", "optimizer: sgd", "learning rate: "):
            assert sum(line.startswith(start) for line in before) == 1, (start, before)
    assert "resuming at step 5 of 9" in lines[first:second]
    left = [handler for handler in logging.getLogger("m2det").handlers if isinstance(handler, logging.FileHandler)]
    assert not left, "what follows a training is not of its log"


def test_the_curves_grow_with_each_epoch_and_are_there_again_after_an_interruption(material, tmp_path):
    """Nine steps, three an epoch; DVC deletes the file before the interrupted training continues."""
    state, log_file, curves = tmp_path / "state", tmp_path / "log.txt", tmp_path / "results/curves.csv"
    rows_at = {}

    def look(state):
        rows_at[state.step] = curves.read_text().splitlines()[1:] if curves.exists() else []
        if state.step == 5 and not rows_at.get("interrupted"):
            rows_at["interrupted"] = True
            os.kill(os.getpid(), signal.SIGTERM)

    def start():
        return train(settings(), *material, state, log_file, callbacks=AfterStep(look), curves_file=curves)

    with pytest.raises(SystemExit):
        start()
    curves.unlink()
    result = start()
    assert [len(rows_at[step]) for step in range(1, 10)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    write_curves(tmp_path / "at the end", result.rows)
    assert curves.read_bytes() == (tmp_path / "at the end").read_bytes()


@pytest.mark.slow
def test_a_compiled_network_trains_the_same(material, tmp_path):
    eager, compiled = (
        run(material, tmp_path / str(compile), settings(epochs=1, max_steps=2, opt_level="O0", compile=compile))
        for compile in (False, True)
    )
    for name in ("loss_loc", "loss_conf"):
        assert compiled.rows[0][name] == pytest.approx(eager.rows[0][name], rel=2e-3)


def test_impossible_settings_are_refused(material, tmp_path):
    with pytest.raises(InputError, match="a CPU has no synchronized"):
        run(material, tmp_path, settings(sync_bn=True))
    one = settings(batch_size=1).model_dump()
    one["model"] = {"name": "m2det320-vgg16", "sfam": False, "overrides": {"planes": 16, "levels": 2}}
    with pytest.raises(InputError, match=r"train\.microbatch is 1.* 1x1"):
        run(material, tmp_path, Params.model_validate(one))
    with pytest.raises(InputError, match="there are only 14 training images"):
        run(material, tmp_path, settings(batch_size=15))


def test_every_image_once_an_epoch_and_another_order_in_the_next():
    order = TrainingBatchSampler(12, 4, 1, 6)
    steps = list(order)
    first, second = ([index for batch in part for _, index in batch] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(12)) and first != second
    assert list(TrainingBatchSampler(12, 4, 1, 6, start=4)) == steps[4:]


@pytest.mark.parametrize(("processes", "microbatch"), [(2, 4), (4, 2), (1, 2), (2, 2)])
def test_a_step_has_the_same_images_however_it_is_shared(processes, microbatch):
    alone = TrainingBatchSampler(30, 8, 1, 6)
    shared = [TrainingBatchSampler(30, 8, 1, 6, 0, rank, processes, microbatch) for rank in range(processes)]
    for step in range(6):
        assert [key for order in shared for key in order.batch(step)] == alone.batch(step)
        assert all(len(part) == microbatch for order in shared for part in order.microbatches(step))
    assert [key for part in shared[0] for key in part] == [key for s in range(6) for key in shared[0].batch(s)]


def test_curves_have_their_columns(tmp_path):
    write_curves(tmp_path / "c.csv", [{"epoch": 1, "step": 2, "lr": 0.1, "loss_loc": 1.0, "loss_conf": 2.0}])
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["epoch", "step", "lr", "loss_loc", "loss_conf", "AP", "AP50"],
        ["1", "2", "0.1", "1.0", "2.0", "", ""],
    ]


@pytest.mark.long  # tests/train/test_disturbed.py kills a whole stage, and compares the bytes
def test_a_killed_process_resumes(material, tmp_path):
    """SIGKILL anywhere leaves a checkpoint that loads."""
    code = (
        "import logging, sys; from pathlib import Path\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from tests.training import settings; from m2det.train import train\n"
        "cache, backbone, folder = map(Path, sys.argv[1:])\n"
        "out = train(settings(epochs=6), cache, backbone, folder / 'state', folder / 'log.txt')\n"
        "print('finished', out.steps)\n"
    )
    command = [sys.executable, "-c", code, *map(str, material), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not any((tmp_path / "state").glob("step-*.pt")):
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "resuming at step" in done.stdout and "finished 18" in done.stdout
