"""What every stage needs: the parameters, and where files lie."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from m2det.config import Params, load_params
from m2det.data.sources.manifest import Roots, roots_of
from m2det.distributed.grace import SHUTDOWN

PARAMS = Path("params.yaml")
CACHE = Path("data/cache")
OPS_STAMP = Path("build/ops.json")
BACKBONE = Path("models/backbone.safetensors")
MODEL = Path("models/m2det.safetensors")
RESULTS = Path("results")


@cache
def params() -> Params:
    """params.yaml of the folder the stage runs in, checked; read once per process, which has its stop_grace to end."""
    read = load_params(PARAMS)
    SHUTDOWN.grace = read.run.stop_grace
    return read


def main_root() -> Path:
    """The user's own working copy, also when the stage runs in an experiment's temporary copy of it.

    DVC deletes that copy when a run fails, so what must survive a failure lies under this folder.
    DVC sets DVC_ROOT to it in `dvc exp run --temp` and `--queue` runs; elsewhere it is where we are.
    """
    here = Path(os.environ.get("DVC_ROOT") or ".").resolve()
    parts = here.parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:i])
    return here


def roots() -> Roots:
    """Where annotation files and images are found."""
    return roots_of(params().data, main_root())


def sources(stage: str) -> list[Path]:
    """The Python files among a stage's deps in dvc.yaml, the one list of what shapes its result."""
    deps = YAML(typ="safe").load(Path("dvc.yaml"))["stages"][stage]["deps"]
    return [source for dep in deps for source in (Path(dep), *Path(dep).rglob("*.py")) if source.suffix == ".py"]
