"""The preflight names all that would stop a run, in sentences, and nothing that the run does not need."""

import json
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

import flows.preflight
import tasks.common
import tasks.preflight
import tasks.room
from flows.settings import write_settings
from m2det.data.sources.coco2014 import ADVICE
from m2det.download import require_reachable
from m2det.errors import InputError
from tasks.preflight import preflight, will_run
from tests.conftest import ROOT

ALL = ["annotations", "data", "pack", "ops", "weights", "train", "evaluate", "benchmark", "performance"]
DVC_CACHE = tasks.room.dvc_cache
SHA = {"sha256": "0" * 64}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the project's settings and stages, where nothing has run yet; DVC is not asked."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks.preflight, "will_run", set)
    monkeypatch.setattr(tasks.room, "dvc_cache", lambda: tmp_path / ".dvc/cache")
    yield tmp_path
    tasks.common.params.cache_clear()


def found(recipe: str | None = None, stages: list[str] = ALL, **overrides: object) -> tasks.preflight.Preflight:
    write_settings(Path("params.yaml"), recipe, overrides)
    tasks.common.params.cache_clear()  # read once per process
    return preflight(tasks.common.params(), stages)


def own_data(folder: Path, images: bool = True) -> dict[str, object]:
    (folder / "mine/images").mkdir(parents=True)
    for number in range(3 if images else 0):
        (folder / f"mine/images/{number}.jpg").write_bytes(bytes(10**6))
    content = {"images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}], "annotations": []}
    content["categories"] = [{"id": 1, "name": "cat"}]
    (folder / "mine/a.json").write_text(json.dumps(content))
    source = [{"annotations": "a.json", "images": "images"}]
    return {"source": "coco", "root": "mine", "train": source, "val": source}


def test_a_machine_that_has_all_is_described(project):
    result = found(data=own_data(project), run={"device": "cpu", "processes": 2, "workers": 1})
    assert (result.findings, result.device, result.processes) == ([], "cpu", 2)


def test_all_that_is_wrong_is_named_at_once(project):
    wrong = {"weights": {"source": "mine.pth"}, "train": {"sync_bn": True}}
    result = found(
        "coco512-8p", data={"root": "/nowhere"}, run={"device": "cpu", "workers": 99, "graph": True}, **wrong
    )
    root, weights, workers, graph, sync_bn = result.findings
    assert root == "data.root: /nowhere is no folder; give the one with your annotations and images"
    assert weights == f"weights: {project}/mine.pth: no such file"
    assert workers.startswith("run.workers is 99, in each of 8 processes, but on a CPU with ")
    assert graph.startswith("run.graph is true, but torch captures no graphs on cpu")
    assert sync_bn.startswith("train.sync_bn is true, but a CPU has no synchronized batch normalization")


def test_a_machine_without_the_device_is_named(project):
    result = found(data=own_data(project), run={"device": "cuda"})
    assert result.findings[0].startswith("run.device is 'cuda', but this machine has ")
    assert (result.device, result.processes) == (None, 0)


@pytest.mark.usefixtures("project")
def test_what_no_stage_of_the_run_needs_is_not_looked_for():
    wrong = {"data": {"root": "/nowhere"}, "weights": {"source": "mine.pth"}, "run": {"workers": 99}}
    assert found("coco512-8p", ["ops"], **wrong).findings == []
    assert len(found("coco512-8p", ["annotations", "data", "pack"], **wrong).findings) == 1


def test_a_stage_without_what_others_make_is_refused(project):
    (sentence,) = found(stages=["evaluate"]).findings
    assert sentence == (
        "evaluate needs models/m2det.safetensors, data/cache, data/test, build/ops.json, results/curves.csv, not there "
        "yet: run these stages, too: train, pack, ops"
    )
    caches = ("data/cache/manifest.json", "data/test/manifest.json")
    for name in (
        "models/m2det.safetensors",
        *caches,
        "build/ops.json",
        "results/curves.csv",
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    assert found(stages=["evaluate"]).findings == []


def test_a_model_that_dvc_does_not_know_is_named_with_the_command_that_takes_it(project, monkeypatch):
    """The run's copy has what dvc.lock records."""
    copy = project / ".dvc/tmp/runs/eval-8p-0123abcd/project"
    copy.mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project / name, copy)
    (project / "models").mkdir()
    (project / "models/m2det.safetensors").touch()
    monkeypatch.chdir(copy)
    (sentence,) = found(stages=["evaluate"]).findings
    assert sentence.endswith(
        f": train, pack, ops; {project} has models/m2det.safetensors, but a run takes what dvc.lock records and DVC's "
        "cache holds: `dvc repro --single-item --force evaluate` there takes these files as they are"
    )


def test_each_finding_is_an_error_once(tmp_path, monkeypatch):
    """In the state's message, which Prefect logs."""
    (tmp_path / "tasks").mkdir()
    result = {"findings": ["no data", "no weights"], "device": None, "processes": 0}
    (tmp_path / "tasks/preflight.py").write_text(f"print({json.dumps(result)!r})\n")
    said = []
    monkeypatch.setattr(flows.preflight, "get_run_logger", lambda: SimpleNamespace(error=said.append))
    state = flows.preflight.preflight.fn(str(tmp_path), ["data"])
    assert state.is_failed() and state.message == "preflight: 2 findings: no data; no weights" and said == []


def test_each_source_says_which_of_its_files_are_missing(project):
    for name in ("coco/annotations", "coco/images/train2014", "voc/VOC2007/ImageSets/Main"):
        (project / name).mkdir(parents=True)
    for name in ("coco/annotations/instances_train2014.json", "voc/VOC2007/ImageSets/Main/test.txt"):
        (project / name).touch()
    stages = ["annotations", "data", "pack"]
    annotations = project / "coco/annotations"
    assert found("coco512-8p", stages, data={"root": "coco"}).findings == [
        f"annotation file {annotations}/instances_valminusminival2014.json is missing; {ADVICE}",
        f"annotation file {annotations}/instances_minival2014.json is missing; {ADVICE}",
        f"image folder {project}/coco/images/val2014 is missing; {ADVICE}",
    ]
    for name in ("val2014", "val2017"):
        (annotations / f"instances_{name}.json").touch()  # minival is made of them
    assert len(found(None, stages).findings) == 1
    (sentence,) = found("voc512-1p", stages, data={"root": "voc"}).findings
    assert sentence.startswith(f"{project}/voc has no VOC2007/ImageSets/Main/trainval.txt or VOC2012/ImageSets/Main/t")


def test_a_full_disk_is_named_with_what_the_run_writes(project, monkeypatch):
    usage = shutil.disk_usage(project)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    (sentence,) = found(data=own_data(project)).findings
    assert sentence == (
        f"the disk has 0.0 GB free, but this run writes the packed cache about 0.0 GB in {project}/data/unfinished "
        f"and checkpoints about 0.2 GB in {project}/models/unfinished; make room"
    )
    (project / "models/unfinished/run").mkdir(parents=True)
    with (project / "models/unfinished/run/step-1.pt").open("wb") as file:
        file.truncate(10**9)
    (sentence,) = found().findings
    assert "the packed cache" in sentence
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_200_000))
    assert found().findings == [], "of three images the annotations name one"


