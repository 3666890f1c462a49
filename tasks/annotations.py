"""Stage `annotations`: whether the annotation files are those that the stage `data` has read.

DVC does not look at the user's own files, which may lie anywhere. This stage runs in every `dvc repro` and writes their
hashes; where they are as before its file does not change, and nothing after it runs.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from m2det.data.sources.annotation_files import MADE_HERE, annotation_files
from m2det.errors import InputError, explain_disk_errors
from m2det.files.hash_cache import hash_files
from m2det.files.hashing import digest
from m2det.files.whole import write_whole
from m2det.text import printable
from tasks.common import main_root, params

log = logging.getLogger(f"m2det.{__name__}")

RECORD = Path("data/annotations.json")
MAX_NAMED = 5  # files in a line


def record_annotations() -> None:
    """Write data/annotations.json: the source, and the sha256 of its annotation files by relative name."""
    data = params().data
    root = main_root() / os.path.expanduser(data.root)  # noqa: PTH111 - Path's raises for an unknown user
    if data.source not in MADE_HERE and not root.is_dir():
        if not RECORD.exists():
            raise InputError(f"data.root: {root} is no folder; give the one with your annotations and images")
        log.warning("data.root: %s is no folder, so changed annotations go unnoticed; %s stays as it is", root, RECORD)
        return
    groups = annotation_files(data, root, params().looks_for_test)
    cache = main_root() / ".dvc/tmp/annotations.json"
    with explain_disk_errors(cache):
        hashes = hash_files([root / file for files in groups.values() for file in files], cache)
    found = {name: _digest(files, [hashes[root / file] for file in files]) for name, files in groups.items()}
    text = json.dumps({"source": data.source, "files": found}, indent=1) + "\n"
    if RECORD.exists() and RECORD.read_text() == text:
        return  # the file keeps its time, so DVC need not read it
    _report(found)
    write_whole(RECORD, text)  # replaced, not written to: the file may be a link into DVC's cache


def _digest(files: list[str], hashes: list[str]) -> str:
    """Return the hash of a file, or one of many files' names and hashes."""
    if len(files) == 1:
        return hashes[0]
    return digest(*(part.encode() for pair in zip(files, hashes, strict=True) for part in pair))


def _report(found: dict[str, str]) -> None:
    if not RECORD.exists():
        return
    before = json.loads(RECORD.read_bytes())["files"]
    changed = [name for name in sorted({*before, *found}) if before.get(name) != found.get(name)]
    names = ", ".join(changed[:MAX_NAMED]) + (f" and {len(changed) - MAX_NAMED} more" if changed[MAX_NAMED:] else "")
    if changed:
        print(f"annotations have changed: {printable(names)}")
