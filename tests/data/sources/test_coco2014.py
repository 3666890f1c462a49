"""COCO 2014 from a real server of this machine, small: fetched, unpacked, split as the original does."""

import hashlib
import itertools
import json
import os
import warnings
import zipfile
from functools import reduce
from io import BytesIO

import pytest

from m2det import download
from m2det.data.sources import coco2014
from m2det.data.sources.coco2014 import derive_minival, download_coco2014
from m2det.errors import InputError
from tests.flaky_server import FlakyServer

TRAIN, VAL, MINIVAL = range(1, 7), range(11, 16), (12, 14)
IMAGES = [f"train2014/COCO_train2014_{i:012d}.jpg" for i in TRAIN] + [f"val2014/COCO_val2014_{i:012d}.jpg" for i in VAL]


def instances(ids, name="COCO_val2014_{:012d}.jpg"):
    images = [{"id": i, "file_name": name.format(i), "width": 4, "height": 3} for i in ids]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 3, 3], "area": 9, "iscrowd": 0} for i in ids]
    return json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]})


def zipped(contents, compression=zipfile.ZIP_STORED):
    out = BytesIO()
    with zipfile.ZipFile(out, "w", compression) as target:
        for name, content in contents.items():
            target.writestr(name, content)
    return out.getvalue()


def publish(monkeypatch, files):
    """Make the server's files the ones that COCO publishes."""
    archives = []
    for archive, number in zip(coco2014.ARCHIVES, (6, 5, 2, 1), strict=True):
        content = files[f"/{archive.path}"]
        archives.append(archive._replace(size=len(content), sha256=hashlib.sha256(content).hexdigest(), number=number))
    monkeypatch.setattr(coco2014, "ARCHIVES", tuple(archives))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(coco2014, "DERIVED", {"minival2014": 2, "valminusminival2014": 3})
    made = FlakyServer()
    made.files = {
        "/zips/train2014.zip": zipped({name: name * 900 for name in IMAGES[:6]} | {"train2014/": ""}),
        "/zips/val2014.zip": zipped({name: name * 900 for name in IMAGES[6:]}),
        "/annotations/annotations_trainval2014.zip": zipped(
            {
                "annotations/instances_train2014.json": instances(TRAIN, "COCO_train2014_{:012d}.jpg"),
                "annotations/instances_val2014.json": instances(VAL),
                "annotations/captions_val2014.json": "{}",
                "../escaped": "no",
            },
            zipfile.ZIP_DEFLATED,
        ),
        "/annotations/annotations_trainval2017.zip": zipped(
            {"annotations/instances_val2017.json": instances(MINIVAL, "{:012d}.jpg")}, zipfile.ZIP_DEFLATED
        ),
    }
    publish(monkeypatch, made.files)
    yield made
    made.shutdown()


def get(server, root):
    root.mkdir(exist_ok=True)
    download_coco2014(root, server.url + "/")
    derive_minival(root)


def check(root):
    for name in IMAGES:
        assert (root / "images" / name).read_text() == name * 900
    for name, ids in (("minival2014", {12, 14}), ("valminusminival2014", {11, 13, 15})):
        content = json.loads((root / f"annotations/instances_{name}.json").read_text())
        assert {image["id"] for image in content["images"]} == ids
        assert {entry["image_id"] for entry in content["annotations"]} == ids and content["categories"]
    assert not [path for path in root.rglob("*") if path.suffix in (".zip", ".part", ".tmp")]
    assert not (root.parent / "escaped").exists() and not (root / "annotations/captions_val2014.json").exists()


def test_downloading_unpacking_and_splitting_happen_once(server, tmp_path):
    root = tmp_path / "root"
    get(server, root)
    check(root)
    record = json.loads((root / coco2014.RECORD).read_text())["archives"]
    assert {name: len(entry["sha256"]) for name, entry in record.items()} == {a.name: 64 for a in coco2014.ARCHIVES}
    server.gets.clear()
    get(server, root)
    assert server.gets == []


def test_files_unpacked_by_hand_are_not_downloaded(server, tmp_path):
    root = tmp_path / "root"
    get(server, root)
    (root / coco2014.RECORD).write_text('{"train2014.zip": {"files": {}}}')  # of a version that had none yet
    server.gets.clear()
    get(server, root)
    assert server.gets == []
    (root / "images" / IMAGES[0]).write_text("")
    get(server, root)
    assert server.gets == [("/zips/train2014.zip", None)]
    check(root)


