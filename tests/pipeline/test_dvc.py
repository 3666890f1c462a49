"""The road from data to metrics, by DVC, for real."""

import csv
import difflib
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows.parameters import STAGES
from m2det.config import RunParams, load_params
from m2det.evaluate.metrics import NAMES
from tasks.inputs import outs_of
from tests.conftest import ROOT
from tests.pipeline.conftest import SHORT
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.slow

MEASUREMENTS = {"benchmark", "performance"}
OUTPUTS = (
    "models/m2det.safetensors",
    "models/m2det.json",
    "results/metrics.json",
    "results/perf.json",
    "results/performance.json",
    "results/speed.json",
    "results/train.json",
    "results/curves.csv",
    "results/detections.json",
    "results/plots/precision_recall.csv",
    "results/plots/classes.csv",
    "results/plots/labels.csv",
    "results/pictures/labels.png",
    "results/pictures/detections.png",
    "results/pictures/learning_curve.png",
    "results/pictures/precision_recall.png",
    "results/pictures/error_kinds.png",
    "results/pictures/thresholds.png",
    "results/report.html",
    "results/detection_speed.json",
)

TERMINAL = 120  # characters
DRAWN = ("calibration", "confusion_matrix", "detections", "error_kinds", "labels", "thresholds")
PICTURES = [f"results_pictures_{name}.png" for name in DRAWN]
METRICS = {  # what `dvc metrics show` has to fit a terminal
    "metrics.json": NAMES,
    "train.json": ("AP", "AP50"),
    "speed.json": ("img/s",),
}


def by_class(clone) -> dict[str, str]:
    with (clone.folder / "results/plots/classes.csv").open(newline="") as file:
        return {row["class"]: row["AP"] for row in csv.DictReader(file)}


def curves(clone) -> list[dict[str, str]]:
    with (clone.folder / "results/curves.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def widest(text: str) -> int:
    return max(len(line.rstrip()) for line in text.splitlines())


def status(clone) -> dict[str, list]:
    """What `dvc status` says of each stage, by its own code in this process, where it has been imported."""
    with Repo(clone.folder) as repo:
        return {name.split(":")[-1]: why for name, why in repo.status().items()}


def stages_to_run(clone) -> set[str]:
    found = status(clone)
    assert "always changed" in found.pop("annotations")
    return {name for name, why in found.items() if any("changed" in str(reason) for reason in why)}


def with_downstream(stages: set[str]) -> set[str]:
    """The stages and all that take what they make, by dvc.yaml."""
    entries = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, entry in entries.items():  # which is in the order of the pipeline
        made = {out if isinstance(out, str) else next(iter(out)) for s in stages for out in outs_of(entries[s])}
        if made & set(entry["deps"]):
            stages = stages | {name}
    return stages


def test_a_run_makes_everything(short_run):
    for output in OUTPUTS:
        assert (short_run.folder / output).stat().st_size > 0, output
    for name, keys in METRICS.items():
        assert tuple(json.loads((short_run.folder / "results" / name).read_text())) == keys, name
    assert list(by_class(short_run)) == [str(digit) for digit in range(10)]
    assert curves(short_run)[-1]["step"] == "3"
    assert not any((short_run.folder / "models/unfinished").glob("*")), "the state goes when the model is written"


def test_again_there_is_nothing_to_do(short_run):
    output = short_run.run("dvc", "repro").stdout
    assert re.findall("Running stage '(.*)'", output) == ["annotations"]
    assert output.count("didn't change, skipping") == len(STAGES) - 1
    assert stages_to_run(short_run) == set()


@pytest.mark.parametrize(
    ("path", "old", "new", "stages"),
    [
        ("README.md", "", "\n", set()),
        ("params.yaml", "epochs: 1", "epochs: 2", {"train"}),
        ("params.yaml", "lr: 0.06", "lr: 0.05", {"train"}),
        ("m2det/config/sections/train.py", "", "\n# changed\n", set()),
        ("m2det/data/packed/writer.py", "", "\n# changed\n", {"pack"}),
        ("m2det/loss/multibox.py", "", "\n# changed\n", {"train", *MEASUREMENTS}),
        ("m2det/ops/nms.pyx", "", "\n# changed\n", {"ops"}),
        ("m2det/data/sources/coco2014.py", "", "\n# changed\n", {"data"}),
        ("m2det/data/packed/reader.py", "", "\n# changed\n", {"pack", "train", "evaluate", *MEASUREMENTS}),
        ("m2det/viz/draw.py", "", "\n# changed\n", {"evaluate"}),
    ],
)
def test_what_a_change_reruns(short_run, path, old, new, stages):
    file = short_run.folder / path
    before = file.read_text()
    file.write_text(before.replace(old, new, 1) if old else before + new)
    try:
        assert stages_to_run(short_run) == stages
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    "key",
    [
        key if key in ("device", "processes", "log_every") else pytest.param(key, marks=pytest.mark.long)
        for key in RunParams.model_fields
    ],
)
def test_how_a_training_is_run_makes_no_result_stale(short_run, key):
    file = short_run.folder / "params.yaml"
    before = file.read_text()
    now = load_params(file).run
    address = "127.0.0.1:29400"
    given = {"device": "cpu" if now.device == "auto" else "auto", "processes": "2", "rendezvous": address}
    other = given.get(key) or json.dumps(
        not getattr(now, key) if isinstance(getattr(now, key), bool) else getattr(now, key) + 1
    )
    short_run.edit({f"  {key}: ": f"  {key}: {other}"})
    if key == "nodes":
        short_run.edit({"  rendezvous: ": f"  rendezvous: {address}"})
    try:
        assert getattr(load_params(file).run, key) != getattr(now, key)
        assert not status(short_run).keys() & {"pack", "weights", "train", "evaluate"}
        measured = {"device", "processes", "workers", "compile"}
        of_training = {"nodes", "graph", "deterministic"}
        stale = MEASUREMENTS if key in measured else {"performance"} if key in of_training else set()
        assert stages_to_run(short_run) == stale
    finally:
        file.write_text(before)


