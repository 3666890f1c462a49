"""The parameters of a run are values and nothing else: they come out as they went in, or are refused in a sentence."""

import errno
import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, to_hydra_overrides
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from flows.changes import checked_changes, set_params
from flows.pipeline import check_stages, m2det
from m2det.config import load_params, parameter_keys
from m2det.errors import InputError
from m2det.text import printable
from tests.conftest import ROOT

FILES = ("params.yaml", "dvc.yaml", "pyproject.toml")
COCO = {"data.source": "coco", "data.root": "/d"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "a value of the environment")
    return tmp_path


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def written(folder: Path, changes: dict) -> dict:
    """What stands in params.yaml after DVC was given the changes as `dvc exp run` is; all is as before afterwards."""
    before = (folder / "params.yaml").read_text()
    arguments = [argument.removeprefix("--set-param=") for argument in set_params(changes)]
    assert all(argument.startswith("--set-param=") for argument in set_params(changes))
    overrides = to_path_overrides(arguments)
    assert list(overrides) == ["params.yaml"]
    assert not any(override.is_sweep_override() for override in to_hydra_overrides(overrides["params.yaml"]))
    apply_overrides(folder / "params.yaml", overrides["params.yaml"])
    load_params(folder / "params.yaml")
    after = YAML(typ="safe").load(folder / "params.yaml")
    (folder / "params.yaml").write_text(before)
    return after


def at(values: dict, key: str):
    section, _, name = key.rpartition(".")
    return (values[section] if section else values)[name]


def outcome(folder: Path, changes: dict) -> str:
    """`kept`: each value came out as it went in; `refused`: in our sentence, without a byte of any file changed."""
    before = contents(folder)
    try:
        checked = checked_changes(None, changes)
    except InputError as error:
        sentence = str(error)
        assert "\n" not in sentence and sentence.isprintable() and len(sentence) < 1500, sentence
        assert sentence.startswith(("overrides: ", "params.yaml with this run's overrides: ")), sentence
        assert contents(folder) == before
        return "refused"
    assert contents(folder) == before
    after = written(folder, checked)
    shipped = YAML(typ="safe").load(folder / "params.yaml")
    for key in parameter_keys():
        wanted = changes[key] if key in changes else at(shipped, key)
        assert json.dumps(at(after, key), sort_keys=True) == json.dumps(wanted, sort_keys=True), key
    return "kept"


