"""Files come over a bad line, whole and once; what cannot be fetched ends in a sentence."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from m2det import download
from m2det.download import fetch_files
from m2det.errors import InputError
from tests.conftest import ROOT
from tests.flaky_server import FlakyServer

CONTENT = random.Random(0).randbytes(300_000)
FETCH = (
    "import sys; from pathlib import Path; from m2det.download import fetch_files;"
    "fetch_files([(sys.argv[1], Path(sys.argv[2]))], '')"
)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 2)
    monkeypatch.setattr(download, "BLOCK", 1 << 15)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    made = FlakyServer()
    made.files["/a.zip"] = CONTENT
    yield made
    made.shutdown()


def fetch(server, folder, name="a.zip"):
    fetch_files([(f"{server.url}/{name}", folder / name)], "or put it there")
    assert sorted(path.name for path in folder.iterdir()) == [name]
    return (folder / name).read_bytes()


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["drop"],
        ["drop"] * 9,
        ["stall"],
        ["503", "429"],
        ["drop", "503", "drop"],
        ["drop", "whole"],
        ["drop", "whole", "whole"],
        ["more"],
        ["chunked"],
        ["length that is none"],
        ["drop", "drop", "more"],
    ],
    ids=" ".join,
)
def test_a_bad_line_gives_the_whole_file(server, tmp_path, faults):
    server.faults["/a.zip"] = list(faults)
    assert fetch(server, tmp_path) == CONTENT
    if not {"whole", "chunked", "more"} & set(faults):
        assert server.served == len(CONTENT), "no byte is fetched twice"


@pytest.mark.parametrize("fault", ["", "blind"], ids=["If-Range", "a server that knows no If-Range"])
def test_a_file_that_changes_meanwhile_is_begun_again(server, tmp_path, fault):
    download_once(server, tmp_path)
    server.files["/a.zip"], server.version = CONTENT[::-1], "2"
    server.faults["/a.zip"] = [fault]
    assert fetch(server, tmp_path) == CONTENT[::-1]


def download_once(server, folder):
    """Half of the file comes, then the server is gone for good."""
    server.faults["/a.zip"] = ["drop", "404"]
    with pytest.raises(InputError):
        fetch_files([(f"{server.url}/a.zip", folder / "a.zip")], "or put it there")
    assert (folder / "a.zip.part").stat().st_size == len(CONTENT) // 2


@pytest.mark.parametrize("length", [100, 200_000])
def test_a_file_that_shrinks_is_begun_again(server, tmp_path, length):
    download_once(server, tmp_path)
    server.files["/a.zip"] = CONTENT[:length]  # with the same ETag
    assert fetch(server, tmp_path) == CONTENT[:length]


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (["404"], "404"),
        (["503"] * 20, "503"),
        (["drop", *["503"] * 20], "503"),
    ],
)
def test_what_cannot_be_fetched_ends_in_a_sentence(server, tmp_path, faults, reason):
    server.faults["/a.zip"] = faults
    with pytest.raises(InputError, match=rf"/a\.zip cannot be fetched \(.*({reason}).*\); or put it there$"):
        fetch(server, tmp_path)
    assert not (tmp_path / "a.zip").exists()


def test_without_a_network_it_says_what_to_do(server, tmp_path):
    server.server_close()
    server.shutdown()
    with pytest.raises(InputError, match=r"cannot be fetched .*refused.*; or put it there$"):
        fetch(server, tmp_path)
    assert not (tmp_path / "a.zip").exists()


def test_one_failure_stops_the_others(server, tmp_path):
    server.files["/b.zip"] = CONTENT * 30
    server.pace, server.faults["/a.zip"] = 0.05, ["404"]
    with pytest.raises(InputError, match=r"a\.zip cannot be fetched"):
        fetch_files([(f"{server.url}/{name}", tmp_path / name) for name in ("a.zip", "b.zip")], "or put it there")
    assert server.served < len(server.files["/b.zip"])
    assert not (tmp_path / "b.zip").exists()
    assert (tmp_path / "b.zip.part").stat().st_size < len(CONTENT) * 30 // 2


def test_a_server_that_says_nothing_more_does_not_keep_the_others_waiting(server, tmp_path):
    """An interruption, too, ends within one time-out, not within five."""
    server.files["/b.zip"] = CONTENT
    server.faults |= {"/a.zip": ["404"], "/b.zip": ["stall"] * 9}
    server.delays["/a.zip"] = 0.5  # until b stalls
    with pytest.raises(InputError, match=r"a\.zip cannot be fetched"):
        fetch_files([(f"{server.url}/{name}", tmp_path / name) for name in ("b.zip", "a.zip")], "or put it there")
    assert [path for path, _ in server.gets].count("/b.zip") == 1, "it would wait for another time-out"


def test_a_file_of_another_size_is_refused_before_it_comes(server, tmp_path):
    path = tmp_path / "a.zip"
    with pytest.raises(InputError, match=r"/a\.zip is not the file .* 300000 bytes, not 299999\); or put it there$"):
        fetch_files([(f"{server.url}/a.zip", path)], "or put it there", {path: len(CONTENT) - 1})
    assert not path.exists() and (tmp_path / "a.zip.part").stat().st_size == 0
    fetch_files([(f"{server.url}/a.zip", path)], "or put it there", {path: len(CONTENT)})
    assert path.read_bytes() == CONTENT


def test_proxies_are_taken_from_the_environment(server, tmp_path):
    server.files["http://images.invalid/a.zip"] = CONTENT  # a proxy is asked for whole addresses
    command = [sys.executable, "-c", FETCH, "http://images.invalid/a.zip", str(tmp_path / "a.zip")]
    environment = os.environ | {"http_proxy": server.url, "no_proxy": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_full_disk_leaves_nothing_that_stops_the_next_try(server, tmp_path):
    """The note on what a part belongs to is whole, or not there."""
    limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2);{FETCH}"
    for most in (0, 20, 70_000):
        command = [sys.executable, "-c", limited, f"{server.url}/a.zip", str(tmp_path / "a.zip"), str(most)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "file too large; make room" in done.stderr
    fetch_files([(f"{server.url}/a.zip", tmp_path / "a.zip")], "or put it there")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_it_continues_where_it_was(server, tmp_path, which):
    server.files["/a.zip"] = content = CONTENT * 20
    server.pace = 0.02
    program = f"from m2det.distributed.children import stage_process; stage_process();{FETCH}"
    command = [sys.executable, "-c", program, f"{server.url}/a.zip", str(tmp_path / "a.zip")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    part = tmp_path / "a.zip.part"
    while not (part.exists() and part.stat().st_size > 1_000_000):
        time.sleep(0.01)
    process.send_signal(which)
    assert process.wait(60) == (-which if which == signal.SIGKILL else 143)
    there = part.stat().st_size
    assert 1_000_000 < there < len(content)
    server.pace = 0
    time.sleep(0.2)
    server.served = 0
    assert fetch(server, tmp_path) == content
    assert server.gets[-1][1] == f"bytes={there}-" and server.served == len(content) - there
