"""What an annotation file may name: images in their folder, and nothing else of this machine, whatever it says."""

import os
import stat
from pathlib import Path

import pytest

from m2det.cli.main import main
from m2det.data.checks.files import find_images
from m2det.data.packed.writer import write_split
from m2det.data.sources.coco import read_split
from m2det.data.sources.coco_json import read_categories
from m2det.data.sources.image_folder import ImageFolder
from m2det.data.sources.manifest import load_sources, write_manifest
from m2det.errors import InputError
from m2det.files.regular_file import read_file
from tests.data.project import SECRET, SIDE, Project, jpeg, write_annotations


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def absolute(project):
    project.names("a.jpg", str(project.secret))


def parents(project):
    project.names("a.jpg", "more/../../../secret/key.jpg")


def link_to_a_file(project):
    (project.images / "l.jpg").symlink_to(project.secret)
    project.names("a.jpg", "l.jpg")


def link_to_a_folder(project):
    (project.images / "deep").symlink_to(project.secret.parent, target_is_directory=True)
    project.names("a.jpg", "deep/key.jpg")


def link_to_a_link(project):
    (project.images / "hop").symlink_to(project.root.parent, target_is_directory=True)
    (project.images / "l.jpg").symlink_to("hop/secret/key.jpg")
    project.names("a.jpg", "l.jpg")


WAYS_OUT = {
    absolute: "image 1 has file_name",
    parents: "image 1 has file_name",
    link_to_a_file: "images/l.jpg leads to",
    link_to_a_folder: "images/deep leads to",
    link_to_a_link: "images/l.jpg leads to",
}


@pytest.mark.parametrize("way", WAYS_OUT, ids=lambda way: way.__name__)
def test_no_file_of_this_machine_gets_into_the_cache(project, way):
    """With `data.outside` it does: then somebody has said so."""
    way(project)
    project.refused("data", WAYS_OUT[way], "out of the image folder", "set data.outside")
    project.stage("pack")
    assert not project.leaked()
    with pytest.raises(InputError, match="out of the image folder"):  # as the names alone say, or the links
        raise InputError(find_images(read_split([(project.root / "train.json", project.images)])).faults[0].text)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS_OUT, ids=lambda way: way.__name__)
def test_images_may_lie_outside_if_the_user_says_so(project, way):
    way(project)
    project.set(source="coco", outside=True)
    assert project.stage("data").returncode == 0 and project.stage("pack").returncode == 0
    assert [path.name for path in project.leaked()] == ["train.lmdb"]


def test_links_within_the_folder_and_a_folder_that_is_a_link_are_fine(project):
    (project.images / "l.jpg").symlink_to("more/c.jpg")
    (project.images / "less").symlink_to(project.images / "more")
    project.images.rename(project.root / "real")
    project.images.symlink_to("real")
    (project.root / "real" / "less").unlink()
    (project.root / "real" / "less").symlink_to("more")
    project.names("a.jpg", "l.jpg", "less/c.jpg")
    manifest, roots = project.folder / "manifest.json", (project.root, project.root)
    write_manifest(manifest, roots, {"train": [("train.json", "images")]})
    [source] = load_sources(manifest, roots)["train"]
    assert [record.read() for record in read_split([source]).records] == [jpeg(0), jpeg(2), jpeg(2)]


def test_an_image_exchanged_for_a_link_before_packing_is_not_packed(project):
    assert project.stage("data").returncode == 0
    inside = project.images / "a.jpg"
    inside.unlink()
    inside.symlink_to(project.secret)
    project.secret.write_bytes(jpeg(0))  # of its size
    project.refused("pack", "images/a.jpg leads to", "out of the image folder")


@pytest.mark.parametrize("what", ["image", "folder"])
def test_an_image_exchanged_for_a_link_during_packing_is_not_packed(project, tmp_path, what):
    """At the last moment: between the look at its size and its reading."""
    split = read_split([(project.root / "train.json", project.images)])
    changed = project.images / ("more/c.jpg" if what == "image" else "more")
    changed.rename(tmp_path / "aside")
    (project.secret.parent / "c.jpg").write_bytes(project.secret.read_bytes())
    changed.symlink_to(project.secret.parent / ("c.jpg" if what == "image" else ""))
    (tmp_path / "cache").mkdir()
    with pytest.raises(InputError, match=r"more/c\.jpg leads to .*secret/c\.jpg, out of the image folder"):
        write_split(tmp_path / "cache", "train", split)
    assert SECRET not in (tmp_path / "cache/train.lmdb").read_bytes()


def special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


