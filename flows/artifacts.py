"""What a run's page shows at its end: a summary, the metrics beside those of the run before, and pictures."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import Artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.pictures import inline_jpeg, read_picture
from flows.progress import API_ERRORS
from m2det.progress import minutes
from m2det.text import undefined_note
from tasks.common import MODEL, RESULTS

NAMES = {"APs": "AP small", "APm": "AP medium", "APl": "AP large"}  # of metrics.json; the others are their own
SHOWN = ("AP", "AP50", "AP75", *NAMES)
RESULT_OF = {
    "train": "log.txt",
    "evaluate": "metrics.json",
    "benchmark": "perf.json",
    "performance": "performance.json",
}
PICTURES = ("detections", "learning_curve", "precision_recall")  # of results/pictures


@dataclass(frozen=True)
class StageEnd:
    """How a stage of a run has ended: its name, its state such as Completed, and how many seconds it took."""

    name: str
    state: str
    seconds: float


@dataclass(frozen=True)
class RunEnd:
    """What a run was, and where its results are.

    Attributes:
        name: of its experiment.
        deployment: its name.
        recipe: None for params.yaml as it was.
        overrides: by key.
        commit: with the results.
        stages: that ended well.
        folder: has the results now.
        place: the working copy.
        applied: whether the working copy has them, too; else `outcome` has the command that puts them there.
        outcome: the run's message.
    """

    name: str
    deployment: str
    recipe: str | None
    overrides: Mapping[str, Any]
    commit: str
    stages: Sequence[StageEnd]
    folder: Path
    place: Path
    applied: bool
    outcome: str

    def has(self, stage: str) -> bool:
        """Whether the results have what this stage of the run has made."""
        ran = any(end.name == stage for end in self.stages)
        return ran and (self.folder / RESULTS / RESULT_OF[stage]).exists()


@task(name="show", task_run_name="show", cache_policy=NO_CACHE, persist_result=False)
def show(run: RunEnd) -> None:
    """Create the artifacts of a run that has ended well, of what its stages have made.

    An API that does not answer is told in the log, and takes no result from the run.
    """
    if run.has("evaluate"):
        metrics_artifact(run.folder, run.deployment)
        pictures_artifact(run)
    summary_artifact(run)


def metrics_artifact(folder: Path, deployment: str) -> None:
    """Show AP in all and by class as a table with the change against the last table of the deployment.

    Args:
        folder: with the results.
        deployment: its name; the artifact is DEPLOYMENT-metrics, whose page has those of all its runs.
    """
    metrics = _read(folder, "metrics.json")
    key = f"{_slug(deployment)}-metrics"
    with api_errors_told(key):
        last = Artifact.get(key)
        assert not isinstance(last, Coroutine)  # one only in an event loop
        before = {row["metric"]: row["value"] for row in json.loads(str(last.data))} if last else {}
        table = [_row(NAMES.get(name, name), metrics[name], before) for name in SHOWN]
        table += [_row(f"AP/{name}", ap, before) for name, ap in _class_ap(folder).items()]
        note = undefined_note(metrics["AP"])
        create_table_artifact(table, key, f"AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}{note}")


def _class_ap(folder: Path) -> dict[str, float]:
    with (folder / RESULTS / "plots" / "classes.csv").open(encoding="utf-8", newline="") as file:
        return {row["class"]: float(row["AP"] or -1) for row in csv.DictReader(file)}


def _row(name: str, value: float, before: Mapping[str, float | str]) -> dict[str, Any]:
    if value == -1:  # pycocotools' mark
        return {"metric": name, "value": "no such objects", "last run": before.get(name, ""), "change": ""}
    value, last = round(value, 4), before.get(name, "")
    change = f"{value - last:+.4f}" if isinstance(last, float) and value != last else ""
    return {"metric": name, "value": value, "last run": last, "change": change}


def pictures_artifact(run: RunEnd) -> None:
    """Show the sheet of detections and the curves of results/pictures, small, in the artifact DEPLOYMENT-pictures."""
    key = f"{_slug(run.deployment)}-pictures"
    since = "" if run.applied else f", once experiment `{run.name}` is in the working copy"
    parts = [f"The files in their full size: `results/pictures`; all in one page: `results/report.html`{since}"]
    for name in PICTURES:
        picture = read_picture(run.folder / RESULTS / "pictures" / f"{name}.png")
        parts.append(f"## {name.replace('_', ' ').capitalize()}\n\n{inline_jpeg(picture, name)}")
    with api_errors_told(key):
        create_markdown_artifact("\n\n".join(parts), key, "detections and curves")


def summary_artifact(run: RunEnd) -> None:
    """Show `summary` in the artifact DEPLOYMENT-summary."""
    key = f"{_slug(run.deployment)}-summary"
    with api_errors_told(key):
        create_markdown_artifact(summary(run), key, run.outcome)


def summary(run: RunEnd) -> str:
    """Return as Markdown what a run was, what came out, how long its stages took, and the commands to look further."""
    place = run.place.absolute()
    facts: dict[str, str] = {}
    if run.has("evaluate"):
        metrics = _read(run.folder, "metrics.json")
        facts |= {"AP": f"{metrics['AP']:.3f}{undefined_note(metrics['AP'])}", "AP50": f"{metrics['AP50']:.3f}"}
    if run.has("train"):
        facts["trained on"] = _device(run.folder / RESULTS / "log.txt")
    if run.has("benchmark"):
        rates = _read(run.folder, "perf.json")["img_per_s"]
        facts |= {f"{name} alone": f"{rate:g} img/s" for name, rate in rates.items()}
    facts |= {
        "recipe": f"`{run.recipe}`" if run.recipe else "none: params.yaml as it was",
        "overrides": f"`{json.dumps(dict(run.overrides))}`" if run.overrides else "none",
        "outcome": run.outcome,
        "commit": f"`{run.commit}`",
    }
    look = ["m2det experiments"]
    if run.applied:
        facts |= {"model": f"`{place / MODEL}`", "results": f"`{place / RESULTS}`"}
        look += ["dvc metrics diff", f"m2det info {MODEL}", f"m2det detect IMAGE --weights {MODEL} --out drawn"]
    else:
        look += [f"dvc metrics diff HEAD {run.name}"]
    table = "".join(f"| {name} | {_cell(fact)} |\n" for name, fact in facts.items())
    stages = "".join(f"| {stage.name} | {stage.state} | {minutes(stage.seconds)} |\n" for stage in run.stages)
    speed = "".join(f"- {line}\n" for line in _speed(run.folder)) if run.has("performance") else ""
    return (
        f"# {run.name}\n\n|  |  |\n|---|---|\n{table}\n"
        + f"## Speed of training\n\n{speed}\n" * bool(speed)
        + f"## Stages\n\n| stage | state | minutes:seconds |\n|---|---|---|\n{stages}\n"
        + "\n".join(["## Look further\n\n```sh", f"cd {shlex.quote(str(place))}", *look, "```\n"])
    )


def _cell(text: str) -> str:
    """Return text for a table's cell, where a bar would begin another."""
    return text.replace("|", r"\|")


def _device(log: Path) -> str:
    """Return what the last start of a training wrote on its device and processes into its log."""
    device, processes = re.findall(r"^device (.+?), processes \(world size\) (\d+)", log.read_text(), re.MULTILINE)[-1]
    return f"{device}, {processes} {'process' if processes == '1' else 'processes'}"


def _speed(folder: Path) -> list[str]:
    from m2det.bench.throughput import compare  # imports torch

    return compare(_read(folder, "performance.json")).splitlines()


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / RESULTS / name).read_text())


def _slug(name: str) -> str:
    """Return a name as Prefect wants a key."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@contextmanager
def api_errors_told(key: str) -> Iterator[None]:
    """Log a warning where the API does not take the artifact of this key."""
    try:
        yield
    except API_ERRORS as error:
        get_run_logger().warning("the artifact %s is not shown, since the API fails: %s", key, error)