DAMAGED = (None, [], {}, "x", 1, {"val2014/x": [1, 2]}, {"val2014.zip": {"files": 1}})
PARTS = ((), ("archives",), ("archives", "val2014.zip"), ("archives", "val2014.zip", "files"))


def test_a_damaged_record_counts_as_no_record(server, tmp_path, caplog):
    root = tmp_path / "root"
    get(server, root)
    whole = (root / coco2014.RECORD).read_text()
    texts = [b"", b"\xff", b"{", b"[" * 10**5]
    for part, value in itertools.product(PARTS, DAMAGED):
        content = {"record": json.loads(whole)}
        *above, last = ["record", *part]
        reduce(dict.__getitem__, above, content)[last] = value
        texts.append(json.dumps(content["record"]).encode())
    server.gets.clear()
    for text in texts:
        caplog.clear()
        (root / coco2014.RECORD).write_bytes(text)
        get(server, root)
        assert server.gets == []
        said = "is damaged: unpacked files are taken as if unpacked by hand" in caplog.text
        of_none = text.startswith((b"{}", b'{"val')) or text.endswith(b'"archives": {}}')  # or of another version
        assert said != of_none, text
    (root / "images" / IMAGES[0]).write_text("")  # a file that is empty counts as missing
    get(server, root)
    check(root)


@pytest.mark.parametrize("content", ["short", IMAGES[8][:-1] + "G" + IMAGES[8] * 899])
def test_a_changed_file_is_unpacked_again(server, tmp_path, caplog, content):
    root = tmp_path / "root"
    get(server, root)
    (root / "images" / IMAGES[8]).write_text(content)
    server.gets.clear()
    caplog.set_level("INFO")
    get(server, root)
    assert f"{IMAGES[8]} differs from val2014.zip" in caplog.text
    assert server.gets == [("/zips/val2014.zip", None)]
    check(root)


