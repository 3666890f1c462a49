"""`m2det verify`: whether a model file, dvc.lock, the working copy, the packed cache and the metrics meet."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from m2det.errors import InputError
from m2det.files.hashing import file_sha256
from m2det.files.inputs import ABSENT, content_md5, flatten, select
from m2det.text import escape_unencodable_output, printable
from tasks.common import CACHE, MODEL, OPS_STAMP, PARAMS, RESULTS, evaluated_cache, params
from tasks.inputs import outs_of, path_of, read_stages, restore
from tasks.provenance import NAME

METRICS = RESULTS / "metrics.json"
DECIMALS, TOLERANCE = 3, 1e-3  # of a metric computed again: other devices and versions round differently


@dataclass(frozen=True)
class Difference:
    """One difference in words, with what to do; whether only code differs."""

    text: str
    code: bool = False


def differences(model: Path) -> list[Difference]:
    """Return how the model file differs from dvc.lock, the working copy, the packed cache and the metrics.

    Args:
        model: The model file.

    Raises:
        InputError: The file is missing, damaged, or not a model written by m2det.
    """
    from m2det.model.model_file import load_trained

    _, card = load_trained(model)
    if not card.get("deps"):
        advice = f"{model}: its card names no dependencies (of an earlier m2det, or converted): nothing to compare with"
        return [Difference(f"{advice}; a model that `dvc repro train` makes now has them")]
    lock = read_stages("dvc.lock")
    if "train" not in lock:
        return [Difference("dvc.lock has no stage train: `git checkout dvc.lock`, or `dvc repro` makes it")]
    return [*_file(model, lock), *_deps(card, lock), *_settings(card, lock), *_metrics(model, lock)]


def _file(model: Path, lock: dict[str, Any]) -> Iterator[Difference]:
    recorded = _md5_of_outs(lock).get(str(MODEL))
    if content_md5(model) != recorded:
        yield Difference(
            f"{model} is not the model that dvc.lock records (md5 {recorded}): `dvc checkout {MODEL}` brings that one, "
            "and a commit whose dvc.lock has this one is where it belongs"
        )
    beside = model.with_name(NAME)
    if beside.exists() and json.loads(beside.read_text()).get("model_sha256") != file_sha256(model):
        yield Difference(f"{beside} is of another model: `dvc checkout {beside}`, or remove it")


def _deps(card: dict[str, Any], lock: dict[str, Any]) -> Iterator[Difference]:
    """The model's dependencies against those of dvc.lock and of the working copy."""
    stages = read_stages("dvc.yaml")
    makers = {path_of(out): (name, out) for name, entry in stages.items() for out in outs_of(entry)}
    locked = _md5_of_deps(lock["train"])
    for path in sorted(card["deps"].keys() | locked.keys()):
        own, recorded = card["deps"].get(path), locked.get(path)
        now = content_md5(Path(path)) if Path(path).exists() else None
        if own == recorded == now:
            continue
        if path not in makers or (path == str(OPS_STAMP) and now):  # the stamp has the hashes of nms.pyx and setup.py
            yield Difference(f"{path}: other code than the model's: committed later, or edited", code=True)
        elif own != recorded:
            advice = f"`dvc checkout {MODEL}` brings the model of dvc.lock"
            yield Difference(f"{path}: the model is of {own}, dvc.lock of {recorded} (md5): {advice}")
        else:
            state = "differs from the one that the model was made from" if now else "is missing"
            yield Difference(f"{path} {state}: `{restore(path, *makers[path])}`, or `dvc pull {path}`")


def _settings(card: dict[str, Any], lock: dict[str, Any]) -> Iterator[Difference]:
    """The model's settings against those of dvc.lock and of params.yaml."""
    locked = flatten(lock["train"].get("params", {}).get(str(PARAMS), {}))
    keys = read_stages("dvc.yaml")["train"]["params"]
    for name, others in (("dvc.lock", locked), (str(PARAMS), _now(keys))):
        for key, own, other in _unequal(card["params"], others):
            advice = f"`dvc repro train` makes a model with it, `git checkout -- {name}` undoes an edit"
            yield Difference(f"{key} is {other!r} in {name}, but the model was trained with {own!r}: {advice}")


