"""Several processes train as one: through torchrun itself, with gloo."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from m2det.config import load_params
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sampler import TrainingBatchSampler
from m2det.data.sources.coco import read_split
from m2det.distributed.children import run_child
from m2det.distributed.group import ALONE, Group
from m2det.distributed.launch import count_processes, launch
from m2det.distributed.nodes import Work
from m2det.errors import InputError
from m2det.evaluate.metrics import coco_metrics
from m2det.evaluate.rank import detect_split
from m2det.model import prior_boxes
from m2det.model.model_file import save_trained
from m2det.train.amp import Precision
from m2det.train.checkpoint import checkpoints, step_of
from m2det.train.evaluator import validate
from m2det.train.logger import write_curves
from m2det.train.rank import train_distributed
from tests.conftest import ROOT
from tests.processes import none_left
from tests.train.one_of_several import assert_close, first_gradients, run_case
from tests.training import run, settings, write_params

pytestmark = pytest.mark.slow


def torchrun(case: str, *arguments: object, processes: int = 2, options: Sequence[str] = ()) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options]
    command += ["-m", "tests.train.one_of_several", case, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def together(material, folder: Path, params_file: Path, processes: int = 2):
    """Train; the file of the curves, which rank 0 writes, has the rows of the result."""
    params, curves = load_params(params_file), folder / "curves.csv"
    result = train_distributed(params, params_file, *material, folder / "state", processes, run_child, curves)
    write_curves(folder / "wanted.csv", result.rows)
    assert curves.read_bytes() == (folder / "wanted.csv").read_bytes()
    return result


def rank_zero(launcher: int) -> int:
    """Its pid, by the environment that torchrun gave it."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    [found] = [int(pid) for pid in children if b"\0RANK=0\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    return found


@pytest.fixture(scope="module")
def undisturbed(material, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return together(material, folder, write_params(folder))


def test_lines_by_the_clock_of_one_process_keep_the_others_waiting_for_nothing(
    material, tmp_path, undisturbed, monkeypatch
):
    monkeypatch.setenv("M2DET_PROGRESS", str(tmp_path / "progress.json"))
    file = write_params(tmp_path, log_every=10**9)
    result = train_distributed(load_params(file), file, *material, tmp_path / "state", 2, run_case("by_clock"))
    lines = [line for line in (tmp_path / "state/log.txt").read_text().splitlines() if line.startswith("step ")]
    assert len(lines) == 9 and sum("epoch mean of process 0" in line for line in lines) == 6
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 9
    assert result.rows == undisturbed.rows
    for name, tensor in undisturbed.model.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name]), name


TWELVE = {"batch_size": 12, "opt_level": "O0", "max_grad_norm": 0.0}
FIXED = {"freeze_bn_stats": True, "loss_normalization": "global"}
CASES = [("multibox", 2, 6), ("multibox", 4, 3), ("aligned", 2, 6), ("aligned", 2, 3)]


@pytest.fixture(scope="module")
def gradients(material, tmp_path_factory):
    """Of the first step, by number of processes and case: torchrun starts once for each number."""
    found = {}
    for processes in (2, 4):
        folder = tmp_path_factory.mktemp("gradients")
        write_params(folder / "training mode", **TWELVE, processes=processes)
        for objective, of, microbatch in CASES:
            if of == processes:
                options = TWELVE | FIXED | {"objective": objective, "microbatch": microbatch, "processes": processes}
                write_params(folder / f"{objective} {microbatch}", **options)
        process = torchrun("gradients", folder, *material, processes=processes)
        assert process.wait(240) == 0, process.stdout.read()
        saved = folder.glob("*/gradients.pt")
        found[processes] = {path.parent.name: torch.load(path, weights_only=True) for path in saved}
    return found


@pytest.mark.parametrize(("objective", "processes", "microbatch"), CASES)
def test_processes_have_the_gradients_of_one_with_the_whole_batch(
    material, gradients, objective, processes, microbatch
):
    """With batch normalisation fixed and the loss normalised over all of them."""
    wanted = first_gradients(settings(**TWELVE, **FIXED, objective=objective), *material)
    assert_close(gradients[processes][f"{objective} {microbatch}"], wanted)


