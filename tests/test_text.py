"""Text from files cannot move a cursor, forge a line, or end a command, wherever it is shown."""

import csv
import json

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from m2det.cli.main import main
from m2det.data.packed.reader import PackedSplit
from m2det.data.packed.writer import finish_cache, write_split
from m2det.data.sources.coco import read_split
from m2det.errors import InputError
from m2det.text import printable
from m2det.viz.draw import GREEN, BoxAnnotation, contact_sheet, draw_boxes, thumbnail
from m2det.viz.labels import write_labels
from tests.data.project import Project, jpeg, write_annotations
from tests.tiny_model import write_tiny_model
from tests.visible import is_plain

HOSTILE = (
    "\x1b]0;a title\x07",
    "cat\nsha256 of code  " + "0" * 64,
    "\u202egnp.exe",
    "\x9b2J",
    "line\u2028end",
    "$\\frac{",
    "</script><script>alert(1)</script>",
    "\u00e9\u65e5\u672c \U0001f408",
    "=1+1",
)
SHOWN = (
    "\\x1b]0;a title\\x07",
    "cat\\nsha256 of code  " + "0" * 64,
    "\\u202egnp.exe",
    "\\x9b2J",
    "line\\u2028end",
    *HOSTILE[5:],
)


def test_hostile_text_is_shown_by_escapes_and_other_text_as_it_is():
    assert tuple(map(printable, HOSTILE)) == SHOWN
    farsi, family = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f468\u200d\U0001f467"
    assert (printable(farsi), printable(family)) == (farsi, family)
    assert printable(b"\xff\xc3\xa9.jpg".decode("utf-8", "surrogateescape")) == "\\xff\u00e9.jpg"