def test_another_learning_rate_leaves_pack_and_performance():
    assert with_downstream({"train"}) == {"train", "evaluate", "benchmark"}


def test_metrics_fit_a_terminal(short_run):
    """With numbers as a good model has them."""
    results = short_run.folder / "results"
    before = {name: (results / name).read_text() for name in METRICS}
    for name, keys in METRICS.items():
        (results / name).write_text(json.dumps(dict.fromkeys(keys, 1234.567 if name == "speed.json" else 0.771)))
    try:
        shown = short_run.run("dvc", "metrics", "show").stdout
    finally:
        for name, text in before.items():
            (results / name).write_text(text)
    assert set(shown.split()) > {*NAMES, "img/s", *(f"results/{name}" for name in METRICS)}
    assert widest(shown) <= TERMINAL, shown


def test_values_set_on_the_command_line_change_their_lines_alone(short_run):
    """The stage ops is up to date, so nothing runs."""
    file = short_run.folder / "params.yaml"
    before = file.read_text()
    values = ("epochs=160", "train.lr=1e-3", "evaluate.nms=hard", "train.gammas=[1.0,0.5,0.2,0.01,0.001]")
    try:
        short_run.run("dvc", "exp", "run", *(word for value in values for word in ("-S", value)), "ops")
        lines = list(difflib.ndiff(before.splitlines(), file.read_text().splitlines()))
    finally:
        file.write_text(before)
    new = [line[2:].partition("#")[0].strip() for line in lines if line.startswith("+ ")]
    assert new == ["epochs: 160", "lr: 0.001", "- 0.2", "nms: hard"]
    comments = [[line.partition("#")[2] for line in lines if line.startswith(sign)] for sign in ("- ", "+ ")]
    assert comments[0] == comments[1]


def test_plots_need_no_network_and_stand_once(short_run):
    short_run.run("flows.plots")
    short_run.run("dvc", "plots", "show")
    folder = short_run.folder / "dvc_plots"
    page = (folder / "index.html").read_text()
    scripts = re.findall(r'<script src="([^"]+)"', page)
    assert "window.vegaEmbed" in (folder / scripts[0]).read_text() and not any("//" in script for script in scripts)
    titles = re.findall(r'"title": \{"text": "([^"]+)"', page)
    assert sorted(titles) == ["AP by class", "AP by epoch", "loss by epoch", "precision by recall"]
    assert re.findall(r'<img src="static/workspace_(.+?)"', page) == PICTURES


