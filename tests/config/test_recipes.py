"""Recipes are complete, valid, honest about themselves, and written into params.yaml without harm."""

import errno
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from m2det.cli.main import main
from m2det.config import Params, TrainParams, dotted, load_params
from m2det.config.recipes import USERS_KEYS, read_recipe, recipe_names
from m2det.config.schema import default, defaults, settings
from m2det.train.optim import lr_of_step
from tests.conftest import ROOT

NAMES = (
    "coco320-8p coco512-1p coco512-8p coco512-8p-aligned coco512-8p-clip coco512-original coco800-8p digits "
    "finetune-1p own voc320-1p voc512-1p voc512-8p"
)
OWN = {"root": "/data/coco", "outside": True, "mirror": "http://localhost"}  # what a user has set


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def test_these_are_the_recipes_and_each_says_what_it_promises(capsys):
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert recipe_names() == NAMES.split()
    for name in recipe_names():
        header, _ = read_recipe(name)
        assert header in printed and header.startswith(f"# The recipe `{name}`: ")
        assert all(word in header for word in ("Source: ", "Hardware: ", "Expected: "))
        assert "measured here" in header


def test_the_shipped_params_are_the_recipe_digits():
    header, values = read_recipe("digits")
    shipped = YAML(typ="safe").load(ROOT / "params.yaml")
    assert shipped["data"].pop("root") == "" and shipped["data"].pop("outside") is False
    assert shipped["data"].pop("mirror").startswith("http://images.coco")
    assert values == shipped
    assert (ROOT / "params.yaml").read_text().startswith(header + "#\n")


@pytest.mark.parametrize("name", NAMES.split())
def test_a_recipe_holds_only_what_differs_from_the_defaults(name):
    stored = dotted(YAML(typ="safe").load((ROOT / "m2det/recipes" / f"{name}.yaml").read_text()))
    stored.pop("data.source", None)  # has `m2det use` replace the user's data
    shared = {key for key, value in stored.items() if value == default(settings()[key])}
    assert not shared and not stored.keys() & set(USERS_KEYS)


def test_the_batches_of_the_recipes_for_512_pixels():
    for name, sizes in {"coco512-8p": (128, 16), "coco512-1p": (16, 16), "coco512-original": (32, 8)}.items():
        train = read_recipe(name)[1]["train"]
        assert (train["batch_size"], train["microbatch"]) == sizes


@pytest.mark.parametrize("name", NAMES.split())
def test_the_processes_of_a_recipe_divide_its_batch(name):
    values = read_recipe(name)[1]
    train, processes = TrainParams.model_validate(values["train"]), values["run"]["processes"]
    assert train.accumulation(train.processes_at_most(2) if processes == "auto" else processes) == 1


@pytest.mark.parametrize("name", ["voc320-1p", "voc512-8p"])
def test_lr_for_voc_falls_at_the_originals_epochs(name):
    """Those of its list for VOC, of 300; the recipe's fractions have five digits."""
    _, values = read_recipe(name)
    values["data"] = defaults()["data"] | values["data"] | {"root": "VOCdevkit"}
    params = Params.model_validate(values)
    lrs = [lr_of_step(params, 1.0, epoch, steps_per_epoch=1) for epoch in range(values["epochs"])]
    assert len(lrs) == 300
    assert [epoch for epoch in range(6, 300) if lrs[epoch] < lrs[epoch - 1]] == [100, 150, 200, 250]


