"""The settings of a run are values and nothing else: they come out as they went in, or are refused in a sentence."""

import errno
import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.logging import disable_run_logger

from flows.parameters import check_stages
from flows.pipeline import m2det
from flows.settings import checked_settings, write_settings
from m2det.errors import InputError
from m2det.files.yaml_file import read_yaml
from m2det.text import printable
from tests.conftest import ROOT

COCO = {"source": "coco", "root": "/d"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nested(key: str, value: object) -> dict:
    section, _, name = key.rpartition(".")
    return {section: {name: value}} if section else {name: value}


def outcome(folder: Path, overrides: dict, recipe: str | None = None) -> str:
    """`kept`: each value came out as it went in; `refused`: in our sentence. Either way params.yaml is as before."""
    before = (folder / "params.yaml").read_bytes()
    try:
        checked = checked_settings(recipe, overrides)
    except InputError as error:
        sentence = str(error)
        assert "\n" not in sentence and sentence.isprintable() and len(sentence) < 1500, sentence
        assert sentence.startswith(("overrides: ", "params.yaml with this run's ")), sentence
        return "refused"
    finally:
        assert (folder / "params.yaml").read_bytes() == before
    copy = Path(shutil.copy(folder / "params.yaml", folder / "copy.yaml"))
    write_settings(copy, recipe, overrides)
    assert json.dumps(read_yaml(copy), sort_keys=True) == json.dumps(checked, sort_keys=True), "1 is not 1.0"
    return "kept"


KEYS = """
dvc.yaml:stages.data.cmd|params.yaml:epochs|/etc/passwd:a|+epochs|~epochs|--epochs|epochs@train|train/lr|train|data
epochs=1|epochs= | epochs|Epochs|train.|.train|train..lr|train.lr.x|data.train.0|data.train[0]|model.overrides.levels
1|null|${train.lr}|train.${x}|_target_|*|train.*|"epochs"|epochs,seed|epochs\\
""".replace("\n", "|").strip("|")
TEXTS = r"""
~|+|=|:|a=b|a,b|[|]|{|}|{a: 1}|{}|(|)|null|NULL|true|yes|no|on|1|-1|0x1f|0o7|1e3|1_000|inf|-.inf|.nan|2026-01-02|<<
---|...|- a|? a|? |! x|!x|&a|*a|%a|@a|`a|# a|a # b|a: b|a:|'|''|"|'a"b'|\|a\|a\\|\"|\n|\x41|\u0041|${x}|???|{{x}}
%s|{0}|$(touch X)|> X|a b  c| a|a | |~/x|..|/|C:\a|a/b\"c
""".replace("\n", "|").strip("|")
HOSTILE_TEXTS = [
    *TEXTS.split("|"),
    *("|", "a|b", "a\nb", "a\r", "\n", "\x00", "a\x00", "\x07", "\x1b[31m", "\x85", "\u2028", "\ufeffa", "a\u202eb"),
    *("\ud800", "a\udfff", "\u200b", "\u00a0", "\t", "a\tb", '\u00e9" \u00df\\', "\u65e5\u672c", "\U0001f600"),
    *("x" * 255, "x" * 256, "/x" * 400, "/x" * 999, "x" * 10**7, '"' * 99, "\\" * 99, "a " * 120 + "a", "[" * 99),
]
VALUES = [
    *(("train.lr", v) for v in (1e-8, 1e-05, 0.1 + 0.2, 1, 10, 5e-324, 1e300, math.inf, math.nan)),
    *(("seed", v) for v in (0, 2**63 - 1, 2**63, 10**30, 10**5000, 1.0, "1", True, None, [], {}, -1, -0.0)),
    *(("train.hflip", v) for v in (True, False, 0, 1, "true", None)),
    *(("train.max_grad_norm", v) for v in (0, 0.0, -0.0, 1e6, 1e-6, 1e-300)),
    *(("model.overrides", v) for v in ({}, {"levels": 3}, {"smooth": False, "bn_momentum": 1e-05}, {"name": 'a "\\'})),
    *(("model.overrides", v) for v in ({"sizes": [0.1, 0.2, 0.3, 0.4, 1.5]}, {"levels": {"a": 1}}, {"": 1}, [])),
    *(("train.milestones", v) for v in ([0.1, 0.2, 0.3, 0.9], [0.9, 0.1], [0.5, 0.5], ["x"], [math.nan])),
    *(("train.gammas", v) for v in ([1.0, 0.1, 0.1, 0.1, 1e-06], [1.0], [], [[1.0]], "[1, 1, 1]", {"0": 1})),
]


def test_a_key_that_params_yaml_lacks_is_refused(folder):
    keys = [*KEYS.split("|"), "", " ", "epochs\n", "\x00", "epochs\ud800", "\uff45pochs", "x" * 10**6]
    for key in [*keys, "train.lr"]:
        assert outcome(folder, {key: "exec touch X"}) == outcome(folder, {"train": {key: 1}}) == "refused"


@pytest.mark.slow
def test_hostile_values_come_out_as_they_went_in_or_are_refused(folder):
    for text in HOSTILE_TEXTS:  # a folder may have any name that can be seen
        plain = printable(text) == text and len(text) <= 1000 and all(len(part) <= 255 for part in text.split("/"))
        plain = plain and "${" not in text and text != "???"  # for which DVC would write other values
        assert (outcome(folder, {"data": {"root": text}}) == "kept") == plain, text[:80]
    ends = [outcome(folder, nested(key, value)) for key, value in VALUES if value is not None]
    assert min(ends.count("kept"), ends.count("refused")) > 15


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(), max_size=30) | st.text("\\\"'${}[],:=~+# ", max_size=12),
    other=st.text("\\\"'${}[],:# ", max_size=8),
)
def test_any_text_comes_out_as_it_went_in_or_is_refused(folder, text, other):
    sources = [{"annotations": other, "images": text}, {"annotations": text, "images": other}]
    outcome(folder, {"data": {**COCO, "root": f"/{text}", "val": sources, "train": sources}})
    outcome(folder, {"model": {"overrides": {"name": text, other: text}}})


