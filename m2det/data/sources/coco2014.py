"""COCO 2014 as the original trains on it: its files under a root, downloaded and derived if missing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from stat import S_IFMT, S_IFREG
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from tqdm import tqdm

from m2det.data.ordered_map import ordered_map
from m2det.data.sources.coco_json import read_coco
from m2det.download import fetch_files, partial_paths
from m2det.errors import InputError, explain_disk_errors
from m2det.files.regular_file import read_file, require_regular

log = logging.getLogger(__name__)

# minival2014 is COCO's validation set of 2017, taken out of val2014; the rest of it joins the training set
SPLITS = {
    "train": [
        ("annotations/instances_train2014.json", "images/train2014"),
        ("annotations/instances_valminusminival2014.json", "images/val2014"),
    ],
    "val": [("annotations/instances_minival2014.json", "images/val2014")],
}
DERIVED = {"minival2014": 5_000, "valminusminival2014": 35_504}  # images
ADVICE = (
    "data.source coco2014-download fetches it; or get train2014.zip and val2014.zip (unpack them in the root's folder "
    "images), annotations_trainval2014.zip and, for instances_val2017.json, annotations_trainval2017.zip (unpack both "
    "in the root) from https://cocodataset.org/#download: minival and valminusminival are then made of them"
)
RECORD = "coco2014-download.json"  # in the root: each zip's sha256 and the files unpacked from it
RECORD_VERSION = 1
ENCRYPTED = 1  # among a zip member's flags


class Archive(NamedTuple):
    """A zip that COCO publishes.

    path: on the host. size: bytes. pattern: of the members to unpack. number: of these members.
    folder: under the root, to unpack to.
    """

    path: str
    size: int
    sha256: str
    pattern: str
    number: int
    folder: str

    @property
    def name(self) -> str:
        return Path(self.path).name


# COCO publishes no sums: these are tensorflow/datasets' (tensorflow_datasets/url_checksums/coco.txt), of what the
# official host served
ARCHIVES = (
    Archive(
        "zips/train2014.zip",
        13_510_573_713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        r"train2014/COCO_train2014_\d{12}\.jpg",
        82_783,
        "images",
    ),
    Archive(
        "zips/val2014.zip",
        6_645_013_297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        r"val2014/COCO_val2014_\d{12}\.jpg",
        40_504,
        "images",
    ),
    Archive(
        "annotations/annotations_trainval2014.zip",
        252_872_794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        r"annotations/instances_(train|val)2014\.json",
        2,
        ".",
    ),
    Archive(
        "annotations/annotations_trainval2017.zip",
        252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        r"annotations/instances_val2017\.json",
        1,
        ".",
    ),
)
MAX_UNPACKED = 4  # times a zip's own size: JPEGs stay as large, COCO's instances become twice as large
READERS = 8  # threads that read unpacked files again


def download_coco2014(root: Path, mirror: str) -> None:
    """Download and unpack the files that are missing under the root; an interrupted call is continued.

    Files unpacked here stay if their CRC32s are right, files unpacked by hand if their names and number are. Zips are
    deleted once unpacked.

    Args:
        root: of the data set.
        mirror: a URL, laid out as http://images.cocodataset.org.

    Raises:
        InputError: a zip cannot be downloaded, is damaged, is not COCO's, or has no room on the disk.
    """
    root.mkdir(parents=True, exist_ok=True)
    record = _read_record(root)
    derived = all(_instances(root, name).exists() for name in DERIVED)
    needed = ARCHIVES[:-1] if derived else ARCHIVES  # the last one serves only to derive
    missing = [archive for archive in needed if not _is_unpacked(archive, root, record.get(archive.name))]
    to_fetch = [archive for archive in missing if not (root / archive.name).exists()]
    names = ", ".join(archive.name for archive in to_fetch)
    if to_fetch:
        require_room(root, to_fetch)
        advice = f"or get {names} elsewhere (https://cocodataset.org/#download), put them into {root}, and run it again"
        files = [(f"{mirror.rstrip('/')}/{archive.path}", root / archive.name) for archive in to_fetch]
        fetch_files(files, advice, {root / archive.name: archive.size for archive in to_fetch})
    for archive in missing:
        record[archive.name] = _unpack(archive, root)
        _write_json(root / RECORD, {"version": RECORD_VERSION, "archives": record})
        # a partial download too, of a zip that the user added by hand
        for path in (root / archive.name, *partial_paths(root / archive.name)):
            path.unlink(missing_ok=True)


def require_room(root: Path, archives: Sequence[Archive]) -> None:
    """Raise InputError if the disk of the root, which exists, has no room for zips and what is unpacked from them."""
    parts = [partial_paths(root / archive.name)[0] for archive in archives]
    downloaded = sum(part.stat().st_size for part in parts if part.exists())
    need = sum(2 * archive.size for archive in archives) - downloaded  # as zips, and unpacked
    if (free := shutil.disk_usage(root).free) < need:
        names = ", ".join(archive.name for archive in archives)
        raise InputError(f"{root} has {free / 1e9:.1f} GB free, but {names} take {need / 1e9:.1f} GB; make room")


def absent_archives(root: Path) -> list[Archive]:
    """Return the archives of which neither the zip nor the folder of its files is there; no file is looked at."""
    folders = {archive: root / archive.folder / archive.pattern.partition("/")[0] for archive in ARCHIVES}
    return [archive for archive, folder in folders.items() if not (folder.exists() or (root / archive.name).exists())]


def usable_splits(root: Path) -> list[tuple[str, str]]:
    """Return the pairs of `SPLITS`; those that `derive_minival` can make are named by the file they are made of."""
    can_derive = _instances(root, "val2014").exists() and _instances(root, "val2017").exists()
    source = {f"annotations/instances_{name}.json": "annotations/instances_val2014.json" for name in DERIVED}
    pairs = [pair for split in SPLITS.values() for pair in split]
    return [(source.get(name, name), images) for name, images in pairs] if can_derive else pairs


def _read_record(root: Path) -> dict[str, Any]:
    """Return the record by archive; empty if of another version or damaged, so that files count as unpacked by hand."""
    path = root / RECORD
    if not path.exists():
        return {}
    data = read_file(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and content.get("version") != RECORD_VERSION:
        return {}
    record = content.get("archives") if isinstance(content, dict) else None
    archives = {archive.name: archive for archive in ARCHIVES}
    if not isinstance(record, dict) or not all(n in archives and _is_of(record[n], archives[n]) for n in record):
        log.warning("%s is damaged: unpacked files are taken as if unpacked by hand, without their CRC32s", path)
        return {}
    return record


def _is_of(entry: Any, archive: Archive) -> bool:
    """Return whether an archive's record has the names, sizes and CRC32s that _unpack writes."""
    files = entry.get("files") if isinstance(entry, dict) else None
    return (
        isinstance(files, dict)
        and len(files) == archive.number
        and all(re.fullmatch(archive.pattern, name) for name in files)
        and all(isinstance(pair, list) and list(map(type, pair)) == [int, int] for pair in files.values())
    )


