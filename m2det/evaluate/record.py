"""The evaluation record results/evaluation.json: hashes of the model, cache, detections and metrics, and the scorer.

And the metrics with six decimals: results/metrics.json has three, so that DVC's tables fit a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from m2det.data.packed.reader import PackedSplit, cache_digest
from m2det.files.hashing import file_sha256
from m2det.files.whole import write_whole

NAME, VERSION = "evaluation.json", 1
OUTPUTS = ("detections.json", "metrics.json")  # in the same folder


def write_record(results: Path, model: Path, split: PackedSplit, scorer: str, metrics: Mapping[str, float]) -> None:
    """Write the record of an evaluation, after its detections and metrics.

    Args:
        results: The folder of detections, metrics and record.
        model: The model file.
        split: The images.
        scorer: hotcoco or pycocotools.
        metrics: COCO's 12 numbers, by name.
    """
    sha256 = {"model": file_sha256(model), "cache": cache_digest(split.folder)}
    sha256 |= {name: file_sha256(results / name) for name in OUTPUTS}
    exact = {name: round(value, 6) for name, value in metrics.items()}
    record = {"version": VERSION, "split": split.name, "scorer": scorer, "sha256": sha256, "metrics": exact}
    write_whole(results / NAME, json.dumps(record, indent=2) + "\n")


def describe_record(results: Path, model: Path, cache: Path) -> str:
    """Return a sentence as of compare_record.

    Returns:
        The sentence; empty if the folder has no record.
    """
    return compare_record(results, model, cache)[1] if (results / NAME).is_file() else ""


def compare_record(results: Path, model: Path, cache: Path) -> tuple[bool, str]:
    """Return whether the metrics in `results` are of this model and, if it exists, of this packed cache.

    Args:
        results: The folder of detections, metrics and record.
        model: The model file.
        cache: The packed cache; metrics of test images are compared with the cache `test` beside it.

    Returns:
        (whether they are, a sentence that says so or names what differs).
    """
    path = results / NAME
    if not path.is_file():
        return False, f"{path} is missing: run `dvc checkout evaluate`, or `dvc repro evaluate`"
    try:
        record = json.loads(path.read_text())
        sha256, scorer, split = record["sha256"], record["scorer"], record.get("split", "val")
        cache = cache.with_name("test") if split == "test" else cache
        same_cache = not (cache / "manifest.json").exists() or cache_digest(cache) == sha256["cache"]
        changed = [name for name in OUTPUTS if _sha256_or_none(results / name) != sha256[name]]
        same_model = file_sha256(model) == sha256["model"]
    except (ValueError, KeyError, TypeError):
        return False, f"{path} is damaged: run `dvc repro -f -s evaluate`"
    if changed:
        names = " and ".join(str(results / name) for name in changed)
        return False, f"{names} changed since: run `dvc repro -f -s evaluate`"
    if not same_model:
        return False, f"{results / 'metrics.json'} is of ANOTHER model, sha256 {sha256['model']}"
    if not same_cache:
        other = f"ANOTHER packed cache, sha256 {sha256['cache']}"
        return False, f"{results / 'metrics.json'} is of this model, but of {other}"
    images = ", on test images" if split == "test" else ""
    return True, f"{results / 'metrics.json'} is of this model{images}, scored by {scorer}"


def _sha256_or_none(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None
