"""results/evaluation.json: which model, cache and detections the metrics beside it were computed from, and by what."""

from __future__ import annotations

import json
from pathlib import Path

from m2det.unfinished import file_sha256

NAME, VERSION = "evaluation.json", 1
WRITTEN = ("detections.json", "metrics.json")  # in the same folder


def write_record(results: Path, model: Path, cache_digest: str, scorer: str) -> None:
    """Record what the detections and metrics in the folder `results` come from; the last file of an evaluation."""
    sha256 = {"model": file_sha256(model), "cache": cache_digest}
    sha256 |= {name: file_sha256(results / name) for name in WRITTEN}
    temporary = results / f"{NAME}.tmp"
    temporary.write_text(json.dumps({"version": VERSION, "scorer": scorer, "sha256": sha256}, indent=2) + "\n")
    temporary.replace(results / NAME)


def describe_record(results: Path, model: Path) -> str:
    """Say whether the metrics in the folder are this model's; "" where no evaluation is recorded there."""
    path = results / NAME
    if not path.is_file():
        return ""
    try:
        record = json.loads(path.read_text())
        sha256, scorer = record["sha256"], record["scorer"]
        changed = [name for name in WRITTEN if _sha256_or_none(results / name) != sha256[name]]
        same_model = file_sha256(model) == sha256["model"]
    except (ValueError, KeyError, TypeError):
        return f"{path} is damaged: run `dvc repro -f -s evaluate`"
    if changed:
        return f"{' and '.join(str(results / name) for name in changed)} changed since: run `dvc repro -f -s evaluate`"
    if not same_model:
        return f"{results / 'metrics.json'} is of ANOTHER model, sha256 {sha256['model']}"
    return f"{results / 'metrics.json'} is of this model, scored by {scorer}; sha256 of cache {sha256['cache']}"


def _sha256_or_none(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None
