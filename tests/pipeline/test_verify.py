"""`m2det verify` and `m2det release`: each link between a model and its proofs, cut once, in a small project."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from ruamel.yaml import YAML

import tasks.common
import tasks.inputs
import tasks.release
import tasks.verify
from m2det.cli.main import main
from m2det.data.packed.reader import PackedSplit
from m2det.distributed import children
from m2det.distributed.group import Group
from m2det.evaluate.metrics import NAMES, coco_scores
from m2det.evaluate.rank import detect_split
from m2det.evaluate.record import write_record
from m2det.files.hashing import file_sha256
from m2det.files.inputs import Inputs, content_md5, select
from m2det.files.whole import write_whole
from m2det.model import build_model
from m2det.model.hub_card import MEANINGS
from m2det.model.model_file import load_trained, save_trained
from tasks.common import CACHE, MODEL, PARAMS, RESULTS
from tasks.provenance import describe_commit, write_provenance
from tests.conftest import ROOT

STAGES = {
    "pack": {"outs": ["data/cache"]},
    "ops": {"outs": [{"build/ops.json": {"cache": False}}]},
    "train": {
        "deps": ["data/cache", "build/ops.json", "m2det/loss", "m2det/boxes.py"],
        "params": ["epochs", "seed", "train"],
        "outs": ["models/m2det.safetensors", "models/m2det.json"],
    },
    "evaluate": {
        "deps": ["models/m2det.safetensors", "data/cache", "tasks/evaluate.py"],
        "params": ["evaluate"],
        "outs": ["results/detections.json", "results/evaluation.json", "results/plots"],
        "metrics": [{"results/metrics.json": {"cache": False}}],
    },
}
KEYS = STAGES["train"]["params"]


def entry_of(stage: str) -> dict:
    """The stage's entry in dvc.lock, of the files as they are."""

    def paths(outs: list) -> list[str]:
        return [out if isinstance(out, str) else next(iter(out)) for out in outs]

    def hashed(names: list[str]) -> list[dict]:
        return [{"path": name, "md5": content_md5(Path(name))} for name in names if Path(name).exists()]

    raw = YAML(typ="safe").load(PARAMS)
    outs = [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]
    entry = {"deps": hashed(STAGES[stage].get("deps", [])), "outs": hashed(paths(outs))}
    return entry | {"params": {str(PARAMS): {key: raw[key] for key in STAGES[stage].get("params", [])}}}


def write_lock() -> None:
    with Path("dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": {stage: entry_of(stage) for stage in STAGES}}, file)


def evaluate() -> None:
    params = tasks.common.params()
    detect_split(params, CACHE, MODEL, RESULTS / "detections.json", Group())
    scores = coco_scores(PackedSplit(CACHE, "val").ground_truth, RESULTS / "detections.json", "pycocotools")
    metrics = {name: round(value, 6) for name, value in scores.metrics.items()}
    write_whole(RESULTS / "metrics.json", json.dumps(metrics))
    write_record(RESULTS, MODEL, PackedSplit(CACHE, "val"), "pycocotools", {"AP": 0.5})


def write_model(seed: int) -> None:
    torch.manual_seed(seed)
    params = tasks.common.params()
    card = {
        "model": "m2det-tiny",
        "overrides": {"sfam": True},
        "classes": ["square"],
        "category_ids": [1],
        "trained": {"epoch": 3, "step": 9, "AP": 0.25, "AP50": 0.5, "scorer": "hotcoco"},
        "hashes": {},
        "params": select(params.model_dump(mode="json"), KEYS),
        "deps": tasks.inputs.inputs_of("train").md5_of_deps(),
    }
    save_trained(MODEL, build_model("m2det-tiny", 1, sfam=True), card)
    write_provenance(MODEL, describe_commit(), 1)