def _is_unpacked(archive: Archive, root: Path, record: dict[str, Any] | None) -> bool:
    """Compare the files with the record; without one (unpacked by hand) their names and number with COCO's."""
    folder = root / archive.folder
    if record is None:
        inner = folder / archive.pattern.partition("/")[0]
        entries = list(os.scandir(inner)) if inner.is_dir() else []
        names = [f"{inner.name}/{entry.name}" for entry in entries if entry.is_file() and entry.stat().st_size]
        return sum(bool(re.fullmatch(archive.pattern, name)) for name in names) >= archive.number
    files: dict[str, tuple[int, int]] = record["files"]
    changed = [name for name, (size, _) in files.items() if not _has_size(folder / name, size)]
    if not changed:
        checked = ordered_map(
            files, lambda name: _is_as(folder / name, *files[name]), READERS, lambda _: 1, 4 * READERS
        )
        equal = tqdm(checked, f"verifying files of {archive.name}", len(files), unit="file")
        changed = [name for name, same in zip(files, equal, strict=True) if not same]
    if changed:
        log.info("%s differs from %s, which is downloaded again", folder / changed[0], archive.name)
    return not changed


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _is_as(path: Path, size: int, crc: int) -> bool:
    return _has_size(path, size) and zlib.crc32(path.read_bytes()) == crc


