"""The road from data to metrics, by DVC, for real."""

import json
import shutil

import cv2
import numpy as np
import pytest
from ruamel.yaml import YAML

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
    "results/train.json",
    "results/curves.csv",
    "results/detections.json",
    "results/plots/precision_recall.csv",
    "results/plots/labels.csv",
    "results/pictures/labels.png",
    "results/pictures/detections.png",
    "results/pictures/learning_curve.png",
    "results/pictures/precision_recall.png",
)


def stages_to_run(clone) -> set[str]:
    status = json.loads(clone.run("dvc", "status", "--json").stdout)
    changed = {name for name, why in status.items() if any("changed" in str(reason) for reason in why)}
    return {name.split(":")[-1] for name in changed}


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
    metrics = json.loads((short_run.folder / "results/metrics.json").read_text())
    assert list(metrics)[:12] == list(NAMES)
    assert list(metrics)[12:] == [f"AP/{digit}" for digit in range(10)]
    train = json.loads((short_run.folder / "results/train.json").read_text())
    assert train["steps"] == 3
    assert not any((short_run.folder / "models/unfinished").glob("*")), "the state goes when the model is written"


def test_again_there_is_nothing_to_do(short_run):
    assert "up to date" in short_run.run("dvc", "repro").stdout
    assert stages_to_run(short_run) == set()


@pytest.mark.parametrize(
    ("path", "old", "new", "stages"),
    [
        ("README.md", "", "\n", set()),
        ("params.yaml", "epochs: 1", "epochs: 2", {"train"}),
        ("params.yaml", "lr: 0.06", "lr: 0.05", {"train"}),
        ("m2det/config/schema.py", "", "\n# changed\n", set()),
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
    other = {"device": "cpu" if now.device == "auto" else "auto", "processes": "2"}.get(key) or json.dumps(
        not getattr(now, key) if isinstance(getattr(now, key), bool) else getattr(now, key) + 1
    )
    short_run.edit({f"  {key}: ": f"  {key}: {other}"})
    try:
        assert getattr(load_params(file).run, key) != getattr(now, key)
        assert json.loads(short_run.run("dvc", "status", "--json", "pack", "weights", "train", "evaluate").stdout) == {}
        measured = {"device", "processes", "workers", "compile"}
        stale = MEASUREMENTS if key in measured else {"performance"} if key in ("graph", "deterministic") else set()
        assert stages_to_run(short_run) == stale
    finally:
        file.write_text(before)


def test_another_learning_rate_leaves_pack_and_performance():
    assert with_downstream({"train"}) == {"train", "evaluate", "benchmark"}


def test_metrics_plots_and_an_experiment_as_typed(short_run):
    assert "results/metrics.json" in short_run.run("dvc", "metrics", "show").stdout
    short_run.run("dvc", "plots", "show")
    assert (short_run.folder / "dvc_plots/index.html").exists()
    data = (short_run.folder / "data/cache/train.lmdb").stat().st_mtime_ns
    done = short_run.run("dvc", "exp", "run", "-S", "epochs=2", "-S", "train.max_steps=2")
    assert "Running stage 'train'" in done.stdout and "Running stage 'pack'" not in done.stdout
    assert (short_run.folder / "data/cache/train.lmdb").stat().st_mtime_ns == data
    assert "epochs" in short_run.run("dvc", "exp", "show", "--csv").stdout


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


def test_coco_2014_runs_to_metrics(clone, shared):
    clone.edit(
        {
            "epochs: ": "epochs: 1",
            "  source: digits": "  source: coco2014",
            "  root: ": f"  root: {shared / 'coco2014-mini'}",
            "  name: ": "  name: m2det320-vgg16",
            "  batch_size: ": "  batch_size: 2",
            "  microbatch: ": "  microbatch: 2",
            "  max_steps: ": "  max_steps: 2",
            "  workers: ": "  workers: 0",
        }
    )
    clone.run("dvc", "repro", "evaluate")
    metrics = json.loads((clone.folder / "results/metrics.json").read_text())
    assert len(metrics) == 92 and "AP/toothbrush" in metrics
    manifest = json.loads((clone.folder / "data/cache/manifest.json").read_text())
    assert (manifest["splits"]["train"]["images"], manifest["splits"]["val"]["images"]) == (126, 56)
    assert str(shared) not in (clone.folder / "dvc.lock").read_text()
    assert str(shared) not in (clone.folder / "data/coco/manifest.json").read_text()
    shutil.rmtree(clone.folder / "models")


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
    "truncated JPEG": (lambda clone: truncate(clone.folder / "own/images/2.jpg"), "2.jpg"),
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


def test_finetuning_starts_from_a_model_of_other_classes(clone):
    own_data(clone)
    write_tiny_model(clone.folder / "models")
    clone.edit(SHORT | {"  batch_size: ": "  batch_size: 2", "  microbatch: ": "  microbatch: 2"})
    clone.edit({"  source: random": "  source: checkpoint", "  checkpoint: ": "  checkpoint: models/model.safetensors"})
    done = clone.run("dvc", "repro", "train")
    assert "training starts from model.safetensors, sha256 " in done.stdout
    assert "random initialization: conf.0.weight (12, 128, 3, 3) (the checkpoint has (66, 128, 3, 3))" in done.stdout
    assert "random initialization: unet1" not in done.stdout
    card = clone.run("m2det.cli.main", "info", "models/m2det.safetensors").stdout
    assert "1: cat" in card and "sha256 of backbone" in card
    clone.edit({"  checkpoint: ": "  checkpoint: models/none.pth"})
    done = clone.run("dvc", "repro", "train", ok=False)
    assert "models/none.pth: no such file" in done.stderr and "Traceback" not in done.stderr


def test_two_processes_train_in_the_stage(clone):
    clone.edit(SHORT | {"  processes: ": "  processes: 2", "  batch_size: ": "  batch_size: 8"})
    done = clone.run("dvc", "repro", "evaluate")
    assert json.loads((clone.folder / "results/train.json").read_text())["steps"] == 3
    assert not list((clone.folder / "models/unfinished").glob("*/step-*.pt"))
    clone.edit({"  batch_size: ": "  batch_size: 4000"})
    done = clone.run("dvc", "repro", "train", ok=False)
    assert "error: train.batch_size is 4000, but there are only 1500" in done.stderr