@pytest.mark.parametrize("new", [{}, {"scales": 3}, {"levels": 2}])
def test_a_mapping_replaces_the_one_that_was_there(folder, new):
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("overrides: {}", "overrides: {levels: 4, sizes: [], smooth: false}"))
    assert outcome(folder, {"model": {"overrides": new}}) == ("refused" if "scales" in new else "kept")
    assert outcome(folder, {"model": {"overrides": new | {"sizes": []}}}) == "kept"


def test_comments_stay_and_those_inside_a_replaced_list_go(folder):
    path = folder / "params.yaml"
    entry = "{annotations: a.json, images: i}"
    block = f"  train:   # mine\n  # the first\n  - {entry}   # one\n  val:\n  - {entry}\n"
    block += "  test: []\n  val_share: 0.2\n  classes: []\n\npack:"
    text = path.read_text().replace("  source: digits", "  source: coco").replace("  root: ''", "  root: /d")
    path.write_text(re.sub(r"  train: \[\].*?pack:", block, text, count=1, flags=re.DOTALL))
    assert outcome(folder, {"epochs": 2}) == "kept"
    changed = [line for line in (folder / "copy.yaml").read_text().splitlines() if line not in path.read_text()]
    assert changed == ["epochs: 2                     # passes over the training images; 1 to 100,000"]
    assert outcome(folder, {"data": {"train": [{"annotations": "b.json", "images": "i"}]}}) == "kept"
    assert "# the first" not in (folder / "copy.yaml").read_text()
    assert outcome(folder, {"epochs": 2}, recipe="coco512-8p") == "kept"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"overrides": {"dvc.yaml:stages.data.cmd": "exec touch X"}}, "overrides: no key of params.yaml is called"),
        ({"overrides": {"epochs": "3"}}, "params.yaml with this run's overrides: epochs: input should be a valid"),
        ({"overrides": {"train": 1}}, "overrides: train is a section of params.yaml; give keys of it"),
        ({"overrides": {"train.lr": 1}}, "overrides: no key of params.yaml is called 'train.lr'; keys are given as in"),
        (
            {"overrides": {"train": {"lr": 0.01, "milestones": []}}},
            "params.yaml with this run's overrides: train: train.gammas needs one entry more",
        ),
        (
            {"overrides": {"model": {"name": "m2det-huge"}}},
            "params.yaml with this run's overrides: model: no model is called 'm2det-huge'",
        ),
        ({"recipe": "coco"}, "no recipe is called 'coco'"),
        ({"recipe": "../digits"}, "no recipe is called '../digits'"),
        ({"recipe": ""}, "no recipe is called ''"),
        ({"recipe": "coco512-8p"}, "params.yaml with this run's recipe: data: source 'coco2014' needs data.root"),
        ({"recipe": "digits"}, "{folder} is no git repository, but a run works in a clone"),
        ({"stages": ["--foo"]}, "stages: no stage is called '--foo'; there are annotations, data, pack, "),
        ({"stages": ["train", "other/dvc.yaml:stage"]}, "stages: no stage is called 'other/dvc.yaml:stage'"),
        ({"stages": ["train", "evaluate", "train"]}, "stages: train is named twice"),
    ],
)
def test_the_flow_fails_with_the_sentence_before_any_task(folder, parameters, message):
    before = (folder / "params.yaml").read_bytes()
    with disable_run_logger():
        state = m2det.fn(**parameters)
    assert state.is_failed() and state.message.startswith(message.format(folder=folder)) and "\n" not in state.message
    assert (folder / "params.yaml").read_bytes() == before and [path.name for path in folder.iterdir()] == [
        "params.yaml"
    ]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_is_named(folder, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number), str(folder / "params.yaml"))

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(InputError, match=rf"params.yaml: {os.strerror(number).lower()}; (.*make room|see to its perm)"):
        write_settings(folder / "params.yaml", None, {"epochs": 2})


def test_stages_may_be_named_in_any_order():
    check_stages(["evaluate", "train"])
