"""The parameters, and the places of files, for every stage."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from m2det.config import Params, load_params
from m2det.distributed.shutdown import SHUTDOWN
from m2det.files.whole import write_whole

PARAMS = Path("params.yaml")
CACHE = Path("data/cache")
TEST = Path("data/test")  # the packed cache of test images: no training depends on it
UNFINISHED = Path("data/unfinished")  # of the main working copy: unfinished packs, and lists of files that failed:
BAD_IMAGES = "bad_images.txt"  # all that the last stage `data` or `pack` refused
LEFT_OUT = "left_out.txt"  # all that the last stage `data` left out
OPS_STAMP = Path("build/ops.json")
BACKBONE = Path("models/backbone.safetensors")
MODEL = Path("models/m2det.safetensors")
RESULTS = Path("results")
METRIC_DECIMALS = 3  # as in COCO's own tables: `dvc metrics show` fits a terminal, and less is noise of a training


@cache
def params() -> Params:
    """Return the checked parameters of ./params.yaml, read once per process; run.stop_grace becomes the process's."""
    loaded = load_params(PARAMS)
    SHUTDOWN.grace = loaded.run.stop_grace
    return loaded


def evaluated_cache() -> Path:
    """Return the packed cache that has the split `evaluate.split`."""
    return TEST if params().evaluate.split == "test" else CACHE


def main_root() -> Path:
    """Return the user's working copy, also when the stage runs in a copy of it that is removed some day.

    Files that must survive a failure and the user's own data lie in the working copy. A run of the flow works in
    .dvc/tmp/runs of it (flows.run_copy); `dvc exp run --temp` and `--queue` in .dvc/tmp/exps, with DVC_ROOT set.
    """
    root = Path(os.environ.get("DVC_ROOT") or ".").resolve()
    parts = root.parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] in ((".dvc", "tmp", "exps"), (".dvc", "tmp", "runs")):
            return Path(*parts[:i])
    return root


def write_json(path: Path, content: object) -> None:
    """Write a result. Raises InputError for a full disk."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def sources(stage: str) -> list[Path]:
    """Return the Python files among a stage's deps in dvc.yaml."""
    deps = YAML(typ="safe").load(Path("dvc.yaml"))["stages"][stage]["deps"]
    return [source for dep in deps for source in (Path(dep), *Path(dep).rglob("*.py")) if source.suffix == ".py"]
