"""Hashes kept with sizes and times: a file is read again only when it may have changed."""

import os
import time
from pathlib import Path

import pytest

from m2det.errors import InputError
from m2det.files import hash_cache
from m2det.files.hash_cache import hash_files
from m2det.files.hashing import file_sha256


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.txt" for i in range(3)]
    for path in paths:
        path.write_text(path.name)
    return paths


def test_unchanged_files_are_not_read_again(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_cache, "RECENT", 0)
    time.sleep(0.01)
    cache = tmp_path / "made/cache.json"
    expected = {path: file_sha256(path) for path in files}
    assert hash_files(files, cache) == expected
    read: list[Path] = []
    monkeypatch.setattr(hash_cache, "_sha256", lambda path: read.append(path) or file_sha256(path))
    assert hash_files(files, cache) == expected and read == []

    status = files[1].stat()
    files[1].write_text("2.txt")  # of the same size
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns))  # and the same time, as a copy may have
    assert hash_files(files, cache)[files[1]] == expected[files[2]] and read == [files[1]]

    cache.write_text("{damaged")
    assert hash_files(files, cache).keys() == expected.keys() and len(read) == 4


def test_a_file_that_has_just_changed_is_read_again(files: list[Path], tmp_path: Path) -> None:
    """Its next change may have the same time."""
    cache = tmp_path / "cache.json"
    hash_files(files, cache)
    assert not cache.exists() or "txt" not in cache.read_text()


def test_a_file_that_cannot_be_read_is_named(files: list[Path], tmp_path: Path) -> None:
    files[0].unlink()
    files[0].mkdir()
    with pytest.raises(InputError, match=r"0\.txt is no regular file"):
        hash_files(files, tmp_path / "cache.json")
