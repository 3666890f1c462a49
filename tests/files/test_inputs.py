"""Inputs as they were: what counts as a change, and how it is undone."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from m2det.errors import InputError
from m2det.files.inputs import IGNORED, Inputs, content_md5
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working copy with settings, a source file, a folder of sources and a folder of data."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "params.yaml": "epochs: 2\ntrain: {lr: 0.1, overrides: {}}\nevaluate: {nms: hard}\n",
        "loss.py": "loss = 1\n",
        "model/vgg.py": "vgg = 1\n",
        "model/__pycache__/vgg.pyc": "compiled",
        "cache/train.lmdb": "images",
        "cache/train.json": "{}",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    return tmp_path


def record() -> Inputs:
    data = {"cache": (content_md5(Path("cache")), "dvc checkout --force cache")}
    return Inputs.record("params.yaml", ["epochs", "train"], ["loss.py", "model"], data)


def texts(inputs: Inputs, thorough: bool = True) -> list[str]:
    return [change.text for change in inputs.changes(thorough)]


def test_nothing_changed(project):
    inputs = record()
    assert texts(inputs) == []
    for path in project.rglob("*"):
        os.utime(path)
    Path("model/__pycache__/other.pyc").write_text("Python writes these when it imports")
    Path("params.yaml").write_text("evaluate: {nms: linear}  # not ours\ntrain: {overrides: {}, lr: 1e-1}\nepochs: 2\n")
    assert texts(inputs) == [], "times, comments, order, notation and other sections do not count"
    assert texts(Inputs()) == []


@pytest.mark.usefixtures("project")
def test_changes_are_named_with_old_and_new_value():
    inputs = record()
    Path("params.yaml").write_text("train: {lr: 0.5, overrides: {levels: 2}}\n")
    assert texts(inputs) == [
        "epochs: 2 -> 'absent'",
        "train.lr: 0.1 -> 0.5",
        "train.overrides: {} -> 'absent'",
        "train.overrides.levels: 'absent' -> 2",
    ]
    Path("params.yaml").write_text("train: [")
    assert len(texts(inputs)) == 1 and "params.yaml is not valid YAML" in texts(inputs)[0]
    Path("params.yaml").unlink()
    assert "no such file" in texts(inputs)[0]


@pytest.mark.usefixtures("project")
def test_sources_edited_new_and_removed():
    inputs = record()
    Path("loss.py").unlink()
    Path("model/vgg.py").write_text("vgg = 2\n")
    Path("model/resnet.py").write_text("")
    assert texts(inputs) == ["loss.py removed", "model/resnet.py is new", "model/vgg.py edited"]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("large", [1 << 30, 1])
def test_data_of_another_inode_is_hashed_and_may_be_the_same(monkeypatch, large):
    monkeypatch.setattr("m2det.files.inputs.LARGE", large)
    inputs = record()
    Path("copy").write_text("images")
    Path("copy").replace("cache/train.lmdb")  # as `dvc checkout --relink` does
    assert texts(inputs) == []
    Path("cache/train.lmdb").write_text("IMAGES")
    assert texts(inputs) == ["cache has other content"]
    assert texts(inputs, thorough=False) == ([] if large == 1 else ["cache has other content"])
    Path("cache/train.lmdb").write_text("other")
    assert texts(inputs, thorough=False) == ["cache has other content"], "another size needs no hash"
    Path("cache/train.lmdb").write_text("images")
    assert texts(inputs) == []
    Path("cache/val.lmdb").touch()
    assert texts(inputs) == ["cache has other files"]
    for path in Path("cache").iterdir():
        path.unlink()
    assert texts(inputs) == ["cache removed"]


@pytest.mark.usefixtures("project")
def test_small_data_is_compared_with_what_it_was_not_with_what_dvc_has_recorded():
    inputs = Inputs.record("params.yaml", [], [], {"cache": ("another md5", "")})
    os.utime("cache/train.json")
    assert texts(inputs) == []


@pytest.mark.usefixtures("project")
def test_files_that_come_and_go_are_no_error_and_those_of_editors_do_not_count():
    inputs = record()
    for name in (".vgg.py.swp", "vgg.py~", "4913", ".DS_Store", ".nfs0001", "_nms.so"):
        Path("model", name).touch()
    assert texts(inputs) == []
    ignored = (ROOT / ".dvcignore").read_text().splitlines()
    assert set(IGNORED) <= set(ignored), "DVC ignores the same files"
    Path("model/vgg.py").chmod(0)
    if os.getuid():
        assert texts(inputs) == ["model/vgg.py removed"]
    Path("model/vgg.py").unlink()
    Path("model/vgg.py").symlink_to("nowhere")
    assert texts(inputs) == ["model/vgg.py removed"]


def test_undo_brings_back_what_was_kept(project):
    inputs = record()
    params = inputs.keep(Path("run/inputs"))
    assert params.read_text() == Path("params.yaml").read_text()
    before = {path: path.read_bytes() for path in project.rglob("*.py") if "run" not in path.parts}
    Path("params.yaml").write_text("epochs: 3\n")
    Path("loss.py").write_text("edited")
    Path("model/new file.py").write_text("")
    subprocess.run(["sh", "-c", inputs.undo(inputs.changes(), Path("run/inputs").resolve())], check=True)
    assert texts(inputs) == []
    assert {path: path.read_bytes() for path in project.rglob("*.py") if "run" not in path.parts} == before
    Path("cache/train.lmdb").write_text("other")
    assert inputs.undo(inputs.changes(), Path("run/inputs")) == "dvc checkout --force cache"


@pytest.mark.usefixtures("project")
def test_another_process_reads_the_record():
    record().keep(Path("run"))
    read = Inputs.load(Path("run"))
    read.refuse_changes()
    Path("loss.py").write_text("edited")
    assert texts(read) == ["loss.py edited"]
    with pytest.raises(InputError, match=r"inputs changed while this started: loss.py edited"):
        read.refuse_changes()
    Path("loss.py").write_text("loss = 1\n")
    Path("params.yaml").write_text("epochs: 3\n")
    read.refuse_changes()  # this process reads the copy, whatever is in the file
    assert texts(Inputs.load(Path("elsewhere"))) == []
    assert not list(Path("run").rglob("*.tmp"))


@pytest.mark.usefixtures("project")
def test_a_process_that_may_have_read_another_file_of_settings_is_refused():
    inputs = record()
    inputs.refuse_changes()
    before = Path("params.yaml").read_text()
    Path("params.yaml").write_text(before + "run: {workers: 3}\n")  # none of the stage's keys
    with pytest.raises(InputError, match=r"inputs changed while this started: params.yaml edited; give the same"):
        inputs.refuse_changes()
    assert texts(inputs) == [], "later, such an edit counts for nothing"
    assert inputs.keep(Path("run")).read_text() == before, "what was recorded, not what is in the file now"
    Path("params.yaml").write_text(before.replace("epochs: 2", "epochs: 3"))
    with pytest.raises(InputError, match="while this started: epochs: 2 -> 3; give"):
        inputs.refuse_changes()


@pytest.mark.usefixtures("project")
def test_a_record_of_another_version_is_not_read():
    record().keep(Path("run"))
    path = Path("run/inputs.json")
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    assert Inputs.load(Path("run")) == Inputs()


@pytest.mark.usefixtures("project")
def test_a_warning_is_given_once_for_each_set_of_changes(caplog):
    inputs = record()
    inputs.keep(Path("run"))
    with caplog.at_level("INFO", "m2det.files.inputs"):
        for text in ("loss = 1\n", "loss = 2\n", "loss = 2\n", "loss = 1\n", "loss = 1\n"):
            Path("loss.py").write_text(text)
            inputs.warn_of_changes(Path("run"))
    warning, calm = (record.getMessage() for record in caplog.records)
    assert "loss.py edited" in warning and "only after: cp run/loss.py loss.py" in warning
    assert "the recorded ones again" in calm


def test_the_md5_of_a_folder_is_dvcs(tmp_path):
    pytest.importorskip("dvc")
    from dvc.repo import Repo

    for name in ("b.txt", "a/c.txt", "a b.txt"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    repo = Repo.init(str(tmp_path), no_scm=True)
    (stage,) = repo.add(str(tmp_path / "data"))
    assert content_md5(tmp_path / "data") == stage.outs[0].hash_info.value
    assert content_md5(tmp_path / "data/b.txt") in json.dumps([e["md5"] for e in stage.outs[0].get_obj().as_list()])