def test_unpacking_continues(server, tmp_path, monkeypatch):
    root, copied = tmp_path / "root", []
    copy = coco2014.shutil.copyfileobj

    def interrupted(source, target, length):
        copied.append(source.name)
        if len(copied) == 4:
            target.write(b"half")
            raise KeyboardInterrupt
        copy(source, target, length)

    monkeypatch.setattr(coco2014.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(server, root)
    assert len(list((root / "images/train2014").glob("*.jpg"))) == 3
    get(server, root)
    check(root)
    assert len(copied) == len(set(copied)) + 1 == 15


def test_too_little_room_is_an_error_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(coco2014, "ARCHIVES", [archive._replace(size=10**15) for archive in coco2014.ARCHIVES])
    with pytest.raises(InputError, match=r"GB free, but train2014\.zip, .* take 8000000\.0 GB; make room"):
        get(server, tmp_path / "root")
    assert server.gets == []


def test_a_wrong_size_from_the_server_is_detected(server, tmp_path):
    server.faults["/zips/train2014.zip"] = ["less"]
    with pytest.raises(InputError, match=r"train2014\.zip is not the file expected .*; or get train2014\.zip,"):
        get(server, tmp_path / "root")
    get(server, tmp_path / "root")
    check(tmp_path / "root")


OTHERS = {
    "other names": zipped({name: name * 900 for name in [*IMAGES[:5], IMAGES[5].replace("6.jpg", "7.jpg")]}),
    "other pictures": zipped({name: name.replace("2014/", "2O14/") * 900 for name in IMAGES[:6]}),
    "longer pictures": zipped({name: (name + " ") * 900 for name in IMAGES[:6]}),
    "a page": b"<html>log in here</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_other_contents_are_detected_before_unpacking(server, tmp_path, content):
    """By their size before they are fetched, else by their sha256; zips added by hand, too."""
    root, sha256 = tmp_path / "root", hashlib.sha256(content).hexdigest()
    server.files["/zips/train2014.zip"] = content
    with pytest.raises(InputError, match=r"is not the file expected|cannot be fetched|its sha256 is") as refused:
        get(server, root)
    sizes_differ = len(content) != coco2014.ARCHIVES[0].size
    assert (root / "train2014.zip").exists() != sizes_differ and "\n" not in str(refused.value)
    (root / "train2014.zip").write_bytes(content)
    with pytest.raises(InputError, match=rf"train2014\.zip is not COCO's: its sha256 is {sha256}, not .*; delete it"):
        get(server, root)
    assert not (root / "images/train2014").exists()


def test_other_minival_ids_are_detected(server, tmp_path, monkeypatch):
    wrong = zipped({"annotations/instances_val2017.json": instances((12, 99))})
    server.files["/annotations/annotations_trainval2017.zip"] = wrong
    publish(monkeypatch, server.files)
    with pytest.raises(InputError, match="give 1 images for minival2014, but COCO's have 2"):
        get(server, tmp_path / "root")


def test_a_zip_damaged_on_the_disk_is_detected(server, tmp_path, monkeypatch):
    path = "/annotations/annotations_trainval2014.zip"
    whole = server.files[path]
    server.files[path] = whole[:60] + b"\0" * 9 + whole[69:]
    publish(monkeypatch, server.files)
    with pytest.raises(InputError, match=r"annotations_trainval2014\.zip cannot be unpacked .*; see to its disk"):
        get(server, tmp_path / "root")


def member(name, kind=0o100644, content=None):
    info = zipfile.ZipInfo(name)
    info.external_attr = kind << 16
    return info, name * 900 if content is None else content


def with_members(*members):
    out = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as target:
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for info, content in members:
            target.writestr(info, content)
    return out.getvalue()


WHOLE = [member(name) for name in IMAGES[:6]]
LAST = IMAGES[5]
HOSTILE = {
    "a link": (with_members(*WHOLE[:5], member(LAST, 0o120777, "/etc/passwd")), f"{LAST} is a link"),
    "a pipe": (with_members(*WHOLE[:5], member(LAST, 0o010644)), f"{LAST} is a link, a device"),
    "a name twice": (with_members(*WHOLE, member(LAST, content="other")), "7 of the expected files under 6 names"),
    "too few": (with_members(*WHOLE[:5]), "5 of the expected files under 5 names, not 6"),
    "a path": (with_members(*WHOLE[:5], member("train2014/../../escaped.jpg")), "5 of the expected files"),
    "a bomb": (
        zipped(dict.fromkeys(IMAGES[:6], "0" * 10**6), zipfile.ZIP_DEFLATED),
        "unpacked it would be 6,000,000 bytes",
    ),
}


def in_directory(content, at, value):
    """The zip with other bytes at a place of its last member's entry in the directory."""
    entry = content.rindex(b"PK\1\2")
    return content[: entry + at] + value + content[entry + at + len(value) :]


PLAIN = with_members(*WHOLE)
SIZE = len(LAST) * 900
HOSTILE |= {
    "encrypted": (in_directory(PLAIN, 8, b"\1\0"), f"{LAST} is a link, a device, encrypted"),
    "another method": (in_directory(PLAIN, 10, b"\x0e\0"), f"{LAST} is a link, a device, encrypted, or packed by"),
    "more than it says": (in_directory(PLAIN, 24, (SIZE - 1).to_bytes(4, "little")), "cannot be unpacked"),
    "less than it says": (in_directory(PLAIN, 24, (SIZE + 1).to_bytes(4, "little")), "cannot be unpacked"),
}


@pytest.mark.parametrize(("content", "sentence"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_zip_is_refused_even_with_the_right_sum(server, tmp_path, monkeypatch, content, sentence):
    server.files["/zips/train2014.zip"] = content
    publish(monkeypatch, server.files)
    with pytest.raises(InputError, match=r"train2014\.zip ") as refused:
        get(server, tmp_path / "root")
    assert sentence in str(refused.value)
    written = [path for path in tmp_path.rglob("*.jpg*") if path.is_symlink() or path.name.startswith("escaped")]
    assert not written and not list((tmp_path / "root/images/train2014").glob(f"{LAST.partition('/')[2]}"))


def test_links_and_pipes_unpacked_by_hand_do_not_stop_the_download(server, tmp_path):
    root = tmp_path / "root"
    get(server, root)
    (root / coco2014.RECORD).unlink()
    for name, make in (("gone.jpg", lambda path: path.symlink_to("nowhere")), ("pipe.jpg", os.mkfifo)):
        make(root / "images/val2014" / name)
    server.gets.clear()
    get(server, root)
    assert server.gets == []
    (root / "train2014.zip").unlink(missing_ok=True)
    os.mkfifo(root / "train2014.zip")
    (root / "images" / IMAGES[0]).unlink()
    with pytest.raises(InputError, match=r"train2014\.zip is no regular file"):
        get(server, root)


def test_zips_added_by_hand_need_no_network(server, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    lacking = server.files.pop("/zips/val2014.zip")
    with pytest.raises(InputError, match=r"or get train2014\.zip, val2014\.zip, .* put them into .*root, and run it"):
        get(server, root)
    for path, content in server.files.items():
        (root / path.split("/")[-1]).write_bytes(content)
    (root / "val2014.zip").write_bytes(lacking)
    server.gets.clear()
    get(server, root)
    assert server.gets == []
    check(root)
