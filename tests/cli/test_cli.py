"""The command line: its commands, and `m2det detect` on real files."""

import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from m2det.cli.main import main
from m2det.distributed.threads import SPIN_COUNT
from m2det.model import build_model
from m2det.model.flops import forward_flops
from m2det.text import printable
from tests.conftest import ROOT
from tests.tiny_model import write_tiny_model

COMMANDS = ["detect", "data", "runs", "join", "experiments", "recipes", "use", "info", "verify", "release", "convert"]
COMMANDS += ["export", "bench", "doctor"]
HEAVY = {"torch", "numpy", "cv2", "pydantic", "ruamel", "prefect", "dvc"}


@pytest.mark.parametrize("module", ["m2det", "m2det.cli", "m2det.cli.main"])
def test_help_lists_the_commands_and_imports_nothing_heavy(module):
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    commands = done.stdout.split("COMMAND\n")[1]
    assert [line.split()[0] for line in commands.splitlines() if re.match(r" {4}\w", line)] == COMMANDS
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & HEAVY


def test_recipes_are_listed_and_used_by_either_form(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert main(["recipes", "list"]) == 0 and capsys.readouterr().out == listed
    written = []
    for command in (["use"], ["recipes", "use"]):
        (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        assert main([*command, "coco512-8p"]) == 0 and "epochs: " in capsys.readouterr().out
        written.append((tmp_path / "params.yaml").read_text())
    assert written[0] == written[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (70, 110, 3), dtype=np.uint8))
    return path


def test_detect_writes_a_picture_and_coco_results(tmp_path, model, picture):
    out = tmp_path / "out"
    command = ["detect", str(picture.parent), "--weights", str(model), "--out", str(out), "--json", "--score", "0.01"]
    assert main(command) == 0
    drawn = cv2.imread(str(out / "photo.jpg"))
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(110 / 70, rel=0.02)
    results = json.loads((out / "detections.json").read_text())
    assert results, "an untrained model is sure of nothing, but above 0.01"
    for entry in results:
        x, y, w, h = entry["bbox"]
        assert x >= 0 and y >= 0 and x + w <= 110.01 and y + h <= 70.01
        assert set(entry) == {"image_id", "category_id", "bbox", "score", "file_name"}


def test_pictures_that_differ_in_their_suffix_alone_are_drawn_under_whole_names(tmp_path, model, picture):
    (picture.parent / "photo.bmp").write_bytes(picture.read_bytes())
    (picture.parent / "other.png").write_bytes(picture.read_bytes())
    out = tmp_path / "out"
    assert main(["detect", str(picture.parent), "--weights", str(model), "--out", str(out)]) == 0
    assert {file.name for file in out.iterdir()} == {"photo.bmp.jpg", "photo.png.jpg", "other.jpg"}


def test_pictures_of_one_name_are_refused_before_any_is_drawn(tmp_path, model, picture, capsys):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / picture.name).write_bytes(picture.read_bytes())
    out = tmp_path / "out"
    folders = [str(picture.parent), str(tmp_path / "more")]
    assert main(["detect", *folders, "--weights", str(model), "--out", str(out)]) == 1
    assert "would both be drawn as" in capsys.readouterr().err and not out.exists()


def test_a_telephones_picture_is_seen_upright(tmp_path, model):
    """EXIF orientation 6: stored lying, to be shown turned by a quarter."""
    ok, data = cv2.imencode(".jpg", np.zeros((40, 80, 3), np.uint8))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "phone.jpg").write_bytes(data[:2].tobytes() + segment + data[2:].tobytes())
    assert main(["detect", str(tmp_path / "phone.jpg"), "--weights", str(model), "--out", str(tmp_path / "out")]) == 0
    height, width = cv2.imread(str(tmp_path / "out/phone.jpg")).shape[:2]
    assert ok and height == 2 * width


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bench", "network", "--rounds", "0"], "'0' is no whole number above 0"),
        (["bench", "network", "--rounds", "\u00b2"], "'\u00b2' is no whole number above 0"),
        (["data", "show", "--epoch", "-1"], "'-1' is no whole number from 0"),
        (["data", "show", "--epoch", "1_0"], "'1_0' is no whole number from 0"),
        (["data", "show", "--epoch", "9" * 5000], "is no whole number from 0"),
        (["bench", "loader", "--size", "-5"], "'-5' is no whole number above 0"),
        (["detect", "x", "--weights", "y", "--out", "z", "--score", "-1"], "'-1' is no number from 0 to 1"),
    ],
)
def test_impossible_numbers_are_refused(words, sentence, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("extra", [["p.jpg"], []], ids=["beside another", "alone"])
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["-\x1b]0;evil\x07a.jpg", "-rf.png", "--notes\n.jpg"])
def test_a_name_that_begins_like_an_option_is_told_apart(tmp_path, monkeypatch, capsys, name, there, extra):
    monkeypatch.chdir(tmp_path)
    if there:
        (tmp_path / name).touch()
    with pytest.raises(SystemExit) as ended:
        main(["detect", *extra, name, "--weights", "m.safetensors", "--out", "o"])
    *_, sentence = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and sentence.isprintable()
    if there or not name.startswith("--"):
        assert f"{printable(name)} begins with -: put -- or ./ before it" in sentence