@pytest.mark.parametrize("processes", [2, 4])
def test_in_training_mode_the_gradient_is_the_mean_of_the_replicas(material, gradients, processes):
    found = gradients[processes]["training mode"]
    one = settings(**TWELVE, microbatch=12 // processes)
    replicas, seen = [], []
    for rank in range(processes):
        place = Replica(rank, processes)
        replicas.append(first_gradients(one, *material, place))
        seen += TrainingBatchSampler(14, 12, one.seed, 1, rank=rank, processes=processes).batch(0)
    assert seen == TrainingBatchSampler(14, 12, one.seed, 1).batch(0), "the same images as one process would take"
    assert_close(found, {name: sum(r[name] for r in replicas) / processes for name in found})


@dataclass(frozen=True)
class Replica(Group):
    """One process's images, alone."""

    def init(self, device):
        pass

    def wrap(self, model, device):  # noqa: ARG002
        return model

    def all_reduce_any(self, flag):
        return flag

    def all_gather(self, value):
        return [value]


def test_every_image_is_evaluated_once(material, undisturbed):
    """AP of two processes, 7 images each, is that of one process with the same weights."""
    split = PackedSplit(material[0], "val")
    model = undisturbed.model.eval()
    precision = Precision(settings().precision, torch.device("cpu"))
    metrics = validate(model, prior_boxes(model.config), split, precision.device, ALONE, precision, workers=0)
    assert undisturbed.rows[-1]["AP"] == pytest.approx(metrics["AP"], abs=1e-4)
    assert undisturbed.steps == 9


def test_processes_leave_each_other_before_they_end(tmp_path):
    """gloo's threads are not to outlive the interpreter: that aborted a finished evaluation once in some hundred."""
    process = torchrun("leaving", tmp_path)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out.count("connected: False") == 2, out


def test_detections_of_three_processes_are_the_bytes_of_one(material, undisturbed, tmp_path):
    """Of 14 images: every one once, though three shares are not equal."""
    params_file = write_params(tmp_path)
    model = tmp_path / "model.safetensors"
    card = {"model": "m2det-tiny", "overrides": {"sfam": True}, "classes": ["square"], "category_ids": [1]}
    save_trained(model, undisturbed.model, card)
    for name, processes in (("one", 1), ("three", 3)):
        arguments = (params_file, material[0], model, tmp_path / name, tmp_path)
        launch(Work("m2det.evaluate.rank", arguments, tmp_path), load_params(params_file), processes, run_child)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes()
    assert len(json.loads((tmp_path / "one").read_text())) > 14


def test_eight_processes_and_one_have_equal_metrics_of_fewer_and_more_images(material, undisturbed, tmp_path):
    """Of 1, 7, 8 and 9 images: seven shares are empty, one is, none is, and one is longer than the others."""
    model, params_file = tmp_path / "model.safetensors", write_params(tmp_path)
    card = {"model": "m2det-tiny", "overrides": {"sfam": True}, "classes": ["square"], "category_ids": [1]}
    save_trained(model, undisturbed.model, card)
    whole = read_split([(material[0].parent / "a.json", material[0].parent / "images")])
    for count in (1, 7, 8, 9):
        cache = tmp_path / f"{count}/cache"
        cache.mkdir(parents=True)
        truth = {table: each if table == "categories" else each[:count] for table, each in whole.ground_truth.items()}
        few = replace(whole, records=whole.records[:count], ground_truth=truth)
        finish_cache(cache, few.categories, {"val": write_split(cache, "val", few)})
        detect_split(load_params(params_file), cache, model, tmp_path / f"{count}/alone.json", ALONE)
    process = torchrun("detecting", params_file, model, tmp_path, processes=8)
    assert process.wait(240) == 0, process.stdout.read()
    for count in (1, 7, 8, 9):
        truth = PackedSplit(tmp_path / f"{count}/cache", "val").ground_truth
        together, alone = (coco_metrics(truth, tmp_path / f"{count}/{name}.json") for name in ("together", "alone"))
        assert together == alone and alone["AR100"] > 0
        entries = json.loads((tmp_path / f"{count}/together.json").read_text())
        assert [*dict.fromkeys(entry["image_id"] for entry in entries)] == list(range(1, count + 1))


def test_three_processes_continue_to_the_same_bits(material, tmp_path):
    """With more than two, the order in which gradients are added up counts: it must never change."""
    whole = together(material, tmp_path / "whole", write_params(tmp_path / "whole", batch_size=6, processes=3), 3)
    params_file = write_params(tmp_path / "parts", batch_size=6, processes=3, save_every=1)
    process = torchrun("train", params_file, *material, tmp_path / "parts/state", processes=3)
    while not checkpoints(tmp_path / "parts/state"):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.terminate()
    process.wait(60)
    assert none_left(tmp_path)
    resumed = together(material, tmp_path / "parts", params_file, 3)
    assert resumed.rows == whole.rows
    wanted, found = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("processes", "steps", "tolerance"), [(2, 9, 0.0), pytest.param(3, 1, 1e-5, marks=pytest.mark.long)]
)
def test_processes_instead_of_accumulation_change_running_statistics_and_rounding(
    material, tmp_path, processes, steps, tolerance
):
    """The same microbatches in as many processes, float32; docs say why. Seen: 0.0 for two, 5e-7 for three."""
    options = {"batch_size": 2 * processes, "microbatch": 2, "opt_level": "O0", "ema_decay": 0.0, "max_steps": steps}
    options |= {"epochs": 9, "warmup": 0.0, "evaluate_every": 100, "save_every": 100}
    one = run(material, tmp_path / "one", settings(**options)).model
    params_file = write_params(tmp_path / "several", **options, processes=processes)
    several = together(material, tmp_path / "several", params_file, processes).model
    for (name, a), (_, b) in zip(one.named_parameters(), several.named_parameters(), strict=True):
        assert (a - b).abs().max() <= tolerance, name
    state = several.state_dict()
    counts = {name: value for name, value in one.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts and all(count == processes * state[name] for name, count in counts.items())


def test_another_number_of_processes_goes_on_with_the_same_images(material, tmp_path, capfd):
    """Two processes with 2 images, then one with 4: other bits, and it says so; no image is lost or repeated."""
    params_file = write_params(tmp_path, save_every=1)
    process = torchrun("train", params_file, *material, tmp_path / "state")
    while not checkpoints(tmp_path / "state"):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    process.terminate()
    process.wait(60)
    assert none_left(tmp_path)
    done = step_of(checkpoints(tmp_path / "state")[-1])
    params_file = write_params(tmp_path, microbatch=2, processes=1)
    outcome = together(material, tmp_path, params_file, 1)
    assert outcome.steps == 9 and [row["epoch"] for row in outcome.rows] == [1, 2, 3]
    said = capfd.readouterr().out
    assert f"resuming at step {done} of 9" in said
    assert "so far this run had processes 2: the same images follow in the same order" in said


@pytest.mark.parametrize(
    # a stage that is told to stop sends torchrun SIGTERM, and has its test below
    "victim",
    [pytest.param("launcher SIGTERM", marks=pytest.mark.long), "launcher SIGKILL", "rank SIGKILL"],
)
def test_a_rank_that_is_stuck_ends_when_the_grace_is_over(material, tmp_path, victim):
    """Not after torchrun's own 30 s, which count where another rank was killed."""
    params_file = write_params(tmp_path, stop_grace=3, save_every=1)
    command = ["--shutdown-timeout=3"]
    process = torchrun("stuck", params_file, *material, tmp_path / "state", options=command)
    while not (tmp_path / "state/stuck").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    pid = process.pid if victim.startswith("launcher") else rank_zero(process.pid)
    os.kill(pid, getattr(signal, victim.split()[1]))
    assert none_left(tmp_path, within=60)


def test_the_first_mistake_is_the_sentence_and_its_traceback_is_in_the_log(material, tmp_path, capfd):
    """A mistake in one process ends all at once, with its own words and not a timeout's."""
    params_file = write_params(tmp_path)
    start = time.monotonic()
    sentence = r"^process 1 failed \(KeyError: 'a mistake in step 3'\); .*processes.log says more; the same"
    arguments = (load_params(params_file), params_file, *material, tmp_path / "state", 2, run_case("crashing"))
    with pytest.raises(InputError, match=sentence):
        train_distributed(*arguments)
    assert time.monotonic() - start < 60
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out and said.err == ""
    assert "in crash" in (tmp_path / "state/processes.log").read_text()
    assert none_left(tmp_path)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_stage_above_a_step_that_never_ends_leaves_nothing_after_the_grace(material, tmp_path, name):
    """Told to stop, or killed, when only the kernel tells torchrun; one sentence where anyone is left to say it."""
    params_file = write_params(tmp_path, stop_grace=3, save_every=1)
    code = f"""
from pathlib import Path
from flows.stage import run_stage
from m2det.config import load_params
from m2det.train.rank import train_distributed
from tests.train.one_of_several import run_case
def train():
    file, cache, backbone = map(Path, {[str(params_file), *map(str, material)]})
    train_distributed(load_params(file), file, cache, backbone, Path({str(tmp_path / "state")!r}), 2, run_case("stuck"))
run_stage("train", train)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": "/nonexistent"}
    stage = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not (tmp_path / "state/stuck").exists():
        assert stage.poll() is None, stage.stderr.read()
        time.sleep(0.05)
    stage.send_signal(getattr(signal, name))
    assert none_left(tmp_path, within=60)
    said = stage.communicate(timeout=60)[1].decode()
    if name == "SIGTERM":
        assert stage.returncode == 143
        assert said.startswith("error: the step did not end within run.stop_grace = 3 s; the same command continues")
        assert len(said.splitlines()) == 1
    assert "in wait" in (tmp_path / "state/processes.log").read_text()


def test_a_full_disk_behind_a_write_in_the_background_ends_all_processes_in_one_sentence(material, tmp_path):
    """At the next step, by the request to stop that they share."""
    params_file = write_params(tmp_path, save_every=4)
    process = torchrun("full_disk", params_file, *material, tmp_path / "state")
    assert process.wait(120) != 0
    assert none_left(tmp_path)
    sentences = [(tmp_path / f"state/raised-{rank}").read_text() for rank in (0, 1)]
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith(f"5 {tmp_path}/state/step-000000004.pt: file too large; ")
    assert sentences[0].endswith("the same command again; it continues from step 3")
    assert (tmp_path / "state/error.txt").read_text() == sentences[0].removeprefix("5 ")


def test_a_loss_that_is_not_finite_in_one_process_stops_all_and_names_it(material, tmp_path):
    params_file = write_params(tmp_path)
    process = torchrun("poisoned", params_file, *material, tmp_path / "state")
    assert process.wait(120) != 0
    sentence = (tmp_path / "state/error.txt").read_text()
    third = {1 + i for _, i in TrainingBatchSampler(14, 4, settings().seed, 9, rank=1, processes=2).batch(2)}
    assert sentence.startswith("the loss of step 3 in process 1 is not finite; first: ")
    assert {int(i) for i in sentence.split("[")[1].split("]")[0].split(",")} == third


def test_wrong_input_is_one_sentence(material, tmp_path):
    with pytest.raises(InputError, match=r"train\.batch_size is 16, but there are only 14 training images"):
        together(material, tmp_path, write_params(tmp_path, batch_size=16))


def test_auto_on_a_cpu_is_one_process_per_core_as_far_as_a_step_divides(monkeypatch):
    monkeypatch.setattr("m2det.distributed.launch.usable_cores", lambda: 6)
    counts = [count_processes(settings(processes="auto", batch_size=16, microbatch=m)) for m in (2, 4, 8, 16)]
    assert counts == [4, 4, 2, 1]
    assert count_processes(settings(processes=2)) == 2


@pytest.mark.parametrize(("given", "expected"), [({}, "3"), ({"OMP_NUM_THREADS": "2"}, "2")], ids=str)
def test_processes_on_a_cpu_share_its_cores_unless_the_environment_says_otherwise(
    tmp_path, monkeypatch, given, expected
):
    """torchrun alone would give each of them one thread."""
    monkeypatch.setattr("m2det.distributed.threads.usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environments = []
    launch(Work("module", (), tmp_path), settings(), 2, lambda *_, env, **__: environments.append(env))
    assert [env["OMP_NUM_THREADS"] for env in environments] == [expected]