KEYS = """
dvc.yaml:stages.data.cmd|pyproject.toml:project.name|params.yaml:epochs|../x.yaml:a|/etc/passwd:a|:epochs|epochs:
+epochs|++epochs|~epochs|~train|+new|++train.new|--epochs|-epochs|--set-param=epochs|--temp|epochs@train|epochs@
train/lr|train|data|model|epochs=1|epochs= |epochs | epochs|ep ochs|Epochs|EPOCHS|train.|.train|train..lr|train.lr.
train.lr.x|data.train.0|data.train[0]|data.train.0.images|model.overrides.levels|model.overrides.sizes.0|train[lr]
1|0|1e3|3.5|true|null|nan|${SECRET}|${oc.env:SECRET}|${train.lr}|$epochs|train.${x}|hydra.run.dir|hydra|defaults
_target_|__class__|*|train.*|{epochs}|[epochs]|"epochs"|'epochs'|epochs,seed|epochs;seed|\\epochs|epochs\\
""".replace("\n", "|").strip("|")
HOSTILE_KEYS = [
    *KEYS.split("|"),
    *(
        "",
        " ",
        "\t",
        "epochs\n",
        "epochs\x00",
        "\x00",
        "epochs\ud800",
        "epochs\u200b",
        "\u00e9",
        "\uff45pochs",
        "x" * 10**6,
        "a.b" * 1000,
    ),
]
TEXTS = r"""
~|+|++|--|--temp|-S|=|==|:|dvc.yaml:x|params.yaml:epochs=3|a=b|a,b|1,2|choice(a,b)|range(1,9)|sort(1,2)|glob(*)
interval(0,1)|tag(a,b)|shuffle(1,2)|int(3)|str(3)|extend_list(1)|[1,2]|[|]|{|}|{a: 1}|{a|{}|(|)|null|NULL|~null|true
False|yes|no|on|1|-1|0x1f|0o7|1e3|1_000|inf|-inf|.inf|nan|.nan|2026-01-02|12:30:00|<<|---|...|- a|? a|? |! x|!x
&a|*a|%a|@a|`a|# a|a # b|a: b|a:|'|''|"|""|'a"b'|\|\\|\\\|a\|a\\|\"|\\"|\\\"|"\|"\\|\'|'\|\n|\x41|\u0041|\${x}
$|$$|$a|${|$}|${}|${x}|${SECRET}|${oc.env:SECRET}|${oc.env:HOME}|${train.lr}|\\${x}|$${x}|a${x}b|${a${b}}|{{x}}
{{ prefect.variables.x }}|%(x)s|%s|{0}|???|????|???a|a???|$(touch X)|`touch X`|; touch X|&& touch X|> X|a b  c
 a|a | |  |~/x|~root|~nobody9/x|..|../..|/|//|./a//b/|C:\a|a/b\"c
""".replace("\n", "|").strip("|")
HOSTILE_TEXTS = [
    *TEXTS.split("|"),
    *("|", "a|b", "a\nb", "a\r", "\n", "\x00", "a\x00", "\x07", "\x1b[31m", "\x85", "\u2028", "\ufeffa", "a\u202eb"),
    *(
        "\ud800",
        "a\udfff",
        "\u200b",
        "\u00a0",
        "\t",
        "a\tb",
        '\u00e9" \u00df\\',
        "\u65e5\u672c",
        "\U0001d518",
        "\U0001f600",
        "x" * 255,
        "x" * 256,
        "/x" * 400,
        "/x" * 999,
        "x" * 10**7,
    ),
    *('"' * 99, "\\" * 99, '\\"' * 99, "a " * 120 + "a", "(" * 99, "[" * 99, "{" * 99, "${" * 99, "InputError: x"),
]
VALUES = [
    *(("train.lr", v) for v in (1e-8, 1e-05, 0.1 + 0.2, 1, 10, 5e-324, 1e-300, 1e300, math.inf, -math.inf, math.nan)),
    *(("seed", v) for v in (0, 2**63 - 1, 2**63, 2**64, 10**30, 10**5000, 1.0, "1", True, None, [], {}, -1, -0.0)),
    *(("train.hflip", v) for v in (True, False, 0, 1, "true", None)),
    *(("train.max_grad_norm", v) for v in (0, 0.0, -0.0, 1e6, 1e-6, 1e-300)),
    *(("model.overrides", v) for v in ({}, {"levels": 3}, {"smooth": False, "bn_momentum": 1e-05}, {"name": 'a "\\'})),
    *(("model.overrides", v) for v in ({"sizes": [0.1, 0.2, 0.3, 0.4, 1.5]}, {"fused": [64, 128]}, {"a: 1, b": 2})),
    *(("model.overrides", v) for v in ({"levels": "${SECRET}"}, {"name": "${SECRET}"}, {"name": "???"}, {"": 1}, [])),
    *(("model.overrides", v) for v in ({"levels": {"a": 1}}, {"levels": [[[[]]]]}, {"~levels": 3}, {"levels": True})),
    *(
        ("train.milestones", v)
        for v in ([0.1, 0.2, 0.3, 0.9], [0.9, 0.1], [0.5, 0.5], [1.0, 2.0], ["${SECRET}"], [math.nan])
    ),
    *(
        ("train.gammas", v)
        for v in ([1.0, 0.1, 0.1, 0.1, 1e-06], [1, 1, 1, 1, 1], [1.0], [], [[1.0]], "[1, 1, 1]", {"0": 1})
    ),
]


def pairs() -> list[tuple[str, object]]:
    texts = [
        *(("data.root", text) for text in HOSTILE_TEXTS),
        *(("weights.source", text) for text in HOSTILE_TEXTS[::5]),
        *(("model.name", text) for text in HOSTILE_TEXTS[::5]),
        *(("run.device", text) for text in HOSTILE_TEXTS[::9]),
    ]
    return [*((key, "exec touch X") for key in HOSTILE_KEYS), *texts, *VALUES]


@pytest.mark.slow
def test_hostile_pairs_come_out_as_they_went_in_or_are_refused(folder):
    ends = [outcome(folder, {key: value}) for key, value in pairs()]
    counts = (len(ends), ends.count("kept"), ends.count("refused"))
    print(*counts)
    assert ends[: len(HOSTILE_KEYS)] == ["refused"] * len(HOSTILE_KEYS)
    for (key, value), end in zip(pairs(), ends, strict=True):
        if key == "data.root":  # a folder may have any name that can be seen
            plain = printable(value) == value and "${" not in value and value != "???" and len(value) <= 1000
            assert (end == "kept") == (plain and all(len(part) <= 255 for part in value.split("/"))), value[:80]
    assert counts[0] > 350 and counts[1] > 150
    assert not (folder / "X").exists()


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(), max_size=30) | st.text("\\\"'${}[],:=~+ ", max_size=12),
    other=st.text("\\\"'${}[],: ", max_size=8),
)
def test_any_text_comes_out_as_it_went_in_or_is_refused(folder, text, other):
    sources = [{"annotations": other, "images": text}, {"annotations": text, "images": other}]
    outcome(folder, {**COCO, "data.root": f"/{text}", "data.val": sources, "data.train": sources})
    outcome(folder, {"model.overrides": {"name": text, other: text}})


@pytest.mark.parametrize("new", [{}, {"scales": 3}, {"levels": 2}])
def test_a_mapping_replaces_the_one_that_was_there(folder, new):
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("overrides: {}", "overrides: {levels: 4, sizes: [], smooth: false}"))
    assert outcome(folder, {"model.overrides": new}) == ("refused" if "scales" in new else "kept")
    assert outcome(folder, {"model.overrides": new | {"sizes": []}}) == "kept"