def test_the_images_below_the_root_are_counted(project, monkeypatch):
    year = project / "voc/VOC2007"
    for name in ("JPEGImages", "ImageSets/Main", "Annotations"):
        (year / name).mkdir(parents=True)
    for name, images in (("trainval", "000001\n000002\n"), ("test", "000002")):
        (year / f"ImageSets/Main/{name}.txt").write_text(images)
    for number in range(1, 5):
        (year / f"Annotations/{number:06}.xml").write_text("<annotation/>")
        (year / f"JPEGImages/{number:06}.jpg").write_bytes(bytes(10**6))
    usage, voc = shutil.disk_usage(project), {"source": "voc", "root": "voc"}
    for room, fits in ((4_200_000, False), (4_600_000, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, room=room: usage._replace(free=room))
        stages = ["annotations", "data", "pack"]
        assert (found(stages=stages, data=voc).findings == []) == fits, "four images, and a tenth"


def test_coco_that_is_still_to_be_downloaded_is_counted_with_its_cache(project, monkeypatch):
    monkeypatch.setattr("m2det.download.require_reachable", lambda *_: None)
    usage, data = shutil.disk_usage(project), {"source": "coco2014-download", "root": "coco"}
    for room, fits in ((41 * 10**9, False), (42 * 10**9, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, room=room: usage._replace(free=room))
        findings = found("coco512-8p", ["annotations", "data", "pack"], data=data).findings
        assert (findings == []) == fits, "20.2 GB of images, as much in the cache, and pages"
    (project / "coco/images/train2014").mkdir(parents=True)
    (project / "coco/images/val2014").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=21 * 10**9))
    (sentence,) = found("coco512-8p", ["annotations", "data", "pack"], data=data).findings
    assert "COCO 2014 about 0.5 GB" in sentence, "of the annotations"