@pytest.fixture(scope="module")
def made(material, tmp_path_factory) -> Path:
    """A project in which everything meets."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    tasks.common.params.cache_clear()
    tasks.inputs.inputs_of.cache_clear()
    try:
        text = (ROOT / "params.yaml").read_text()
        text = text.replace("  device: auto ", "  device: cpu  ")
        PARAMS.write_text(text.replace("  processes: auto ", "  processes: 1    "))
        shutil.copytree(material[0], CACHE)
        for name in ("build/ops.json", "m2det/loss/a.py", "m2det/boxes.py", "tasks/evaluate.py"):
            write_whole(Path(name), f"of {name}")
        write_whole(tasks.release.PICTURE, b"a picture")
        with Path("dvc.yaml").open("w") as file:
            YAML().dump({"stages": STAGES}, file)
        for name in ("models/.gitignore", "results/.gitignore", "data/.gitignore"):
            write_whole(Path(name), (ROOT / name).read_text())
        for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@localhost commit -qm x"):
            subprocess.run(["git", *command.split()], check=True)
        write_model(0)
        evaluate()
        write_lock()
    finally:
        os.chdir(before)
        tasks.common.params.cache_clear()
        tasks.inputs.inputs_of.cache_clear()
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    yield tmp_path / "project"
    tasks.common.params.cache_clear()
    tasks.inputs.inputs_of.cache_clear()


def append(name: str) -> Callable[[], None]:
    return lambda: Path(name).write_bytes(Path(name).read_bytes() + b"\n")


def set_value(old: str, new: str) -> Callable[[], None]:
    def change() -> None:
        assert old in PARAMS.read_text()
        PARAMS.write_text(PARAMS.read_text().replace(old, new, 1))

    return change


def commit_code() -> None:
    """As after an edit and `dvc commit`: dvc.lock has the new code with the old model."""
    append("m2det/boxes.py")()
    write_lock()


def of_an_earlier_version() -> None:
    model, card = load_trained(MODEL)
    save_trained(MODEL, model, {key: value for key, value in card.items() if key not in ("params", "deps")})


def damage() -> None:
    content = bytearray(MODEL.read_bytes())
    content[-1] ^= 1
    MODEL.write_bytes(content)


CUTS = {
    "nothing": (lambda: None, 0, "meets dvc.lock, the working copy, data/cache and results/metrics.json (AP 0"),
    "a comment in params.yaml": (append("params.yaml"), 0, "meets"),
    "code edited": (
        append("m2det/loss/a.py"),
        1,
        "m2det/loss: other code than the model's: committed later, or edited",
    ),
    "code committed": (commit_code, 1, "m2det/boxes.py: other code than the model's: committed later, or edited"),
    "code removed": (lambda: Path("m2det/boxes.py").unlink(), 1, "m2det/boxes.py: other code"),
    "metrics' code": (append("tasks/evaluate.py"), 1, "tasks/evaluate.py: other code than the metrics'"),
    "NMS built anew": (append("build/ops.json"), 1, "build/ops.json: other code"),
    "NMS missing": (lambda: Path("build/ops.json").unlink(), 2, "missing: `dvc repro --single-item ops`"),
    "cache differs": (append("data/cache/train.lmdb"), 2, "made from: `dvc checkout --force data/cache`"),
    "cache missing": (lambda: shutil.rmtree(CACHE), 2, "data/cache is missing"),
    "setting": (set_value("  lr: 0.06", "  lr: 0.07"), 2, "train.lr is 0.07 in params.yaml, but the model was trained"),
    "evaluation's setting": (set_value("nms: linear", "nms: hard"), 2, "evaluate.nms is 'hard' now, but results/metr"),
    "run's setting": (set_value("log_every: 50", "log_every: 51"), 0, "meets"),
    "another model": (lambda: write_model(1), 2, "is not the model that dvc.lock records"),
    "another model's metrics": (lambda: (write_model(1), write_lock()), 2, "metrics.json is of ANOTHER model"),
    "another model's m2det.json": (lambda: Path("models/m2det.json").write_text("{}"), 2, "m2det.json is of another"),
    "metrics edited": (append("results/metrics.json"), 2, "results/metrics.json changed since"),
    "metrics missing": (lambda: (RESULTS / "metrics.json").unlink(), 2, "results/metrics.json"),
    "record missing": (lambda: (RESULTS / "evaluation.json").unlink(), 2, "results/evaluation.json is missing"),
    "dvc.lock missing": (lambda: Path("dvc.lock").unlink(), 2, "dvc.lock has no stage train"),
    "earlier card": (of_an_earlier_version, 2, "its card names no dependencies"),
    "damaged": (damage, 2, "its sha256 is another than when it was written"),
    "model missing": (lambda: MODEL.unlink(), 2, "models/m2det.safetensors: no such file"),
}


NOT_RELEASED = ("another model's metrics", "metrics edited", "setting")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("cut", CUTS)
def test_each_cut_has_its_exit_code_and_is_named(cut, capsys):
    change, code, text = CUTS[cut]
    change()
    assert tasks.verify.main([str(MODEL)]) == code
    printed = capsys.readouterr()
    assert text in printed.out + printed.err
    assert ("only code" in printed.out) == (code == 1)
    if cut in NOT_RELEASED:
        with pytest.raises(tasks.release.InputError):
            tasks.release.release(Path("released"))
        assert not list(Path().glob("*released*"))


@pytest.mark.usefixtures("project")
def test_deep_evaluates_again_and_names_numbers_that_differ(capsys):
    assert tasks.verify.main(["--deep", str(MODEL)]) == 0
    assert "the largest difference of 12 numbers is 0" in capsys.readouterr().out
    metrics = json.loads((RESULTS / "metrics.json").read_text())
    write_whole(RESULTS / "metrics.json", json.dumps(metrics | {"AP": 0.5}))
    write_record(
        RESULTS, MODEL, PackedSplit(CACHE, "val"), "pycocotools", {"AP": 0.5}
    )  # and a forger who knows the records
    write_lock()
    assert tasks.verify.main([str(MODEL)]) == 0
    assert tasks.verify.main(["--deep", str(MODEL)]) == 2
    assert f"AP is 0.5 in results/metrics.json, and {round(metrics['AP'], 3)} now" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_deep_takes_this_machines_processes_as_the_stage_does_and_waits_for_no_node(capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for old, new in (("  processes: 1 ", "  processes: 2 "), ("  nodes: 1 ", "  nodes: 2 ")):
        set_value(old, new)()
    set_value("  rendezvous: '' ", "  rendezvous: 127.0.0.1:29400 ")()
    commands = []

    def run_child(command, **options):
        commands.append(command)
        children.run_child(command, **options)

    monkeypatch.setattr("tasks.evaluate.run_child", run_child)
    assert tasks.verify.main(["--deep", str(MODEL)]) == 0
    assert "the largest difference of 12 numbers is 0" in capsys.readouterr().out
    assert [command.count("--nproc-per-node=2") for command in commands] == [1]


@pytest.mark.usefixtures("project")
def test_a_release_has_all_that_others_need(material, capsys, tmp_path):
    tasks.release.release(tmp_path / "released")
    assert "README.md names no licence" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "released").iterdir()}
    assert names == {"model.safetensors", "m2det.json", "metrics.json", "params.yaml", "detections.png", "README.md"}
    assert file_sha256(tmp_path / "released/model.safetensors") == file_sha256(MODEL)
    with pytest.raises(tasks.release.InputError, match="exists already"):
        tasks.release.release(tmp_path / "released")
    assert list(load_trained(tmp_path / "released")[1]["classes"]) == ["square"]
    photo = str(material[0].parent / "images/1.jpg")
    assert main(["detect", photo, "--weights", str(tmp_path / "released"), "--out", "o", "--device", "cpu"]) == 0
    assert Path("o/1.jpg").exists()
    capsys.readouterr()
    assert main(["info", str(tmp_path / "released")]) == 0
    info = capsys.readouterr().out
    assert "AP50 0.5 in training, by hotcoco" in info and "md5 of m2det/loss" in info and "train.lr " in info


@pytest.mark.usefixtures("project")
def test_a_release_that_cannot_be_written_leaves_nothing(monkeypatch):
    def full(path: Path, content: bytes | str) -> None:
        if path.name == "README.md":
            raise OSError(ENOSPC, "No space left on device", str(path))
        write_whole(path, content)

    monkeypatch.setattr(tasks.release, "write_whole", full)
    before = sorted(Path().iterdir())
    with pytest.raises(tasks.release.InputError, match=r"released: no space left .* make room"):
        tasks.release.release(Path("released"))
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("project")
def test_the_model_card_is_one_by_hugging_faces_own_library():
    tasks.release.release(Path("released"))
    card = ModelCard.load("released/README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("m2det", "object-detection")
    results = {result.metric_name.split()[0]: result for result in card.data.eval_results}
    metrics = json.loads((RESULTS / "metrics.json").read_text())
    assert {name: result.metric_value for name, result in results.items()} == {
        name: metrics[name] for name in NAMES if metrics[name] >= 0
    }
    assert "AP" in results and list(MEANINGS) == list(NAMES)
    assert {(r.task_type, r.dataset_type, r.dataset_split) for r in results.values()} == {
        ("object-detection", "digits", "val")
    }
    made = json.loads(Path("models/m2det.json").read_text())
    assert f"commit `{made['git']['commit']}`" in card.text and "1 classes: square" in card.text


@pytest.mark.usefixtures("project")
def test_the_record_beside_the_model_names_commit_and_edits():
    assert describe_commit()["edited"] == [], "what stages make, and dvc.lock, are no edits"
    append("m2det/boxes.py")()
    Path("m2det/new.py").touch()
    write_whole(RESULTS / "plots/labels.csv", b"in a folder that a stage makes")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert describe_commit() == {"commit": commit, "dirty": True, "edited": ["m2det/boxes.py", "m2det/new.py"]}
    shutil.rmtree(".git")
    assert describe_commit() == {"commit": None, "dirty": None, "edited": []}


def test_the_record_of_a_runs_copy_names_the_users_commit(project, monkeypatch):
    """flows.run_copy commits the working copy's edits, in a clone."""
    before = describe_commit()["commit"]
    copy = project / ".dvc/tmp/runs/digits-01234567/project"
    subprocess.run(["git", "clone", "-q", str(project), str(copy)], check=True)
    monkeypatch.chdir(copy)
    append("m2det/boxes.py")()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run([*git, "commit", "-qam", "the working copy when digits started"], check=True)
    assert describe_commit() == {"commit": before, "dirty": True, "edited": ["m2det/boxes.py"]}


def test_inputs_hash_as_dvc_does(project):
    record = Inputs.record(str(PARAMS), KEYS, ["m2det/loss", "m2det/boxes.py"], {"data/cache": ("", "")})
    expected = {path: content_md5(project / path) for path in ("m2det/loss", "m2det/boxes.py", "data/cache")}
    assert record.md5_of_deps() == expected


def test_outside_of_a_clone_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "m.safetensors"]) == 2
    assert "is no clone of m2det" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("damaged", ["models/m2det.json", "dvc.lock"])
def test_damaged_records_are_no_difference_of_code(capsys, damaged):
    path = Path(damaged)
    path.write_text(path.read_text()[:40] if damaged.endswith("json") else "<<<<<<< HEAD\n" + path.read_text())
    assert tasks.verify.main([str(MODEL)]) == 2
    assert "is damaged" in capsys.readouterr().err
