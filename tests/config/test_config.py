"""params.yaml: its keys are a public surface, and what is wrong in it ends in a sentence."""

import io
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from m2det.config import load_params
from m2det.errors import InputError

FILE = Path(__file__).parents[2] / "params.yaml"
KEYS = {
    "epochs": None,
    "seed": None,
    "run": {"device", "processes", "oversubscribe", "workers", "compile", "log_every", "save_every", "stop_grace"},
    "data": {"source", "root", "outside", "mirror", "train", "val"},
    "pack": {"verify", "images", "side", "quality"},
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
    },
    "precision": {"opt_level", "loss_scale", "dtype", "backend"},
    "evaluate": {"batch_size", "nms", "score_threshold", "nms_iou", "per_class", "per_image", "scorer"},
    "benchmark": {"batch_size", "warmup", "steps"},
}


def test_the_keys_are_these():
    found = YAML(typ="safe").load(FILE)
    assert {key: set(value) if isinstance(value, dict) else None for key, value in found.items()} == KEYS
    load_params(FILE)


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
        ("  milestones: ", "  milestones: [1.5] #", "train.milestones.0: input should be less than 1, got 1.5"),
        ("  milestones: ", "  milestones: [] #", "gammas needs one entry more"),
        ("  processes: ", "  processes: [1] #", "run.processes: input should be a valid integer"),
        ("  processes: ", "  processes: many #", "run.processes: input should be a valid integer, got 'many'"),
        ("  source: digits", "  source: coco", "source 'coco' needs"),
        ("  mirror: http:", "  mirror: ftp:", "data.mirror: takes an address that begins with http://"),
        ("epochs: ", "epochs: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, sentence):
    path = tmp_path / "params.yaml"
    path.write_text(FILE.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_params(path)
    assert sentence in str(error.value) and "\n" not in str(error.value)