@pytest.mark.parametrize("words", [["no\x1b[2J"], ["use", "digits", "\x9b2J"], ["data", "show", "--split", "\u202ex"]])
def test_wrong_words_are_quoted_by_escapes(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    error = capsys.readouterr().err
    assert printable(error) == error.replace("\n", "\\n") and "before it" not in error


def test_a_batch_of_one_that_cannot_train_is_a_sentence(capsys):
    assert main(["bench", "network", "--model", "m2det-tiny", "--batch", "1", "--device", "cpu"]) == 1
    assert "--batch is 1, but the smallest map of m2det-tiny is 1x1" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["no picture", "no weights", "not a model", "empty folder", "damaged"])
def test_wrong_input_is_one_sentence(tmp_path, model, picture, capsys, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8 not much")
    (tmp_path / "other.safetensors").write_bytes(b"no")
    image, weights, sentence = {
        "no picture": (tmp_path / "none.jpg", model, "none.jpg: no such file"),
        "no weights": (picture, tmp_path / "none.safetensors", "none.safetensors: no such file"),
        "not a model": (picture, tmp_path / "other.safetensors", "is damaged or no safetensors file"),
        "empty folder": (tmp_path / "empty", model, "holds no pictures"),
        "damaged": (tmp_path / "damaged.jpg", model, "damaged.jpg cannot be decoded"),
    }[case]
    assert main(["detect", str(image), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ") and sentence in error[-1]


def test_info_says_what_a_model_is(model, capsys):
    assert main(["info", str(model)]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["model"].strip() == "m2det-tiny, sfam True"
    assert lines["parameters"].strip() == "1,383,424"
    assert lines["classes"].strip().startswith("10: 0, 1, 2")
    assert "GFLOP per image" in lines["forward"]


def test_flops_of_the_original_are_the_known_ones():
    with torch.device("meta"):
        model = build_model("m2det512-vgg16", 80)
    assert forward_flops(model) / 1e9 == pytest.approx(374.6, abs=0.1)


def test_bench_training_says_what_each_way_reaches(capsys):
    command = ["bench", "training", "--model", "m2det-tiny", "--batch", "2", "--dtype", "float32", "bfloat16"]
    assert main([*command, "--device", "cpu"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch ")]
    ways = [("2", "float32"), ("2", "bfloat16")]
    assert [tuple(line.split()[1:3]) for line in lines] == ways
    assert all(re.fullmatch(r"batch .* eager +[\d.]+ img/s [\d.e-]+ TFLOP/s mem [\d.]+ GB", line) for line in lines)


def test_bench_network_compares_plain_with_what_training_does(capsys):
    assert main(["bench", "network", "--model", "m2det-tiny", "--rounds", "1", "--device", "cpu"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"as training does it +[\d.]+ s, \d+% of it", last)


def test_bench_loader_compares_each_part_with_the_originals_way(capsys):
    assert main(["bench", "loader", "--size", "96", "--rounds", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" x")]
    assert [re.split("  +", line)[0] for line in lines] == [
        "the original's way",
        "decoding alone",
        "decoding and resizing",
        "all, from JPEG",
        "all, from raw pixels",
        "loader, 1 worker",
        "loader, 2 workers",
    ]
    assert lines[0].endswith(" 1.00 x")
    assert float(re.search(r"([\d.]+) x", lines[3])[1]) > 1.5


def test_doctor_says_what_is_chosen(capsys):
    assert main(["doctor"]) == 0
    found = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert found["torch"] == torch.__version__
    assert found["run.processes: auto"] and found["opt_level: O1"].endswith(("loss scale 32", "loss scale 1"))
    if not torch.accelerator.is_available():
        assert found["run.device: auto"].startswith("cpu: ") and found["joined by"] == "gloo"
        assert found["run.graph"] == "is refused: torch captures no graphs on cpu"


def test_waiting_threads_sleep_soon_unless_the_environment_says_otherwise():
    """Beside other programs a thread that waits awake takes the core from the one that it waits for."""
    command = [sys.executable, "-m", "m2det.cli", "doctor"]
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for given, expected in ({}, str(SPIN_COUNT)), ({"GOMP_SPINCOUNT": "77"}, "77"):
        environment = {**clean, **given, "OMP_DISPLAY_ENV": "verbose"}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert f"GOMP_SPINCOUNT={expected}" in told.stdout
        if "GOMP_SPINCOUNT" not in told.stderr:
            pytest.skip("this torch does not use libgomp, which reports its settings")
        assert f"GOMP_SPINCOUNT = '{expected}'" in told.stderr, "set before torch has loaded libgomp"