def _unpack(archive: Archive, root: Path) -> dict[str, Any]:
    """Unpack the missing files, each complete or not at all, CRC32 checked; return what to record."""
    path, folder = root / archive.name, root / archive.folder
    log.info("%s: computing its sha256", path)
    require_regular(path, path.stat())
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != archive.sha256:
        raise InputError(
            f"{path} is not COCO's: its sha256 is {sha256}, not {archive.sha256}; delete it, and run this again to "
            f"fetch it, or see to data.mirror; what you unpack in {folder} yourself is taken as it is"
        )
    try:
        with ZipFile(path) as source, explain_disk_errors(folder):
            members = [info for info in source.infolist() if re.fullmatch(archive.pattern, info.filename)]
            _check_members(members, archive, path)
            files = {info.filename: (info.file_size, info.CRC) for info in members}
            for info in tqdm(members, f"unpacking {archive.name}", unit="file"):
                target = folder / info.filename
                if not _is_as(target, *files[info.filename]):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    temporary = target.with_name(target.name + ".part")
                    with source.open(info) as packed, temporary.open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)  # no more than the declared size
                    if (size := temporary.stat().st_size) != info.file_size:
                        raise BadZipFile(f"{info.filename} has {size} bytes, not {info.file_size} as it says")
                    temporary.replace(target)
    except (BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}); see to its disk, and run this again") from error
    log.info("%s: %d files unpacked and checked", archive.name, len(files))
    return {"bytes": path.stat().st_size, "sha256": sha256, "files": files}


def _check_members(members: list[ZipInfo], archive: Archive, path: Path) -> None:
    """Raise InputError unless the members have the right number, are plain files, and are not absurdly large.

    Their names are no paths: the archive's pattern has matched them.
    """
    names = {info.filename for info in members}
    if not len(names) == len(members) == archive.number:
        faults = f"it has {len(members)} of the expected files under {len(names)} names, not {archive.number}"
    elif odd := [info.filename for info in members if not _is_plain(info)]:
        faults = f"{odd[0]} is a link, a device, encrypted, or packed by a method that COCO does not use"
    elif (size := sum(info.file_size for info in members)) > MAX_UNPACKED * archive.size:
        faults = f"unpacked it would be {size:,} bytes"
    else:
        return
    raise InputError(f"{path} is not COCO's: {faults}; delete it, and run this again to fetch it")


def _is_plain(info: ZipInfo) -> bool:
    kind = S_IFMT(info.external_attr >> 16)  # 0 if packed on another system than Unix
    return kind in (0, S_IFREG) and not info.flag_bits & ENCRYPTED and info.compress_type in (ZIP_STORED, ZIP_DEFLATED)


def derive_minival(root: Path) -> None:
    """Write instances_{minival,valminusminival}2014.json if missing and instances_val{2014,2017}.json exist.

    minival is COCO's validation set of 2017.

    Raises:
        InputError: the numbers of images are not COCO's 5,000 and 35,504.
    """
    val2014, val2017 = (_instances(root, name) for name in ("val2014", "val2017"))
    missing = {name: count for name, count in DERIVED.items() if not _instances(root, name).exists()}
    if not missing or not val2014.exists() or not val2017.exists():
        return
    minival = {image.id for image in read_coco(val2017, outside=True).images}
    read_coco(val2014, outside=True)
    content = json.loads(read_file(val2014))  # with the outlines, which other programs may use
    for name, count in missing.items():
        images = [image for image in content["images"] if (image["id"] in minival) == (name == "minival2014")]
        if len(images) != count:
            raise InputError(
                f"{val2014} and {val2017} give {len(images)} images for {name}, but COCO's have {count}; one of them "
                "is not COCO's own: get annotations_trainval2014.zip and annotations_trainval2017.zip again"
            )
        ids = {image["id"] for image in images}
        annotations = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        _write_json(_instances(root, name), content | {"images": images, "annotations": annotations})
        log.info("%s: %d images, %d objects", _instances(root, name), len(images), len(annotations))


def _instances(root: Path, name: str) -> Path:
    return root / "annotations" / f"instances_{name}.json"


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with explain_disk_errors(temporary):
        temporary.write_text(json.dumps(content))
        temporary.replace(path)