KINDS = ["pipe", "socket", "device", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_irregular_files_are_never_opened(project, kind, tmp_path):
    """A stage would wait for ever, or read without end."""
    special(project.images / "s.jpg", kind)
    project.names("a.jpg", "s.jpg")
    project.set(source="coco", outside=True)
    project.refused("data", "images/s.jpg is no regular file")
    split = read_split([(project.root / "train.json", project.images)], outside=True)
    for read in (split.records[1].read, lambda: write_split(tmp_path, "train", split)):
        with pytest.raises(InputError, match=r"images/s\.jpg is no regular file"):
            read()


def test_a_file_replaced_by_a_pipe_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    regular = Path(__file__).stat()
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)  # as it was a moment before
    with pytest.raises(InputError, match="pipe is no regular file"):
        read_file(tmp_path / "pipe")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_an_invalid_annotation_file_is_named(project, kind):
    (project.root / "train.json").unlink()
    special(project.root / "train.json", kind)
    project.refused("data", "train.json is no regular file")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a\0.jpg", "which holds control characters"),
        ("", "which is empty"),
        ("a\n.jpg", "which holds control characters"),
        ("\x1b]0;x\x07.jpg", "which holds control characters"),
        ("/etc/passwd", "which leads out of the image folder"),
        ("..", "which leads out of the image folder"),
        ("x/../../y.jpg", "which leads out of the image folder"),
    ],
)
def test_an_impossible_image_name_is_an_error(tmp_path, name, fault):
    write_annotations(tmp_path / "a.json", ["fine.jpg", name])
    with pytest.raises(InputError, match=r"a\.json: image 1 has file_name ") as refused:
        read_split([(tmp_path / "a.json", tmp_path)])
    assert fault in str(refused.value) and str(refused.value).isprintable()
    (tmp_path / "fine.jpg").touch()
    with pytest.raises(InputError, match=r"a\.json: image 1 has file_name "):
        write_manifest(tmp_path / "m.json", (tmp_path, tmp_path), {"train": [("a.json", ".")]})


@pytest.mark.parametrize("name", ["a..jpg", "..a/b..jpg", "...", "-rf", "a b$(x).jpg", "\u00e9\u65e5.jpg", "a//b.jpg"])
def test_unusual_names_are_allowed(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(jpeg(0))
    write_annotations(tmp_path / "x.json", [name])
    [record] = read_split([(tmp_path / "x.json", tmp_path)]).records
    assert record.read() == jpeg(0) and ImageFolder(tmp_path).sizes([name]) == {name: len(jpeg(0))}


@pytest.mark.parametrize(
    "name", ["a" * 300 + ".jpg", "a" * 300 + "/b.jpg", "b/" * 3000 + "c.jpg", "loop.jpg", "loop.jpg/a"]
)
def test_a_missing_file_is_an_error(tmp_path, name):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    write_annotations(tmp_path / "x.json", [name])
    with pytest.raises(InputError, match=r"x\.json|cannot be read"):
        write_manifest(tmp_path / "m.json", (tmp_path, tmp_path), {"train": [("x.json", ".")]})
    [record] = read_split([(tmp_path / "x.json", tmp_path)]).records
    with pytest.raises(InputError, match="cannot be read"):
        record.read()


def test_check_refuses_what_pack_refuses(project, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    link_to_a_file(project)
    command = [
        "data",
        "check",
        "--annotations",
        "train.json",
        "--images",
        "images",
        "--out",
        str(project.root / "o.png"),
    ]
    assert main(command) == 2
    assert "images/l.jpg leads to" in capsys.readouterr().out
    assert main([*command, "--outside"]) == 0
    assert "cannot be used" not in capsys.readouterr().out


@pytest.mark.slow
def test_digits_linked_to_dvcs_cache_are_packed(project):
    """`dvc config cache.type symlink` moves what stage data made, and leaves links."""
    project.set(source="digits", train=[], val=[], root="")
    assert project.stage("data").returncode == 0
    for picture in sorted((project.folder / "data/coco/images/val2014").glob("*.jpg"))[:9]:
        picture.rename(project.root / picture.name)
        picture.symlink_to(project.root / picture.name)
    assert project.stage("pack").returncode == 0


def voc(project) -> Path:
    year = project.root / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (year / folder).mkdir(parents=True)
    for part, name in (("trainval", "000005"), ("test", "000001")):
        (year / f"ImageSets/Main/{part}.txt").write_text(name + "\n")
        (year / f"JPEGImages/{name}.jpg").write_bytes(jpeg(1))
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height></size>"
        xml = f"<annotation>{size}<object><name>dog</name>{box}</object></annotation>"
        (year / f"Annotations/{name}.xml").write_text(xml)
    project.set(source="voc")
    return year


VOC_WAYS = {
    "a name": ("ImageSets/Main/trainval.txt", "../../../secret/key", "no name of a VOC image"),
    "no text": ("ImageSets/Main/trainval.txt", b"\xff\xfe00\n", "no name of a VOC image"),
    "a list": ("ImageSets/Main/trainval.txt", None, "trainval.txt leads to"),
    "an annotation": ("Annotations/000005.xml", None, "000005.xml leads to"),
    "an image": ("JPEGImages/000005.jpg", None, "000005.jpg leads to"),
}


@pytest.mark.parametrize("way", VOC_WAYS)
def test_vocs_names_and_links_stay_in_their_folders(project, way):
    year = voc(project)
    place, content, sentence = VOC_WAYS[way]
    if content is None:
        (year / place).unlink()
        (year / place).symlink_to(project.secret)
    else:
        (year / place).write_bytes(content if isinstance(content, bytes) else content.encode())
    project.refused("data", sentence)
    assert not project.leaked()


@pytest.mark.parametrize("place", ["ImageSets/Main/trainval.txt", "Annotations/000005.xml"])
def test_vocs_pipes_are_never_opened(project, place):
    year = voc(project)
    (year / place).unlink()
    os.mkfifo(year / place)
    project.refused("data", "is no regular file")


def test_annotations_alone_open_no_image(tmp_path):
    """For the classes of a converted model, say."""
    write_annotations(tmp_path / "a.json", ["../x.jpg"])
    assert [category.name for category in read_categories(tmp_path / "a.json")] == ["cat"]
