"""The stage `data` tells all bad files at once, the first on the screen, every one in a file; or leaves images out."""

import pytest

from m2det.data.sources.fault_list import MAX_NAMED, faults_listed
from m2det.data.sources.made import tell_notes
from m2det.data.sources.tree import Tree
from m2det.data.sources.voc import find_voc
from m2det.data.sources.yolo import find_yolo
from m2det.errors import InputError
from tests.data.project import Project, jpeg, write_annotations
from tests.data.sources.test_voc import KIT, own

BAD = 23


def yolo(root):
    """BAD damaged images, a missing one in the list of train, and two whole ones."""
    names = [f"{number:02}.jpg" for number in range(BAD)]
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate([*names, "w.jpg", "x.jpg"]):
        (root / f"images/{name}").write_bytes(jpeg(number) if name in ("w.jpg", "x.jpg") else b"404")
        (root / f"labels/{name[:-4]}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (root / "train.txt").write_text("\n".join(f"images/{name}" for name in [*names, "gone.jpg", "w.jpg", "x.jpg"]))
    (root / "data.yaml").write_text("names: [cat]\ntrain: train.txt\n")
    return root


def test_stage_data_tells_all_missing_images_and_which_command_finds_damaged_ones(tmp_path):
    project = Project(tmp_path)
    names = [f"gone/{number:02}.jpg" for number in range(BAD)]
    project.names("a.jpg", *names)
    write_annotations(project.root / "val.json", ["b.jpg", "lost.jpg"])
    done = project.stage("data")
    listed = (project.folder / "data/unfinished/bad_images.txt").read_text().splitlines()
    assert listed == [f"{project.images / name} does not exist" for name in [*names, "lost.jpg"]]
    assert [line for line in done.stdout.splitlines() if line in listed] == listed[:MAX_NAMED]
    error = done.stderr.strip().splitlines()[-1]
    for words in (
        "error: 24 images are missing; 20 sentences on them are above, all in ",
        "data/unfinished/bad_images.txt",
        f"23 of the 24 images that {project.root}/train.json names are not in ",
        f"1 of the 2 images that {project.root}/val.json names are not in ",
        f"damaged are listed by `m2det data check --annotations {project.root}/train.json --images {project.images}`",
    ):
        assert words in error, error


def test_bad_images_of_yolo_are_told_in_full(tmp_path, capsys):
    root, report = yolo(tmp_path / "root"), tmp_path / "unfinished/bad_images.txt"
    with (
        pytest.raises(InputError, match=rf"^24 files are wrong; 20 sentences .* all in {report}; correct them, or set"),
        faults_listed(report),
    ):
        find_yolo(Tree(root)).convert(tmp_path / "data", 0.5)
    listed = report.read_text().splitlines()
    assert "train.txt, line 24: 'images/gone.jpg' is not below" in listed[0] and len(listed) == BAD + 1
    assert capsys.readouterr().out.splitlines() == listed[:MAX_NAMED]
    with faults_listed(report):
        pass
    assert not report.exists(), "of an earlier call"


def test_images_that_are_left_out_are_told_in_full(tmp_path):
    converted = find_yolo(Tree(yolo(tmp_path / "root"))).convert(tmp_path / "data", 0.5, skip=True)
    lines: list[str] = []
    tell_notes(converted.notes, tmp_path / "left_out.txt", lines.append)
    listed = (tmp_path / "left_out.txt").read_text().splitlines()
    assert len([line for line in listed if "cannot be decoded" in line or "gone.jpg" in line]) == BAD + 1
    start = next(k for k, line in enumerate(lines) if line.startswith(f"{BAD + 1} images are missing or cannot be"))
    assert lines[start + 1 : start + 1 + MAX_NAMED] == [f"  {line}" for line in listed[:MAX_NAMED]]


def test_faults_of_xml_files_and_of_their_images_are_told_together(tmp_path):
    """And images that are missing or of another size may be left out, an XML file that is damaged not."""
    root = own(tmp_path / "root", KIT | {f"Annotations/{n}.xml": f"JPEGImages/{n}.jpg" for n in ("f", "g")})
    (root / "JPEGImages/b.jpg").unlink()
    (root / "JPEGImages/c.d.jpg").write_bytes(jpeg(0))
    (root / "JPEGImages/f.jpg").write_bytes(b"404")
    (root / "Annotations/e.xml").write_text("<annotation>")
    with pytest.raises(InputError) as refused:
        find_voc(Tree(root)).convert(tmp_path / "data", 0.5)
    for words in ("4 files are wrong", "b.xml has no image", "c.d.jpg has 32x32", "f.jpg cannot", "e.xml is no VOC"):
        assert words in str(refused.value)
    with pytest.raises(InputError, match=r"^\S+e\.xml is no VOC annotation"):
        find_voc(Tree(root)).convert(tmp_path / "data", 0.5, skip=True)
    (root / "Annotations/e.xml").unlink()
    notes = find_voc(Tree(root)).convert(tmp_path / "data", 0.5, skip=True).notes
    assert {note.code: note.count for note in notes} == {
        "skipped-images": 3,
        "unlabelled-images": 1,
        "validation-cut": 1,
    }


def test_all_names_of_a_list_without_an_xml_file_are_told(tmp_path):
    root = own(tmp_path / "root", KIT, train="b\nx\ny\nz", val="e")
    with pytest.raises(InputError, match=r"^3 names of .*train\.txt have no XML file: .*'x', .*'y', .*'z', "):
        find_voc(Tree(root))
