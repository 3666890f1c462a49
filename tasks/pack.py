"""Stage `pack`: images and annotations in one cache, which training reads fast and DVC hashes fast; test in another."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from m2det.data.checks.run import check_annotations
from m2det.data.checks.splits import check_repeats
from m2det.data.findings import from_notes
from m2det.data.packed.cache import image_times, require_boxes, write_cache
from m2det.data.packed.reader import FORMAT, is_finished, read_manifest
from m2det.data.packed.writer import MEANING
from m2det.data.sources.coco import read_splits
from m2det.data.sources.fault_list import MAX_NAMED
from m2det.data.sources.image_times import NAME
from m2det.data.sources.manifest import RAW, load_sources, may_lie_outside, roots_of, with_known_orientation
from m2det.data.sources.records import Split
from m2det.data.upright import orientation_of
from m2det.errors import explain_disk_errors
from m2det.files.hashing import digest, digest_files
from m2det.files.inputs import FOLDER
from m2det.files.locks import LOCK, locked
from m2det.text import printable
from tasks.common import BAD_IMAGES, CACHE, TEST, UNFINISHED, main_root, params, sources
from tasks.inputs import finished_in, inputs_of, require_unchanged


def pack() -> None:
    """Write data/cache and, of test images, data/test, the manifest of each last.

    What training reads has the same bytes whether or not there are test images.

    An unfinished cache lies in data/unfinished/<fingerprint>/ of the main working copy, where DVC deletes nothing; the
    fingerprint covers everything that shapes the cache, so only the same pack continues it.
    """
    outside = may_lie_outside(params().data)
    times = main_root() / RAW.parent / NAME
    pairs = load_sources(RAW / "manifest.json", roots_of(params().data, main_root()), outside, times)
    splits = read_splits(pairs, outside, params().data.classes)
    trained = {name: splits[name] for name in ("train", "val")}
    test = {name: split for name, split in splits.items() if name not in trained}
    notes = [finding for name, split in test.items() for finding in from_notes(split.notes, name)]
    doubts = [*check_annotations(trained, params().evaluate), *check_repeats(splits, {}), *notes]
    for finding in dict.fromkeys(doubts):
        print(printable(str(finding)))
    require_boxes(splits["train"])
    categories = splits["train"].categories
    settings = params().pack
    orientation = orientation_of(with_known_orientation(params().data, RAW / "manifest.json"))
    unfinished = main_root() / UNFINISHED / _fingerprint(splits.values())
    with explain_disk_errors(unfinished), locked(unfinished):
        for other in sorted(unfinished.parent.iterdir()):
            if other != unfinished and other.is_dir():
                advice = "is an unfinished pack with other data, settings or code; delete it if nobody wants it"
                print(f"{printable(str(other))} {advice}")
        inputs = inputs_of("pack")
        finished_in("pack", unfinished)
        report = unfinished.parent / BAD_IMAGES
        entries: dict[str, Any] = {}

        def warn() -> None:
            inputs.warn_of_changes(unfinished / FOLDER)

        caches = {CACHE: (unfinished, trained), TEST: (unfinished / TEST.name, test)}
        for folder, own in caches.values():
            folder.mkdir(exist_ok=True)
            if not is_finished(folder):  # else it was packed before, but its inputs had changed by then
                (folder / "manifest.json").unlink(missing_ok=True)
                write_cache(folder, own, categories, settings, orientation, report, warn)
            entries |= read_manifest(folder)["splits"]
        require_unchanged("pack")
        for cache, (folder, _) in caches.items():
            _publish(folder, cache)
    print(f"{len(categories)} classes: {printable(', '.join(category.name for category in categories))}")
    for name, entry in entries.items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in entry["dropped"].items() if count) or "none"
        print(
            f"{name}: {entry['images']} images, {entry['boxes']} boxes ({entry['clipped']} clipped, dropped: "
            f"{dropped}), {entry['crowds']} crowd regions; images checked by {MEANING[entry['verified']]}"
        )
        skipped = entry.get("skipped", [])
        if skipped:
            cache = TEST if name in test else CACHE
            print(f"{name}: {len(skipped)} bad images are skipped; {cache}/manifest.json lists all, this the first:")
        for image in skipped[:MAX_NAMED]:
            print(printable(f"  {image['reason']}"))


def _fingerprint(splits: Iterable[Split]) -> str:
    files = (RAW / "manifest.json").read_bytes()  # names and sizes of images, hashes of annotations
    # a pack must not continue after an image was replaced by another of the same size
    times = image_times(splits)
    data = params().data
    settings = json.dumps(
        [params().section("pack"), data.source, data.orientation, data.classes], sort_keys=True
    ).encode()
    code = digest_files(sources("pack"), Path())
    return digest(files, times.tobytes(), settings, code.encode(), str(FORMAT).encode())[:12]


def _publish(finished: Path, cache: Path) -> None:
    """Link or copy a finished cache to its place, the manifest last; the finished state stays until the stage ends."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "manifest.json").unlink(missing_ok=True)  # it describes the files that are replaced now
    files = {path.name: path for path in finished.iterdir() if path.is_file() and path.name != LOCK}
    manifest = files.pop("manifest.json")
    for path in (*files.values(), manifest):
        (cache / path.name).unlink(missing_ok=True)
        try:
            os.link(path, cache / path.name)
        except OSError:  # another disk
            shutil.copy2(path, cache / path.name)
