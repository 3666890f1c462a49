"""Pack a folder of photos with boxes, of any format that `data.source: auto` knows, into a cache."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from m2det.config import Params
from m2det.data.checks.run import check_annotations
from m2det.data.checks.splits import check_repeats
from m2det.data.packed.cache import image_times, require_boxes, write_cache
from m2det.data.packed.reader import FORMAT, is_finished
from m2det.data.sources.coco import read_splits
from m2det.data.sources.detect_format import FORMATS, find_layout
from m2det.data.sources.fault_list import faults_listed
from m2det.data.sources.made import tell_notes
from m2det.data.sources.manifest import roots_of
from m2det.data.sources.presence import missing_files
from m2det.data.upright import orientation_of
from m2det.errors import InputError, explain_disk_errors
from m2det.files.hashing import digest, file_sha256
from m2det.files.whole import write_whole

log = logging.getLogger(__name__)

PACKED = "cache"  # in the folder; beside it, what it was made of
MADE_OF, BAD_IMAGES, LEFT_OUT = "cache.sha256", "bad_images.txt", "left_out.txt"


def pack_folder(params: Params, target: Path, names: Collection[str] = ("train", "val")) -> Path:
    """Return the packed cache of a data set, which is written unless it is there; an interrupted call is continued.

    Args:
        params: for the sections `data`, its source auto, coco, yolo or voc, and `pack`.
        target: the folder that takes the cache and annotation files that have to be made; it exists.
        names: of the splits to pack.

    Raises:
        InputError: no format is recognised, or annotations or images are missing or wrong.
    """
    data = params.data
    if data.source not in ("auto", *FORMATS):
        raise InputError(f"data: source {data.source!r} is for the stages alone; take auto, {', '.join(FORMATS)}")
    with_test = "test" in names and not data.test
    for fault in missing_files(data, Path(), with_test):
        raise InputError(fault)
    (_, root), cache = roots_of(data), target / PACKED
    layout = find_layout(data, root, with_test)
    log.info("%s holds %s", root, layout.saw)
    with explain_disk_errors(target), faults_listed(target / BAD_IMAGES):
        converted = layout.convert(target, data.val_share, params.pack.on_bad_image == "skip")
        tell_notes(converted.notes, target / LEFT_OUT, lambda line: log.info("%s", line))
        made_in = target if converted.made else root
        listed = {
            split: [(made_in / file, root / images) for file, images in each] for split, each in converted.pairs.items()
        }
        if data.test:
            listed["test"] = [(root / entry.annotations, root / entry.images) for entry in data.test]
        pairs = {name: listed[name] for name in names}
        classes_of = {"train": listed["train"]} if "test" in names else {}  # test images add no class
        read = read_splits(classes_of | pairs, data.outside, data.classes)
        splits = {name: read[name] for name in names}
        if "train" in splits:
            require_boxes(splits["train"])
            for finding in dict.fromkeys([*check_annotations(splits, params.evaluate), *check_repeats(splits, {})]):
                log.info("%s", finding)
        if converted.upright and data.orientation == "ask":
            data = data.model_copy(update={"orientation": "exif"})
        annotations = [file_sha256(file) for name in names for file, _ in pairs[name]]
        settings = [params.pack.model_dump(), data.orientation, data.classes, annotations, FORMAT]
        made_of = digest(json.dumps(settings).encode(), image_times(splits.values()).tobytes())
        marker = target / MADE_OF
        if not marker.is_file() or marker.read_text() != made_of:
            shutil.rmtree(cache, ignore_errors=True)
            write_whole(marker, made_of)
        cache.mkdir(exist_ok=True)
        if not is_finished(cache):
            (cache / "manifest.json").unlink(missing_ok=True)
            categories = next(iter(splits.values())).categories
            write_cache(cache, splits, categories, params.pack, orientation_of(data), target / BAD_IMAGES)
    return cache
