"""`m2det detect` on files of any name and kind: drawn, or named in a sentence; no signal, hang, or traceback."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2det.cli.main import _parser, main
from m2det.data.pictures import SUFFIXES
from m2det.errors import InputError
from m2det.text import printable
from tests.conftest import ROOT
from tests.tiny_model import write_tiny_model
from tests.visible import is_plain

PICTURE = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in"
    made.mkdir()
    return made


def detect(model: Path, *pictures: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "m2det.cli.main",
        "detect",
        "--weights",
        model,
        "--out",
        out,
        "--json",
        "--score",
        "0.01",
    ]
    return subprocess.run(
        [*command, "--", *pictures], cwd=ROOT, capture_output=True, encoding="utf-8", check=False, timeout=60
    )


NAMES = {
    b"\xff.jpg": b"\xff.jpg",
    b"a\nerror: forged.png": b"a\nerror: forged.jpg",
    b"\x1b[2J.JPG": b"\x1b[2J.jpg",
    b"-rf.jpg": b"-rf.jpg",
    b"\xc3\xa9\xe6\x97\xa5 .bmp": b"\xc3\xa9\xe6\x97\xa5 .jpg",
    b"A.jpg": b"A.jpg",
    b"a.jpg": b"a.jpg",
    b"." + b"n" * 250 + b".jpg": b"." + b"n" * 250 + b".jpg",
    b"\xed\xb3\xbf.jpg": b"\xed\xb3\xbf.jpg",  # half a surrogate pair, as UTF-8 does not allow it
}


@pytest.mark.slow
def test_names_of_all_kinds_are_drawn_and_listed(model, folder, tmp_path):
    for name in NAMES:
        (folder / os.fsdecode(name)).write_bytes(PICTURE)
    done = detect(model, folder, out=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert is_plain(done.stdout) and len(done.stdout.splitlines()) == len(NAMES) + 1
    drawn = {os.fsencode(path.name) for path in (tmp_path / "out").iterdir()}
    assert drawn == {*NAMES.values(), b"detections.json"}
    results = json.loads((tmp_path / "out/detections.json").read_bytes().decode("utf-8"))
    listed = {entry["file_name"] for entry in results}
    assert listed == {name.decode(errors="backslashreplace") for name in NAMES}
    assert "".join(listed).encode("utf-8") and "\\xff.jpg" in listed


ODD = {
    "folder": lambda path: path.mkdir(),
    "nothing": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", [*ODD, "long"])
def test_what_was_given_and_is_no_picture_is_named_before_any_is_drawn(model, folder, tmp_path, kind, capsys):
    (folder / "a.jpg").write_bytes(PICTURE)
    odd = folder / ("z\x1b.jpg" if kind != "long" else "z" * 255)
    ODD.get(kind, lambda path: path.write_bytes(PICTURE))(odd)
    given = [str(folder / "a.jpg"), str(odd)]
    assert main(["detect", *given, "--weights", str(model), "--out", str(tmp_path / "out")]) == 1
    [sentence] = capsys.readouterr().err.splitlines()
    words = ("z\\x1b.jpg", "longer than 255 bytes", f"{printable(str(odd))} holds no pictures")
    assert sentence.startswith("error: ") and any(word in sentence for word in words)
    assert not (tmp_path / "out").exists()


def test_what_is_no_picture_in_a_folder_is_left_out(model, folder, tmp_path, capsys):
    for kind, make in ODD.items():
        make(folder / f"{kind}\x1b.jpg")
    command = ["detect", str(folder), "--weights", str(model), "--out", str(tmp_path / "out")]
    assert main(command) == 1 and "holds no pictures" in capsys.readouterr().err
    for name in ("a.jpg", "z.jpg"):
        (folder / name).write_bytes(PICTURE)
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.isprintable() and line.startswith("left out: ") for line in lines)
    for line, kind in zip(lines, sorted(set(ODD) - {"folder"}), strict=True):
        assert f"{kind}\\x1b.jpg" in line
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "z.jpg"]


def test_a_folder_where_a_picture_is_to_be_written_is_named(model, folder, tmp_path, capsys):
    (folder / "a.jpg").write_bytes(PICTURE)
    (tmp_path / "out/a.jpg").mkdir(parents=True)
    assert main(["detect", str(folder), "--weights", str(model), "--out", str(tmp_path / "out")]) == 1
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence == f"error: {tmp_path}/out/a.jpg: is a directory; move it, or write elsewhere"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jpg"]


def test_a_full_disk_is_told_of_the_picture(model, folder, tmp_path):
    (folder / "a.jpg").write_bytes(PICTURE)
    command = [sys.executable, "-m", "m2det.cli.main", "detect", folder, "--weights", model, "--out", tmp_path / "out"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)),
    )
    [sentence] = done.stderr.splitlines()
    assert done.returncode == 1 and sentence.startswith(f"error: {tmp_path}/out/a.jpg: file too large; it takes ")
    assert not list((tmp_path / "out").iterdir())


def test_a_link_where_a_picture_is_to_be_written_is_replaced_not_followed(model, folder, tmp_path):
    (folder / "a.png").write_bytes(PICTURE)
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "out").mkdir()
    for name in ("a.jpg", "a.jpg.tmp", "detections.json", "detections.json.tmp"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "kept")
    assert main(["detect", str(folder), "--weights", str(model), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert (tmp_path / "kept").read_text() == "mine" and (tmp_path / "out/a.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("shape", [(1, 60_000), (70_000, 2)])
def test_a_picture_longer_than_a_jpeg_can_be_is_drawn_smaller(model, folder, tmp_path, shape):
    cv2.imwrite(str(folder / "long.png"), np.zeros((*shape, 3), np.uint8))
    assert main(["detect", str(folder), "--weights", str(model), "--out", str(tmp_path / "out")]) == 0
    assert max(cv2.imread(str(tmp_path / "out/long.jpg")).shape) == 65_500


@pytest.mark.parametrize("words", [["--json"], []])
def test_without_the_compiled_nms_detecting_is_a_sentence(model, folder, tmp_path, monkeypatch, capsys, words):
    monkeypatch.setitem(sys.modules, "m2det.ops._nms", None)
    (folder / "a.jpg").write_bytes(PICTURE)
    command = ["detect", str(folder), "--weights", str(model), "--out", str(tmp_path / "out"), "--score", "0.01"]
    assert main([*command, *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the compiled NMS is missing here") and "dvc repro -f ops" in error


BYTES = st.binary(min_size=1, max_size=255).map(lambda name: name.translate(None, b"/\0"))
STEMS = BYTES | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass").translate(None, b"/\0"))
FILE_NAMES = st.tuples(STEMS, st.sampled_from([b"", b".jpg", b".PNG", b".", b" "])).map(b"".join)
FILE_NAMES = FILE_NAMES.filter(lambda name: 0 < len(name) < 256 and name not in (b".", b".."))
COUNT = 60


@pytest.mark.slow
def test_any_names_that_the_system_allows(model, tmp_path_factory, capsys):
    """Up to six at a time, by themselves or as a folder."""
    told = {"runs": 0, "drawn": 0, "refused": 0}

    @settings(
        max_examples=COUNT, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(names=st.lists(FILE_NAMES, min_size=1, max_size=6, unique=True), as_folder=st.booleans())
    def run(names, as_folder):
        top = tmp_path_factory.mktemp("names")
        (top / "in").mkdir()
        pictures = [top / "in" / os.fsdecode(name) for name in names]
        for path in pictures:
            path.write_bytes(PICTURE)
        told["runs"] += 1
        try:
            given = [top / "in"] if as_folder else pictures
            words = [
                "--weights",
                model,
                "--out",
                top / "out",
                "--score",
                "0.01",
                "--device",
                "cpu",
                "--json",
                "--",
                *given,
            ]
            arguments = _parser().parse_args(["detect", *map(str, words)])
            arguments.run(arguments)
        except InputError as error:
            told["refused"] += 1
            sentence = str(error)
            assert is_plain(sentence) and "\n" not in sentence and sentence.encode("utf-8")
            assert any(word in sentence for word in ("holds no pictures", "both be drawn", "longer than 255"))
        else:
            out = [path.name for path in (top / "out").iterdir()]
            told["drawn"] += len(out) - 1
            assert len(out) - 1 == sum(path.suffix.lower() in SUFFIXES or not as_folder for path in pictures)
            printed = capsys.readouterr().out
            assert is_plain(printed) and len(printed.splitlines()) == len(out)  # with the summary
            entries = json.loads((top / "out/detections.json").read_bytes().decode("utf-8"))
            assert json.dumps(entries, ensure_ascii=False).encode("utf-8")

    run()
    print(told)
    assert told["runs"] >= COUNT and told["drawn"] >= COUNT
