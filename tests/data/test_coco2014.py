"""COCO 2014 from a real server of this machine, small: fetched, unpacked, split as the original does."""

import json
import zipfile
from io import BytesIO

import pytest

from m2det import download
from m2det.data import coco2014
from m2det.data.coco2014 import derive_minival, download_coco2014
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


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(coco2014, "DERIVED", {"minival2014": 2, "valminusminival2014": 3})
    counts = (6, 5, 2, 1)
    small = tuple(archive._replace(size=0, number=n) for archive, n in zip(coco2014.ARCHIVES, counts, strict=True))
    monkeypatch.setattr(coco2014, "ARCHIVES", small)
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


def test_it_fetches_unpacks_and_splits_once(server, tmp_path):
    root = tmp_path / "root"
    get(server, root)
    check(root)
    record = json.loads((root / coco2014.RECORD).read_text())
    assert {name: len(entry["sha256"]) for name, entry in record.items()} == {a.name: 64 for a in coco2014.ARCHIVES}
    server.gets.clear()
    get(server, root)
    assert server.gets == []


def test_what_was_unpacked_by_hand_is_not_fetched(server, tmp_path):
    root = tmp_path / "root"
    get(server, root)
    (root / coco2014.RECORD).unlink()
    server.gets.clear()
    get(server, root)
    assert server.gets == []
    (root / "images" / IMAGES[0]).write_text("")
    get(server, root)
    assert server.gets == [("/zips/train2014.zip", None)]
    check(root)


def test_a_file_that_changed_is_put_back(server, tmp_path, caplog):
    root = tmp_path / "root"
    get(server, root)
    (root / "images" / IMAGES[8]).write_text("short")
    server.gets.clear()
    caplog.set_level("INFO")
    get(server, root)
    assert f"{IMAGES[8]} is not as it was in val2014.zip" in caplog.text
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


def test_too_little_room_is_told_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(coco2014, "ARCHIVES", [archive._replace(size=1e6) for archive in coco2014.ARCHIVES])
    with pytest.raises(InputError, match=r"GB free, but train2014\.zip, .* take 8000000\.0 GB; make room"):
        get(server, tmp_path / "root")
    assert server.gets == []


def test_a_server_that_lies_about_the_size_is_found_out(server, tmp_path):
    server.faults["/zips/train2014.zip"] = ["less"]
    with pytest.raises(InputError, match=r"train2014\.zip is damaged .*; delete it"):
        get(server, tmp_path / "root")
    (tmp_path / "root/train2014.zip").unlink()
    get(server, tmp_path / "root")
    check(tmp_path / "root")


@pytest.mark.parametrize("case", ["flipped", "few", "page", "numbers", "compressed"])
def test_what_is_not_cocos_ends_in_a_sentence(server, tmp_path, case):
    train, val = "/zips/train2014.zip", "/annotations/annotations_trainval2014.zip"
    content = server.files[train]
    path, changed, sentence = {
        "flipped": (train, content.replace(b"00003.jpg", b"00003.jpG", 5), "is damaged .*(CRC|differ)"),
        "few": (train, zipped(dict.fromkeys(IMAGES[:5], "x")), r"has 5 files .* COCO's has 6; delete it"),
        "page": (train, b"<html>log in here</html>", "is damaged .*not a zip file.*delete it"),
        "numbers": (
            "/annotations/annotations_trainval2017.zip",
            zipped({"annotations/instances_val2017.json": instances((12, 99))}),
            "give 1 images for minival2014, but COCO's have 2",
        ),
        "compressed": (val, server.files[val][:60] + b"\0" * 9 + server.files[val][69:], "is damaged"),
    }[case]
    server.files[path] = changed
    with pytest.raises(InputError, match=sentence) as error:
        get(server, tmp_path / "root")
    assert "\n" not in str(error.value)


def test_without_a_network_zips_put_there_by_hand_do(server, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    server.files.pop("/zips/val2014.zip")
    with pytest.raises(InputError, match=r"or get train2014\.zip, val2014\.zip, .* put them into .*root, and run it"):
        get(server, root)
    for path, content in server.files.items():
        (root / path.split("/")[-1]).write_bytes(content)
    (root / "val2014.zip").write_bytes(zipped({name: name * 900 for name in IMAGES[6:]}))
    server.gets.clear()
    get(server, root)
    assert server.gets == []
    check(root)