@settings(max_examples=500, derandomize=True, database=None)
@given(st.text(st.characters()) | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
@example("\ud800\udcff")
def test_any_text_is_printable_once_and_for_all(text):
    shown = printable(text)
    assert is_plain(shown.replace("\u200c", "").replace("\u200d", "")) and "\n" not in shown
    assert printable(shown) == shown and shown.encode("utf-8").decode("utf-8") == shown


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file whose card says hostile things in every place that takes a text."""
    folder = tmp_path_factory.mktemp("model")
    state = load_file(write_tiny_model(folder))
    card = {
        "model": "m2det-tiny",
        "overrides": {"sfam": True},
        "classes": [*HOSTILE, "cat"],
        "category_ids": list(range(1, 11)),
        "trained": {"epoch": 1, "step": 2, "AP": 0.5, "AP50": 0.75},
        "hashes": {"a\ncode": "0" * 64, "\x1b[31mred": "0" * 64},
    }
    save_file(state, folder / "hostile.safetensors", metadata={"card": json.dumps(card)})
    return folder / "hostile.safetensors"


def test_info_of_a_hostile_card_has_the_lines_it_should_have(model, capsys):
    assert main(["info", str(model)]) == 0
    out = capsys.readouterr().out
    assert is_plain(out)
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        *(
            "model",
            "input",
            "parameters",
            "forward",
            "priors",
            "classes",
            "trained",
            "sha256 of \\x1b[31mred",
            "sha256 of a\\ncode",
        )
    ]
    assert all(shown in out for shown in SHOWN)


def test_detecting_with_a_hostile_card_draws_and_prints(model, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    command = ["detect", str(tmp_path / "a.jpg"), "--weights", str(model), "--out", str(tmp_path / "out"), "--json"]
    assert main([*command, "--score", "0.01"]) == 0
    assert json.loads((tmp_path / "out/detections.json").read_text())
    assert is_plain(capsys.readouterr().out)


@pytest.mark.parametrize(
    "environment", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["utf8", "ascii"]
)
def test_stages_print_hostile_class_names_on_any_terminal(tmp_path, environment):
    project = Project(tmp_path)
    project.classes(*HOSTILE)
    for name in ("data", "pack"):
        done = project.stage(name, **environment)
        assert done.returncode == 0 and is_plain(done.stdout), done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("9 classes: ")]
    wanted = f"9 classes: {', '.join(SHOWN)}"
    assert line == (wanted.encode("ascii", "backslashreplace").decode() if environment else wanted)
    project.classes(*HOSTILE, HOSTILE[1])
    project.refused("data", "train.json", "cat\\nsha256 of code", "occurs twice")


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path)
    made.classes(*HOSTILE)
    monkeypatch.chdir(made.folder)
    cache = made.folder / "data/cache"
    cache.mkdir(parents=True)
    entries = {}
    for name in ("train", "val"):
        split = read_split([(made.root / f"{name}.json", made.images)])
        entries[name] = write_split(cache, name, split)
    finish_cache(cache, split.categories, entries)
    return made


def test_data_commands_print_and_draw_hostile_names(project, capsys):
    odd = "\u202e\u00e9 $x_{.jpg"
    (project.images / odd).write_bytes(jpeg(0)[:-9])
    write_annotations(project.root / "train.json", ["a.jpg", odd, "lost\u2028.jpg"], HOSTILE)
    (project.images / "lost\u2028.jpg").symlink_to("nowhere")
    command = ["data", "check", "--annotations", str(project.root / "train.json"), "--images", str(project.images)]
    assert main(command) == 2  # a picture cannot be drawn of what is lost
    (project.images / "lost\u2028.jpg").unlink()
    (project.images / "lost\u2028.jpg").write_bytes(jpeg(1))
    main(command)
    assert main(["data", "show"]) == 0
    shown = capsys.readouterr()
    assert is_plain(shown.out) and is_plain(shown.err.replace("\r", ""))
    for text in ("\\u202e\u00e9 $x_{.jpg) is truncated", "lost\\u2028.jpg", "\\x1b]0;a title\\x07 "):
        assert text in shown.out


def test_pictures_are_drawn_with_escapes():
    image = np.zeros((60, 90, 3), np.uint8)
    for hostile, shown in zip((*HOSTILE, "\ud800"), (*SHOWN, "\\ud800"), strict=True):
        pictures = []
        for text in (hostile, shown):
            square = thumbnail(image, [BoxAnnotation((5, 5, 9, 9), text, GREEN)], 60)
            pictures.append(contact_sheet([(square, text)], 1, [text]))
        assert (pictures[0] == pictures[1]).all()
        assert draw_boxes(image, [BoxAnnotation((5, 5, 9, 9), hostile * 99, GREEN)]).shape == image.shape


@pytest.mark.usefixtures("project")
def test_tables_and_curves_take_hostile_names(tmp_path):
    """A name with `$` is no formula, and one with markup no part of the page that `dvc plots` makes of the table."""
    splits = [PackedSplit("data/cache", name) for name in ("train", "val")]
    write_labels(tmp_path / "labels.csv", tmp_path / "labels.png", splits, [0.1])
    assert cv2.imread(str(tmp_path / "labels.png")) is not None
    text = (tmp_path / "labels.csv").read_text()
    assert is_plain(text) and "<" not in text
    rows = list(csv.reader(text.splitlines()))
    assert rows[1:6] == [[name, "2" if i == 0 else "0", "1" if i == 0 else "0"] for i, name in enumerate(SHOWN[:5])]


def test_ap_by_class_is_named_so_that_dvc_can_print_it(project):
    (project.folder / "results").mkdir()
    (project.folder / "results/detections.json").write_text("[]")
    (project.folder / "models").mkdir()
    (project.folder / "models/m2det.safetensors").touch()
    done = project.run("-c", "from tasks.evaluate import score; score()")
    assert done.returncode == 0, done.stderr
    text = (project.folder / "results/plots/classes.csv").read_text()
    assert is_plain(text) and "<" not in text
    names = [name.replace("<", "\\x3c").replace(">", "\\x3e") for name in SHOWN]
    assert [row[0] for row in csv.reader(text.splitlines())] == ["class", *names]


LONG = {
    "control characters": ("images", "file_name", "\x1b" * 10**6),
    "a file's name": ("images", "file_name", "../" * 10**6),
    "no id": ("images", "id", {"a": "x" * 10**6}),
    "no width": ("images", "width", [1] * 10**6),
    "a box": ("annotations", "bbox", [0.5] * 10**5),
    "an image": ("annotations", "image_id", "\u202e" * 10**6),
    "a class": ("categories", "name", {"x" * 10**6: "\U000e0001"}),
}


@pytest.mark.parametrize("what", LONG)
def test_a_sentence_has_a_beginning_and_an_end(tmp_path, what):
    part, key, value = LONG[what]
    write_annotations(tmp_path / "a.json", ["a.jpg"])
    content = json.loads((tmp_path / "a.json").read_text())
    content[part][0][key] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as refused:
        read_split([(tmp_path / "a.json", tmp_path)])
    sentence = str(refused.value)
    assert len(sentence) <= 2000 and sentence.count(" [...] ") == 1 and sentence.isprintable()
    assert sentence.startswith(f"{tmp_path}/a.json: ")
    assert sentence.endswith(str(refused.value.args[0])[-15:])


def test_a_sentence_is_one_line():
    error = InputError("x.json: category 'a\nInputError: all is well\x1b[2J' is wrong")
    assert str(error) == "x.json: category 'a\\nInputError: all is well\\x1b[2J' is wrong"
