"""results/evaluation.json: which model, cache and detections the metrics beside it were computed from, and by what."""

from __future__ import annotations

import json
from pathlib import Path

from m2det.data.packed.reader import cache_digest
from m2det.files.hashing import file_sha256
from m2det.files.whole import write_whole

NAME, VERSION = "evaluation.json", 1
WRITTEN = ("detections.json", "metrics.json")  # in the same folder


def write_record(results: Path, model: Path, cache_digest: str, scorer: str) -> None:
    """Record what the detections and metrics in the folder `results`, which are written before, come from."""
    sha256 = {"model": file_sha256(model), "cache": cache_digest}
    sha256 |= {name: file_sha256(results / name) for name in WRITTEN}
    write_whole(results / NAME, json.dumps({"version": VERSION, "scorer": scorer, "sha256": sha256}, indent=2) + "\n")


def describe_record(results: Path, model: Path, cache: Path) -> str:
    """Say whether the metrics in the folder are of this model and this packed cache, if it is there.

    Returns "" where no evaluation is recorded in the folder.
    """
    path = results / NAME
    if not path.is_file():
        return ""
    try:
        record = json.loads(path.read_text())
        sha256, scorer = record["sha256"], record["scorer"]
        same_cache = not (cache / "manifest.json").exists() or cache_digest(cache) == sha256["cache"]
        changed = [name for name in WRITTEN if _sha256_or_none(results / name) != sha256[name]]
        same_model = file_sha256(model) == sha256["model"]
    except (ValueError, KeyError, TypeError):
        return f"{path} is damaged: run `dvc repro -f -s evaluate`"
    if changed:
        return f"{' and '.join(str(results / name) for name in changed)} changed since: run `dvc repro -f -s evaluate`"
    if not same_model:
        return f"{results / 'metrics.json'} is of ANOTHER model, sha256 {sha256['model']}"
    if not same_cache:
        return f"{results / 'metrics.json'} is of this model, but of ANOTHER packed cache, sha256 {sha256['cache']}"
    return f"{results / 'metrics.json'} is of this model, scored by {scorer}"


def _sha256_or_none(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None
