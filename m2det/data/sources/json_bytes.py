"""The bytes of a JSON file as UTF-8; what is no JSON is told as what it is."""

from __future__ import annotations

import json
from pathlib import Path

from m2det.errors import InputError
from m2det.files.regular_file import read_file

# how files begin that are given for JSON by mistake
KINDS = {
    b"PK\x03\x04": "a zip archive: unpack it and give the JSON file in it",
    b"\x1f\x8b": "compressed by gzip: unpack it (gunzip) and give the JSON file in it",
    b"BZh": "compressed by bzip2: unpack it (bunzip2) and give the JSON file in it",
    b"\xfd7zXZ": "compressed by xz: unpack it (unxz) and give the JSON file in it",
    b"(\xb5/\xfd": "compressed by zstd: unpack it (unzstd) and give the JSON file in it",
    b"7z\xbc\xaf": "a 7z archive: unpack it and give the JSON file in it",
    b"Rar!": "a RAR archive: unpack it and give the JSON file in it",
    b"\xff\xd8\xff": "a JPEG image: give the annotation file",
    b"\x89PNG": "a PNG image: give the annotation file",
    b"%PDF": "a PDF document: give the annotation file",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file: run `git lfs pull` where it comes from",
    b"<": "XML or HTML, perhaps an error page that was saved: give, or download again, the JSON file",
}
OTHER_FORMATS = (".yaml", ".yml", ".xml", ".csv")
HOW_OTHERS_ARE_READ = (
    "for a folder in YOLO's or Pascal VOC's format set data.root to it and data.source to auto in params.yaml, run "
    "`dvc repro data`, then `m2det data check` without --annotations"
)
TAR = slice(257, 262)


def read_json_bytes(path: Path) -> bytes:
    """Return the content of a JSON file as UTF-8 without a byte order mark; UTF-16 and UTF-32 are converted.

    Raises:
        InputError: the file is missing, no regular file, of another kind, or in another encoding.
    """
    if path.is_dir() or path.suffix.lower() in OTHER_FORMATS:
        raise InputError(f"{path} is no JSON in COCO's format; {HOW_OTHERS_ARE_READ}")
    if not path.exists():
        raise InputError(f"{path}: no such annotation file; check its name and the data root")
    data = read_file(path)
    if kind := other_kind(data):
        raise InputError(f"{path} is no JSON, but {kind}")
    encoding = json.detect_encoding(data)
    if encoding == "utf-8":
        return data
    try:
        return data.decode(encoding).encode()
    except UnicodeError as error:
        raise InputError(f"{path} begins as {encoding.upper()}, but is not ({error}): save it as UTF-8") from error


def other_kind(data: bytes) -> str:
    """Return what a file is that is given for JSON by mistake, by its first bytes, as a phrase; empty for others."""
    if not data:
        return "empty: copy or export it again"
    if data[TAR] == b"ustar":
        return "a tar archive: unpack it and give the JSON file in it"
    start = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((kind for magic, kind in KINDS.items() if start.startswith(magic)), "")


def explain_encoding(data: bytes, path: Path) -> InputError:
    """Return the error for bytes that are not UTF-8, with the first wrong one and the words around it."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        near = data[max(0, error.start - 20) : error.start + 20].decode("cp1252", "replace")
        return InputError(
            f"{path} is not UTF-8: byte {data[error.start]:#04x} at position {error.start}, line {line}, near "
            f"{near!r}; it may be in Windows-1252 or Latin-1, or damaged: save it as UTF-8, or copy it again"
        )
    raise AssertionError("the bytes are UTF-8")
