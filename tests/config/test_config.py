"""params.yaml: its keys are a public surface, and what is wrong in it ends in a sentence."""

import difflib
import io
from typing import Any, Literal, get_args, get_origin

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from m2det.config import dotted, load_params
from m2det.config.document import PAGE, comment, page
from m2det.config.schema import default, settings
from m2det.errors import InputError
from tests.conftest import ROOT

FILE = ROOT / "params.yaml"
KEYS = {
    "epochs": None,
    "seed": None,
    "run": {
        "device",
        "processes",
        "nodes",
        "rendezvous",
        "join_timeout",
        "oversubscribe",
        "workers",
        "compile",
        "graph",
        "deterministic",
        "log_every",
        "save_every",
        "stop_grace",
    },
    "data": {"source", "root", "outside", "orientation", "mirror", "train", "val", "val_share", "classes"},
    "pack": {"verify", "on_bad_image", "images", "side", "quality"},
    "weights": {"source", "sha256", "images", "checkpoint", "min_match"},
    "model": {"name", "sfam", "overrides"},
    "train": {
        "batch_size",
        "microbatch",
        "max_steps",
        "optimizer",
        "lr",
        "lr_batch_size",
        "schedule",
        "gammas",
        "milestones",
        "warmup",
        "momentum",
        "weight_decay",
        "weight_decay_norm_bias",
        "max_grad_norm",
        "ema_decay",
        "objective",
        "label_smoothing",
        "loss_normalization",
        "sync_bn",
        "freeze_backbone",
        "freeze_bn_stats",
        "crop_probability",
        "expand_probability",
        "hflip",
        "evaluate_every",
        "keep",
        "patience",
    },
    "precision": {"opt_level", "loss_scale", "dtype", "backend"},
    "evaluate": {"batch_size", "nms", "score_threshold", "nms_iou", "per_class", "per_image", "scorer"},
    "benchmark": {"batch_size", "warmup", "steps"},
}


def test_the_keys_are_these():
    values = YAML(typ="safe").load(FILE)
    assert {key: set(value) if isinstance(value, dict) else None for key, value in values.items()} == KEYS
    assert list(settings()) == list(dotted(values)), "the schema has them in the file's order"
    load_params(FILE)


def test_docs_params_is_generated_from_the_schema():
    assert (ROOT / PAGE).read_text() == page(), "run python -m m2det.config.document"


def comments(text: str) -> dict[str, str]:
    """The comment of each key in a params.yaml: beside the value and below, or above a list."""
    found: dict[str, str] = {}
    section, key, above = "", "", ""
    for line in text.splitlines():
        before, _, said = line.partition("# ")
        name, colon, value = before.strip().partition(":")
        if colon and name.isidentifier():
            section = "" if not line.startswith(" ") else section
            key = f"{section}.{name}" if section else name
            if not (line.startswith(" ") or value.strip()):
                section = name
                continue
            found[key], above = f"{above}{said}", ""
        elif said and len(before) > 10:
            found[key] += f" {said}"
        elif said and before:
            above = f"{above} {said}".strip()
    return found


def test_the_comments_in_params_yaml_are_the_schemas_descriptions():
    said = comments(FILE.read_text())
    assert {key: " ".join(text.split()) for key, text in said.items()} == {
        key: comment(field) for key, field in settings().items()
    }


def test_every_choice_is_in_its_keys_description():
    for key, field in settings().items():
        kinds: list[Any] = [field.annotation, *get_args(field.annotation)]
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        assert field.description and all(str(choice) in field.description for choice in choices), key


@pytest.mark.parametrize("key", settings())
def test_dvc_changes_one_line_for_one_value(tmp_path, key):
    """As `dvc exp run -S` writes it; lists are blocks because DVC makes blocks of them."""
    path, before = tmp_path / "params.yaml", FILE.read_text()
    path.write_text(before)
    value = {"train.gammas": "[2.0, 0.5, 0.1, 0.01, 0.001]", "train.milestones": "[0.5, 0.6875, 0.8125, 0.9375]"}.get(
        key, "7"
    )
    apply_overrides(path, [f"{key}={value}"])
    lines = list(difflib.ndiff(before.splitlines(), path.read_text().splitlines()))
    assert [line[0] for line in lines if line[0] in "+-"] == ["-", "+"]
    assert default(settings()[key]) is not None


def test_writing_it_as_dvc_does_changes_nothing():
    yaml = YAML()
    out = io.StringIO()
    yaml.dump(yaml.load(FILE), out)
    assert out.getvalue() == FILE.read_text()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs: ", "epochs: '3' #", "epochs: input should be a valid integer, got '3'"),
        ("epochs: ", "#", "key 'epochs' is missing"),
        ("  lr: ", "  rate: 3\n  lr: ", "unknown key 'train.rate'"),
        ("  - 0.8125\n", "  - 1.5\n", "train.milestones.2: input should be less than 1, got 1.5"),
        ("  - 0.9375\n", "", "gammas needs one entry more"),
        ("  processes: ", "  processes: [1] #", "run.processes: input should be a valid integer"),
        ("  processes: ", "  processes: many #", "run.processes: input should be a valid integer, got 'many'"),
        ("  source: digits", "  source: coco", "source 'coco' needs"),
        ("  mirror: http:", "  mirror: ftp:", "data.mirror: takes an address that begins with http://"),
        ("  classes: []", "  classes: [{a: []}]", "data.classes: takes names and {new name: [names]}, not {'a': []}"),
        ("  classes: []", "  classes: [{a: [b], c: [d]}]", "data.classes: takes names and {new name: [names]}, not"),
        ("  label_smoothing: 0.0", "  label_smoothing: 0.1", "label_smoothing is for the objective multibox"),
        ("  patience: 0", "  patience: 3", "train.keep is 'final': set train.keep to 'best'"),
        ("epochs: ", "epochs: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, sentence):
    path = tmp_path / "params.yaml"
    path.write_text(FILE.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_params(path)
    assert sentence in str(error.value) and "\n" not in str(error.value)