def test_a_full_disk_of_dvcs_cache_is_named(project, monkeypatch):
    kept = project / "another disk"
    for folder in (kept, project / ".dvc"):
        folder.mkdir()
    (project / ".dvc/config").write_text(f"[core]\n    no_scm = True\n[cache]\n    dir = {kept}\n")
    usage, data = shutil.disk_usage(project), own_data(project)
    monkeypatch.setattr(tasks.room, "dvc_cache", DVC_CACHE)
    monkeypatch.setattr(tasks.room, "_disk", lambda folder: int(folder == kept))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6 if path == kept else 10**9))
    (sentence,) = found(stages=["annotations", "data", "pack"], data=data).findings
    written = f"DVC's copy of the packed cache about 0.0 GB in {kept}"
    assert sentence == f"the disk has 0.0 GB free, but this run writes {written}; make room"


class Answers(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_):
        pass


def test_weights_that_no_server_has_are_named(project):
    server = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        for code in (200, 405):
            require_reachable(f"{url}/{code}", "or not")
        with pytest.raises(InputError, match=r"/404 cannot be fetched \(HTTP Error 404: Not Found\); or not"):
            require_reachable(f"{url}/404", "or not")
        (sentence,) = found(stages=["weights"], weights={"source": f"{url}/404", **SHA}).findings
        assert sentence.endswith(f"get it elsewhere and put it at {project}/models/downloads/404")
    finally:
        server.shutdown()
        server.server_close()
    (project / "models/downloads").mkdir(parents=True)
    (project / "models/downloads/404").write_bytes(b"weights")
    (sentence,) = found(stages=["weights"]).findings
    assert "/models/downloads/404 has sha256 " in sentence


@pytest.mark.slow
def test_data_that_dvc_has_packed_already_need_not_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = "".join(
        f"  {name}:\n    cmd: touch {name}\n    deps: [in-{name}]\n    outs: [{name}]\n"
        for name in ("data", "pack", "weights", "train")
    )
    Path("dvc.yaml").write_text(f"stages:\n{stages}")
    for name in ("data", "pack", "weights", "train"):
        Path(f"in-{name}").write_text(name)
    for command in (["init", "-q", "--no-scm"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True)
    assert will_run([*ALL]) == {"annotations", "ops", "evaluate", "benchmark", "performance"}
    assert will_run(["data", "pack"]) == {"pack"}, "asked for as the last one"
    Path("in-data").write_text("other")
    assert will_run([*ALL]) == {*ALL} - {"weights"}