def test_an_experiment_as_typed(short_run):
    data = (short_run.folder / "data/cache/train.lmdb").stat().st_mtime_ns
    done = short_run.run("dvc", "exp", "run", "-S", "epochs=2", "-S", "train.max_steps=2")
    assert "Running stage 'train'" in done.stdout and "Running stage 'pack'" not in done.stdout
    assert (short_run.folder / "data/cache/train.lmdb").stat().st_mtime_ns == data
    name = re.search(r"Ran experiment\(s\): (\S+)", done.stdout)[1]

    shown = short_run.run("m2det.cli.main", "experiments", COLUMNS=str(TERMINAL)).stdout
    assert widest(shown) <= TERMINAL, shown
    [row] = [line.split() for line in shown.splitlines() if line.split()[0] == name]
    metrics = json.loads((short_run.folder / "results/metrics.json").read_text())
    assert row[1] == "done" and float(row[2]) == metrics["AP"] and "epochs=2" in row, shown

    short_run.run("dvc", "plots", "diff", "HEAD", name)
    made = {path.name for path in (short_run.folder / "dvc_plots/static").iterdir()}
    assert made >= {f"{name}_{picture}" for picture in PICTURES}, "pictures are compared"


WRONG = [
    ({"epochs: ": "epochs: fast"}, "epochs: input should be a valid integer, got 'fast'"),
    ({"seed: ": "sead: 3"}, "unknown key 'sead'"),
    ({"  source: digits": "  source: coco2014"}, "needs data.root"),
    ({"  name: ": "  name: m2det-huge"}, "no model is called 'm2det-huge'"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_wrong_parameters_end_in_one_sentence_and_keep_results(short_run, changes, sentence):
    before = (short_run.folder / "params.yaml").read_text()
    metrics = (short_run.folder / "results/metrics.json").read_text()
    short_run.edit(changes)
    try:
        stage = "weights" if "name" in str(changes) else "data"
        done = short_run.run(f"flows.{stage}", ok=False)
        assert done.returncode == 1
        errors = [line for line in done.stderr.splitlines() if line]
        assert len(errors) == 1 and errors[0].startswith("error: ") and sentence in errors[0], done.stderr
    finally:
        (short_run.folder / "params.yaml").write_text(before)
    assert (short_run.folder / "results/metrics.json").read_text() == metrics


@pytest.mark.parametrize(
    ("stage", "changes", "sentence"),
    [
        ("train", {"  processes: ": "  processes: 1000"}, "error: run.processes is 1000, but on a CPU with "),
        ("evaluate", {"  processes: ": "  processes: 1000"}, "error: run.processes is 1000, but on a CPU with "),
        pytest.param(
            "performance",
            {"  processes: ": "  processes: 8", "  workers: ": "  workers: 256"},
            "error: run.workers is 256",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "benchmark",
            {"  workers: ": "  workers: 256"},
            "error: run.workers is 256, but on a CPU with ",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_stage_refuses_what_this_machine_does_not_bear(short_run, stage, changes, sentence):
    before = (short_run.folder / "params.yaml").read_text()
    short_run.edit(changes | {"  device: ": "  device: cpu"})
    try:
        done = short_run.run(f"flows.{stage}", ok=False)
        assert done.returncode == 1
        assert sentence in done.stderr and "set run.oversubscribe to true in params.yaml" in done.stderr, done.stderr
    finally:
        (short_run.folder / "params.yaml").write_text(before)


def test_coco_2014_runs_to_metrics(prepared, shared):
    prepared.edit(
        {
            "epochs: ": "epochs: 1",
            "  source: digits": "  source: coco2014",
            "  root: ": f"  root: {shared / 'coco2014-mini'}",
            "  batch_size: ": "  batch_size: 2",
            "  microbatch: ": "  microbatch: 2",
            "  max_steps: ": "  max_steps: 2",
            "  workers: ": "  workers: 0",
        }
    )
    prepared.run("dvc", "repro", "evaluate")
    assert len(by_class(prepared)) == 80 and "toothbrush" in by_class(prepared)
    manifest = json.loads((prepared.folder / "data/cache/manifest.json").read_text())
    assert (manifest["splits"]["train"]["images"], manifest["splits"]["val"]["images"]) == (126, 56)
    assert str(shared) not in (prepared.folder / "dvc.lock").read_text()
    assert str(shared) not in (prepared.folder / "data/coco/manifest.json").read_text()
    shutil.rmtree(prepared.folder / "models")


def own_data(clone) -> None:
    """Point the clone at a data set of three pictures in COCO's format, under its folder `own`."""
    own = clone.folder / "own"
    (own / "images").mkdir(parents=True)
    images = []
    for i in (1, 2, 3):
        picture = np.random.default_rng(i).integers(0, 255, (64, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(own / f"images/{i}.jpg"), picture)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 64})
    objects = [{"id": i, "image_id": i, "category_id": 4, "bbox": [5, 5, 30, 40], "area": 1200} for i in (1, 2, 3)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 4, "name": "cat"}]}
    (own / "a.json").write_text(json.dumps(content))
    clone.edit(
        {
            "  source: digits": "  source: coco",
            "  root: ": "  root: own",
            "  train: []": "  train: [{annotations: a.json, images: images}]",
            "  val: []": "  val: [{annotations: a.json, images: images}]",
        }
    )


def change_annotations(clone, change) -> None:
    path = clone.folder / "own/a.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:500])


HOSTILE = {
    "empty annotation file": (
        lambda clone: (clone.folder / "own/a.json").write_text(""),
        "own/a.json",
    ),
    "no images": (lambda clone: change_annotations(clone, lambda c: c.update(images=[])), "no images"),
    "category outside the list": (
        lambda clone: change_annotations(clone, lambda c: c["annotations"][1].update(category_id=9)),
        "category",
    ),
    "missing image": (lambda clone: (clone.folder / "own/images/2.jpg").unlink(), "2.jpg"),
    "truncated JPEG": (lambda clone: truncate(clone.folder / "own/images/2.jpg"), "2 images cannot be packed"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_bad_data_ends_in_one_sentence_that_names_it(clone, case):
    own_data(clone)
    spoil, sentence = HOSTILE[case]
    spoil(clone)
    done = clone.run("dvc", "repro", "pack", ok=False)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and sentence in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    assert not (clone.folder / "data/cache/manifest.json").exists()


def test_own_data_packs(clone):
    own_data(clone)
    done = clone.run("dvc", "repro", "pack")
    assert "1 classes: cat" in done.stdout and "train: 3 images, 3 boxes" in done.stdout


def test_finetuning_starts_from_a_model_of_other_classes(prepared):
    own_data(prepared)
    write_tiny_model(prepared.folder / "models")
    prepared.edit({"  batch_size: ": "  batch_size: 2", "  microbatch: ": "  microbatch: 2"})
    prepared.edit(
        {"  source: random": "  source: checkpoint", "  checkpoint: ": "  checkpoint: models/model.safetensors"}
    )
    done = prepared.run("dvc", "repro", "train")
    assert "training starts from model.safetensors, sha256 " in done.stdout
    assert "random initialization: conf.0.weight (12, 128, 3, 3) (the checkpoint has (66, 128, 3, 3))" in done.stdout
    assert "random initialization: unet1" not in done.stdout
    card = prepared.run("m2det.cli.main", "info", "models/m2det.safetensors").stdout
    assert "1: cat" in card and "sha256 of backbone" in card
    prepared.edit({"  checkpoint: ": "  checkpoint: models/none.pth"})
    done = prepared.run("dvc", "repro", "train", ok=False)
    assert "models/none.pth: no such file" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long  # tests/pipeline/test_prefect.py has eight of them in all stages
def test_two_processes_train_in_the_stage(clone):
    clone.edit(SHORT | {"  processes: ": "  processes: 2", "  batch_size: ": "  batch_size: 8"})
    done = clone.run("dvc", "repro", "evaluate")
    assert curves(clone)[-1]["step"] == "3"
    assert not list((clone.folder / "models/unfinished").glob("*/step-*.pt"))
    clone.edit({"  batch_size: ": "  batch_size: 4000"})
    done = clone.run("dvc", "repro", "train", ok=False)
    assert "error: train.batch_size is 4000, but there are only 1500" in done.stderr