def test_a_key_that_the_file_lacks_is_added(folder):
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("  oversubscribe: ", "  # "))
    assert written(folder, checked_changes(None, {"run.oversubscribe": False}))["run"]["oversubscribe"] is False
    with pytest.raises(
        InputError, match=r"^params.yaml with this run's overrides: key 'run.oversubscribe' is missing$"
    ):
        checked_changes(None, {"epochs": 2})


def test_comments_that_dvc_would_break_are_seen_before(folder):
    """Own data in block style, with comments, and a recipe for other data: DVC would make params.yaml unreadable."""
    path = folder / "params.yaml"
    entry = "{annotations: a.json, images: i}"
    block = f"  train:   # mine\n  # the first\n  - {entry}   # one\n  val:\n  - {entry}\n\npack:"
    text = path.read_text().replace("  source: digits", "  source: coco").replace("  root: ''", "  root: /d")
    path.write_text(re.sub(r"  train: \[\].*?pack:", block, text, count=1, flags=re.DOTALL))
    assert outcome(folder, {"epochs": 2}) == "kept"
    assert outcome(folder, {"data.train": [{"annotations": "b.json", "images": "i"}]}) == "kept"
    before = contents(folder)
    with pytest.raises(InputError, match="it breaks comments between the entries of lists"):
        checked_changes("coco512-8p", None)
    assert contents(folder) == before


def test_the_result_as_a_whole_is_checked(folder):
    for changes, sentence in (
        ({"train.lr": 0.01, "train.milestones": []}, "gammas needs one entry more"),
        ({"data.source": "coco2014"}, "needs data.root"),
        ({"model.name": "m2det-huge"}, "model: no model is called 'm2det-huge'"),
        ({"model.overrides": {"level": 3}}, "model: no setting of a model is called 'level'"),
        ({"train": {"lr": 1}}, "train is a section of params.yaml; give single keys of it, such as train.batch_size"),
        ({"model.overrides.levels": 3}, "model.overrides is given as a whole"),
        ({"train.rate": 3}, "no key of params.yaml is called 'train.rate'"),
        ({"epochs": 1.0}, "epochs: input should be a valid integer, got 1.0"),
        (
            {"data.val": [{"annotations": "a", "images": "\u00e9" * 120 + "x" * i} for i in range(101)]},
            "data.val: list",
        ),
    ):
        with pytest.raises(InputError) as error:
            checked_changes(None, changes)
        assert sentence in str(error.value)
    assert outcome(folder, {**COCO, "data.train": [{"annotations": "a", "images": "/\u00e9" * 600}] * 60}) == "refused"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"overrides": {"dvc.yaml:stages.data.cmd": "exec touch X"}}, "overrides: no key of params.yaml is called"),
        ({"overrides": {"epochs": "3"}}, "params.yaml with this run's overrides: epochs: input should be a valid"),
        ({"recipe": "coco"}, "no recipe is called 'coco'"),
        ({"recipe": "../digits"}, "no recipe is called '../digits'"),
        ({"recipe": "coco512-8p"}, "params.yaml with this run's recipe: data: source 'coco2014' needs data.root"),
        ({"only": ["--foo"]}, "only: no stage is called '--foo'; there are data, pack, "),
        ({"only": ["train; x"]}, "only: no stage is called 'train; x'"),
        ({"only": ["train", "other/dvc.yaml:stage"]}, "only: no stage is called 'other/dvc.yaml:stage'"),
        ({"only": ["train"], "isolated": True}, "only and isolated do not go together"),
    ],
)
def test_the_flow_fails_with_the_sentence_before_any_task(folder, parameters, message):
    before = contents(folder)
    state = m2det.fn(**parameters)
    assert state.is_failed() and state.message.startswith(message) and "\n" not in state.message
    assert contents(folder) == before and {path.name for path in folder.iterdir()} == set(FILES)


@pytest.mark.parametrize("recipe", ["", "x" * 10**6])
def test_a_recipe_that_is_none_is_refused_in_a_short_sentence(folder, recipe):
    before = contents(folder)
    with pytest.raises(InputError, match="no recipe is called '") as error:
        checked_changes(recipe, {"epochs": 2})
    assert len(str(error.value)) < 400 and contents(folder) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
@pytest.mark.usefixtures("folder")
def test_what_the_disk_refuses_is_not_blamed_on_comments(monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "/tmp/other")

    monkeypatch.setattr("dvc.utils.hydra.apply_overrides", refuse)
    with pytest.raises(
        InputError, match=f"^params.yaml: {os.strerror(number).lower()}; (make room|see to its permissions)"
    ):
        checked_changes(None, {"epochs": 2})


def test_a_stage_named_twice_is_refused():
    check_stages(["train", "evaluate"], False)
    with pytest.raises(InputError, match="only: train is named twice"):
        check_stages(["train", "evaluate", "train"], False)