def _metrics(model: Path, lock: dict[str, Any]) -> Iterator[Difference]:
    """The metrics against the model, and what made them against dvc.lock and the working copy."""
    from m2det.evaluate.record import compare_record

    meets, sentence = compare_record(RESULTS, model, CACHE)
    if not meets:
        yield Difference(sentence)
    if "evaluate" not in lock:
        yield Difference("dvc.lock has no stage evaluate: `dvc repro evaluate`")
        return
    recorded = _md5_of_outs(lock).get(str(METRICS))
    if not METRICS.exists() or content_md5(METRICS) != recorded:
        advice = f"`git checkout -- {METRICS}` if that is committed, or `dvc repro evaluate`"
        yield Difference(f"{METRICS} is not the one that dvc.lock records (md5 {recorded}): {advice}")
    keys = read_stages("dvc.yaml")["evaluate"]["params"]
    for key, own, now in _unequal(flatten(lock["evaluate"].get("params", {}).get(str(PARAMS), {})), _now(keys)):
        yield Difference(f"{key} is {now!r} now, but {METRICS} was made with {own!r}: `dvc repro evaluate`")
    made = _md5_of_outs(lock)
    for path, md5 in _md5_of_deps(lock["evaluate"]).items():
        if path not in made and md5 != (content_md5(Path(path)) if Path(path).exists() else None):
            yield Difference(f"{path}: other code than the metrics': committed later, or edited", code=True)


def evaluate_again(model: Path) -> tuple[list[Difference], str]:
    """Evaluate the model in a temporary folder, by this machine's processes alone.

    Returns:
        (numbers that differ from results/metrics.json by more than TOLERANCE, a sentence on the largest difference).

    Raises:
        InputError: There are no metrics, or no packed cache; or the evaluation failed.
    """
    from m2det.data.packed.reader import PackedSplit
    from m2det.evaluate.metrics import NAMES, coco_scores
    from m2det.files.whole import temporary_folder
    from tasks.evaluate import run_detection

    if not METRICS.exists():
        raise InputError(f"{METRICS} is missing: nothing to compare with; `dvc repro evaluate` makes it")
    before = json.loads(METRICS.read_text())
    here = params().run.model_copy(update={"nodes": 1})
    with temporary_folder() as folder:
        run_detection(params().model_copy(update={"run": here}), model, folder / "detections.json")
        truth = PackedSplit(evaluated_cache(), params().evaluate.split).ground_truth
        scores = coco_scores(truth, folder / "detections.json", params().evaluate.scorer)
    now = {name: round(scores.metrics[name], DECIMALS) for name in NAMES}
    apart = {name: round(abs(now[name] - round(before[name], DECIMALS)), DECIMALS) for name in NAMES}
    found = [
        Difference(f"{name} is {before[name]} in {METRICS}, and {now[name]} now: `dvc repro -f -s evaluate`")
        for name in NAMES
        if apart[name] > TOLERANCE
    ]
    largest = max(apart.values())
    return found, f"evaluated again: AP {now['AP']}; the largest difference of {len(NAMES)} numbers is {largest:.2g}"


def _now(keys: list[str]) -> dict[str, Any]:
    return select(params().model_dump(mode="json"), keys)


def _unequal(own: dict[str, Any], others: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(own.keys() | others.keys()):
        if own.get(key, ABSENT) != others.get(key, ABSENT):
            yield key, own.get(key, ABSENT), others.get(key, ABSENT)


def _md5_of_deps(entry: dict[str, Any]) -> dict[str, str]:
    return {dep["path"]: dep["md5"] for dep in entry["deps"]}


def _md5_of_outs(lock: dict[str, Any]) -> dict[str, str]:
    return {out["path"]: out["md5"] for entry in lock.values() for out in outs_of(entry)}


def main(arguments: list[str]) -> int:
    """Print each difference, then the verdict; return the exit code that `m2det verify` documents."""
    from m2det.model.model_file import find_model

    escape_unencodable_output()
    parser = argparse.ArgumentParser("python -m tasks.verify")
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("model", type=Path)
    options = parser.parse_args(arguments)
    model = find_model(options.model)
    try:
        found, sentence = differences(model), ""
        if options.deep:
            more, sentence = evaluate_again(model)
            found += more
    except (InputError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except (ValueError, LookupError, TypeError, YAMLError) as error:
        files = f"dvc.lock, dvc.yaml, {model.with_name(NAME)} or {METRICS}"
        print(f"error: {files} is damaged ({printable(str(error))}): `git checkout` or `dvc checkout`", file=sys.stderr)
        return 2
    for difference in found:
        print(printable(difference.text))
    if sentence:
        print(sentence)
    print(_verdict(model, found))
    return 0 if not found else 1 if all(difference.code for difference in found) else 2


def _verdict(model: Path, found: list[Difference]) -> str:
    name = printable(shlex.quote(str(model)))
    if not found:
        metrics = json.loads(METRICS.read_text())
        return f"{name} meets dvc.lock, the working copy, {CACHE} and {METRICS} (AP {metrics['AP']})"
    if all(difference.code for difference in found):
        return f"{name}: only code differs; `git log` has what was committed since, and `dvc repro` trains with it"
    return f"{name}: {len(found)} differences"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
