"""Corrected labels are noticed: the stage `annotations`, alone and under DVC."""

import json
import shutil
from pathlib import Path

import pytest

import tasks.common
from flows.settings import write_settings
from m2det.errors import InputError
from tasks.annotations import RECORD, record_annotations
from tests.data.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Own data in COCO's format, beside the project's folder."""
    made = Project(tmp_path)
    monkeypatch.chdir(made.folder)
    tasks.common.params.cache_clear()
    yield made
    tasks.common.params.cache_clear()


def recorded(**settings: object) -> dict[str, str]:
    """Run the stage, and return what it has recorded."""
    if settings:
        write_settings(Path("params.yaml"), None, {"data": settings})
        tasks.common.params.cache_clear()
    record_annotations()
    text = RECORD.read_text()
    assert str(Path.cwd().parent) not in text, "where data lie does not change what they are"
    files: dict[str, str] = json.loads(text)["files"]
    return files


def test_an_edited_file_is_told_and_an_untouched_one_changes_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    first = recorded()
    assert [*first] == ["train.json", "val.json"]
    status = RECORD.stat()
    assert recorded() == first and RECORD.stat().st_mtime_ns == status.st_mtime_ns
    project.names("a.jpg")
    second = recorded()
    assert second["val.json"] == first["val.json"] and second["train.json"] != first["train.json"]
    assert capsys.readouterr().out == "annotations have changed: train.json\n"


def test_where_the_data_are_absent_the_record_stays(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"data\.root: .*nowhere is no folder"):
        recorded(root="/nowhere")
    first = recorded(root=str(project.root))
    shutil.rmtree(project.root)
    assert recorded() == first
    assert "changed annotations go unnoticed" in caplog.text


def test_a_label_of_voc_is_noticed_among_many_files(project: Project) -> None:
    for year, name in (("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")):
        for folder, file in (("ImageSets/Main", f"{name}.txt"), ("Annotations", f"{name}.xml")):
            (project.root / year / folder).mkdir(parents=True, exist_ok=True)
            (project.root / year / folder / file).write_text(name if file.endswith("txt") else "<annotation/>")
    first = recorded(source="voc", train=[], val=[])
    (project.root / "VOC2007/Annotations/test.xml").write_text("<annotation></annotation>")
    second = recorded()
    assert {name for name in first if first[name] != second[name]} == {"VOC2007/Annotations"}


def test_every_source_has_its_files_listed() -> None:
    from m2det.config.sections.data import DataParams
    from m2det.data.sources.annotation_files import LISTERS

    assert set(DataParams.model_fields["source"].annotation.__args__) == set(LISTERS)


@pytest.mark.usefixtures("project")
def test_data_that_are_made_have_no_files_of_their_own() -> None:
    assert recorded(source="digits", train=[], val=[]) == {}


@pytest.mark.slow
def test_dvc_packs_corrected_labels(clone, tmp_path_factory: pytest.TempPathFactory) -> None:
    own = tmp_path_factory.mktemp("own")
    project = Project(own)
    shutil.copy(project.folder / "params.yaml", clone.folder)
    assert "train: 2 images, 2 boxes" in clone.run("dvc", "repro", "pack").stdout
    done = clone.run("dvc", "repro", "pack")
    assert "'data' didn't change" in done.stdout and "'pack' didn't change" in done.stdout
    project.names("a.jpg")
    done = clone.run("dvc", "repro", "pack")
    assert "annotations have changed: train.json" in done.stdout and "train: 1 images, 1 boxes" in done.stdout
    shutil.rmtree(project.root)
    done = clone.run("dvc", "repro", "pack")
    assert "changed annotations go unnoticed" in done.stdout and "'pack' didn't change" in done.stdout