def test_comments_stay_in_any_locale(params):
    params.write_text(params.read_text() + "# caf\u00e9 \u65e5\n", encoding="utf-8")
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "m2det.cli.main", "use", "coco512-8p"]
    done = subprocess.run(command, env=ascii_only, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert params.read_text(encoding="utf-8").endswith("# caf\u00e9 \u65e5\n")


@pytest.mark.parametrize("name", NAMES.split())
def test_a_recipe_sets_every_key_but_where_the_data_lies(params, name, capsys):
    yaml = YAML()
    before = yaml.load(params)
    before["data"] |= OWN
    yaml.dump(before, params)
    assert main(["use", name]) == 0
    text = params.read_text()
    header, values = read_recipe(name)
    after = YAML(typ="safe").load(params)
    assert {key: after["data"][key] for key in OWN} == OWN
    assert text.startswith(header + "#\n# Every key is required")
    assert text.count("The recipe `") == 1
    assert "epochs: " in capsys.readouterr().out or name == "digits"
    for key, value in values.items():
        for inner, wanted in value.items() if isinstance(value, dict) else []:
            assert after[key][inner] == wanted
    assert set(values) | {"data"} == set(after)
    Params.model_validate(after)


def test_what_reproduces_others_has_their_objective():
    objectives = {name: read_recipe(name)[1]["train"]["objective"] for name in recipe_names()}
    aligned = {"coco512-8p-aligned", "digits", "own"}
    assert objectives == {name: "aligned" if name in aligned else "multibox" for name in NAMES.split()}


def test_there_and_back_is_the_same_file(params):
    original = params.read_text()
    for name in (*NAMES.split(), "digits"):
        main(["use", name])
    assert params.read_text() == original


def test_lists_and_comments_of_the_users_come_through(params):
    """Data as the README shows it, with comments where they break a line when a list is replaced."""
    own = "# my notes\n#\n# more of them\n"
    block = (
        "  train:   # mine\n  # the first\n  - {annotations: a.json, images: i}   # one\n"
        "  val:\n  - {annotations: b.json, images: j}\n"
    )
    text = params.read_text()
    text = text.replace(text[text.index("  train: []") : text.index("\npack:")], block)
    params.write_text(own + text[text.index("epochs:") :])
    assert main(["use", "coco512-8p"]) == 0
    after = params.read_text()
    assert after.startswith(read_recipe("coco512-8p")[0] + "#\n" + own)
    values = YAML(typ="safe").load(after)
    assert (values["data"]["train"], values["data"]["val"], values["epochs"]) == ([], [], 160)
    assert main(["use", "finetune-1p"]) == 0
    assert params.read_text().count("The recipe `") == 1 and own in params.read_text()


@pytest.mark.parametrize("text", ["epochs: [", "", "a: 1\na: 2\n"])
def test_a_broken_params_yaml_is_left_alone(params, text, capsys):
    params.write_text(text)
    assert main(["use", "digits"]) == 1
    assert capsys.readouterr().err.startswith("error: params.yaml ") and params.read_text() == text


@pytest.mark.parametrize("section", ["precision:", "train: 3", "train: [1]", "data: x"])
def test_a_section_without_keys_ends_in_a_sentence(params, section, capsys):
    params.write_text(re.sub(rf"(?ms)^{section.split(':')[0]}:.*?(?=^\w|\Z)", f"{section}\n", params.read_text()))
    before = params.read_text()
    assert section in before
    assert main(["use", "digits"]) == 1
    assert f"{section.split(':')[0]} must hold keys and values" in capsys.readouterr().err
    assert params.read_text() == before and [path.name for path in params.parent.iterdir()] == [params.name]


def test_a_linked_params_yaml_stays_a_link(params, tmp_path):
    real = tmp_path / "real" / "mine.yaml"
    real.parent.mkdir()
    params.rename(real)
    params.symlink_to(real)
    assert main(["use", "coco512-8p"]) == 0
    assert params.is_symlink() and "The recipe `coco512-8p`" in real.read_text()
    assert [path.name for path in real.parent.iterdir()] == [real.name]


def test_a_failure_leaves_no_temporary_file(params, monkeypatch, capsys):
    monkeypatch.setattr("os.replace", partial(_raise, OSError(errno.EROFS, "Read-only file system")))
    before = params.read_text()
    assert main(["use", "coco512-8p"]) == 1
    assert "read-only file system" in capsys.readouterr().err
    assert params.read_text() == before and [path.name for path in params.parent.iterdir()] == [params.name]


def _raise(error, *_):
    raise error


@pytest.mark.parametrize("keys", ["outside", "root|outside|mirror|oversubscribe"])
@pytest.mark.parametrize("name", NAMES.split())
def test_a_params_yaml_of_an_earlier_version_becomes_whole(params, keys, name):
    params.write_text(re.sub(rf"(?m)^ *({keys}): .*\n", "", params.read_text(), count=keys.count("|") + 1))
    assert main(["use", name]) == 0
    values = YAML(typ="safe").load(params)
    assert values["data"]["outside"] is False and values["run"]["oversubscribe"] is False
    if values["data"]["source"] == "digits":
        load_params(params)
    assert "  outside: false" in params.read_text()
    assert re.search(r"(?m)^  outside: false +# allow images outside of their folder", params.read_text())
    assert set(values["data"]) == set(Params.model_fields["data"].annotation.model_fields)


def test_keys_of_an_earlier_version_are_removed(params, capsys):
    """Else the file that `use` has written would be refused for its unknown keys."""
    old = params.read_text().replace("\nrun:\n", "\ndevice: auto  # of before\nprocesses: 8\nrun:\n")
    old = old.replace("\ntrain:\n", "\ntrain:\n  clip_norm: 10.0\n  workers: 4\n")
    params.write_text(old)
    assert main(["use", "digits"]) == 0
    load_params(params)
    said = capsys.readouterr().out
    assert [
        key for key in ("device", "processes", "train.clip_norm", "train.workers") if f"{key}: removed" not in said
    ] == []


def test_what_an_editor_leaves_is_no_recipe(tmp_path, monkeypatch):
    for name in ("digits.yaml", "digits.yaml~", ".digits.yaml.swp"):
        (tmp_path / name).touch()
    monkeypatch.setattr("m2det.config.recipes.FOLDER", tmp_path)
    assert recipe_names() == ["digits"]


def test_the_eight_npu_recipe_is_the_modelzoo_baselines():
    _, values = read_recipe("coco512-8p")
    train, precision = values["train"], values["precision"]
    assert train["microbatch"] == 16
    assert (values["epochs"], values["seed"], values["run"]["processes"]) == (160, 49, 8)
    assert (train["batch_size"], train["lr"], train["lr_batch_size"], train["max_grad_norm"]) == (128, 0.001, 128, 0.0)
    assert (precision["opt_level"], precision["loss_scale"]) == ("O1", 32.0)
    off = {
        "ema_decay": 0.0,
        "label_smoothing": 0.0,
        "sync_bn": False,
        "weight_decay_norm_bias": True,
        "schedule": "steps",
    }
    assert {key: train[key] for key in off} == off


@pytest.mark.usefixtures("params")
def test_a_wrong_name_or_folder_ends_in_a_sentence(tmp_path, monkeypatch, capsys):
    assert main(["use", "coco"]) == 1
    assert "no recipe is called 'coco'; there are coco320-8p" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["use", "digits"]) == 1
    assert "run this in the project's folder" in capsys.readouterr().err
