"""What a run's page shows: progress while a stage runs; metrics, pictures and a summary at the end."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import cv2
import httpx
import numpy as np
import pytest
from prefect import flow, get_client, task
from prefect.artifacts import Artifact
from prefect.cache_policies import NO_CACHE

from flows import artifacts, pictures, progress
from flows.artifacts import RunEnd, StageEnd, show, summary
from flows.demo import show_drawn
from m2det.files.whole import write_whole
from m2det.progress import VARIABLE
from tests.conftest import ROOT

METRICS = {"AP": 0.5, "AP50": 0.75, "AP75": 0.6, "APs": -1.0, "APm": 0.4, "APl": 0.6, "AR1": 0.3}
SPEED = {
    "img_per_s": 61.5,
    "step_s_p50": 2.1,
    "processes": 8,
    "images_per_step": 128,
    "model": "m2det512-vgg16",
    "objective": "multibox",
    "precision": "float16",
    "device": "npu",
    "device_name": "Ascend910B2",
    "threads": 4,
    "load_average": 1.5,
}
JOB = """
import sys, time
from pathlib import Path
from m2det import progress
progress.FILE_SECONDS = 0.0
with progress.ImageProgress("packing train", 4, stage="pack", write=str) as job:
    job.advance(3)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.1)
"""


def results(folder: Path, **metrics: float) -> Path:
    """Write the results of a run, with pictures of noise, which no JPEG makes small."""
    drawn = folder / "results/pictures"
    drawn.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)
    for name in artifacts.PICTURES:
        cv2.imwrite(str(drawn / f"{name}.png"), noise)
    files = {
        "metrics.json": METRICS | metrics,
        "perf.json": {"img_per_s": {"loader": 900.0}},
        "performance.json": SPEED,
    }
    (folder / "results/plots").mkdir()
    (folder / "results/plots/classes.csv").write_text("class,AP\ncat,0.5\ndog,\n")
    for name, content in files.items():
        (folder / "results" / name).write_text(json.dumps(content))
    log = (
        "device cpu (old, 1 threads), processes (world size) 1\n" * 2
        + "device npu (Ascend910B2), processes (world size) 8"
    )
    (folder / "results/log.txt").write_text(log)
    return folder


def run_end(
    folder: Path, stages: tuple[str, ...] = ("train", "evaluate", "benchmark", "performance"), applied: bool = True
) -> RunEnd:
    ends = [StageEnd(name, "Completed", 61.0) for name in stages]
    said = "experiment Train-8p-1a2b3c4d, put into the working copy"
    place = Path("/where my/project")
    what = ("Train-8p-1a2b3c4d", "Train_8p", "digits", {"train.lr": 0.1}, "abc123")
    return RunEnd(*what, ends, folder, place, applied, said)


def test_a_summary_says_what_came_out_and_how_to_go_on(tmp_path):
    text = summary(run_end(results(tmp_path)))
    for line in (
        "| AP | 0.500 |",
        "| trained on | npu (Ascend910B2), 8 processes |",
        "| loader alone | 900 img/s |",
        '| overrides | `{"train.lr": 0.1}` |',
        "| model | `/where my/project/models/m2det.safetensors` |",
        "| train | Completed | 1:01 |",
        "cd '/where my/project'",
    ):
        assert f"\n{line}\n" in text, line
    assert "- 61.5 img/s training m2det512-vgg16" in text and "60.997 img/s with 8 processes" in text


def test_a_summary_of_a_run_that_was_not_applied_names_no_file_of_the_working_copy(tmp_path):
    """There they are those of another run."""
    text = summary(run_end(results(tmp_path), applied=False))
    assert "| AP | 0.500 |" in text and "m2det.safetensors" not in text and "/results" not in text
    commands = ("cd '/where my/project'", "m2det experiments", "dvc metrics diff HEAD Train-8p-1a2b3c4d")
    assert text.endswith("\n```sh\n" + "\n".join(commands) + "\n```\n")


def test_what_the_run_did_not_make_is_not_shown_as_its_own(tmp_path):
    """Its folder has the results of earlier runs, too."""
    text = summary(run_end(results(tmp_path), ("performance",)))
    assert "61.5 img/s" in text and "| AP |" not in text and "trained on" not in text and "loader" not in text


def test_pictures_are_small_whatever_they_show(tmp_path):
    results(tmp_path)
    data = pictures.small_jpeg(pictures.read_picture(tmp_path / "results/pictures/detections.png"))
    height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert len(data) <= pictures.MAX_BYTES and 300 < width <= pictures.WIDTH and abs(width - height * 4 / 3) < 2


@pytest.mark.slow
def test_a_page_shows_the_progress_and_the_end_of_a_run(tmp_path, monkeypatch):
    """On a server; a second run shows the change."""
    from prefect.testing.utilities import prefect_test_harness  # importing it takes seconds

    monkeypatch.setattr(progress, "SECONDS", 0.2)
    seen = []

    @task(cache_policy=NO_CACHE)
    def pack(folder: Path) -> None:
        with progress.progress_artifact("pack", folder) as variable:
            command = [sys.executable, "-c", JOB, str(folder / "go")]
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | variable)
            deadline = time.monotonic() + 60
            while not (shown := Artifact.get("pack-progress")) or shown.data == 100:
                assert time.monotonic() < deadline, "not in time"
                time.sleep(0.2)
            seen.append(shown)
            (folder / "go").touch()
            assert process.wait() == 0

    @flow
    def run(folder: Path) -> None:
        pack(folder)
        show(run_end(folder))
        show_drawn([folder / "results/pictures/detections.png"])

    with prefect_test_harness(server_startup_timeout=120):
        run(results(tmp_path / "first"))
        run(results(tmp_path / "second", AP=0.625))
        with get_client(sync_client=True) as client:
            shown = client.read_artifacts(limit=100)
    by_key: dict[str, list[Artifact]] = {}
    for artifact in sorted(shown, key=lambda artifact: artifact.created):
        by_key.setdefault(artifact.key, []).append(artifact)
    assert {key: len(found) for key, found in by_key.items()} == {
        "demo-pictures": 2,
        "pack-progress": 2,
        "train-8p-metrics": 2,
        "train-8p-pictures": 2,
        "train-8p-summary": 2,
    }
    assert (
        seen[0].data == 75 and seen[0].task_run_id and seen[0].description.startswith("packing train: 3 of 4 images, ")
    )
    assert by_key["pack-progress"][0].data == 100
    rows = {row["metric"]: row for row in json.loads(by_key["train-8p-metrics"][1].data)}
    assert rows["AP"] == {"metric": "AP", "value": 0.625, "last run": 0.5, "change": "+0.1250"}
    assert (
        rows["AP50"]["change"] == ""
        and rows["AP small"]["value"] == "no such objects"
        and (rows["AP/cat"]["value"], rows["AP/dog"]["value"]) == (0.5, "no such objects")
    )
    assert "AR1" not in rows
    assert by_key["train-8p-pictures"][0].data.count("](data:image/jpeg;base64,") == 3
    assert by_key["train-8p-summary"][0].data.startswith("# Train-8p-1a2b3c4d\n")


def test_an_api_that_is_away_is_told_once_and_ends_no_stage(tmp_path, monkeypatch):
    """When it is back, the progress ends where the stage has ended, though the next one runs."""
    said, refused, shown, back, done = [], [], [], Event(), Event()

    def create(percent: float, key: str, text: str) -> UUID:
        if not back.is_set():
            refused.append(percent)
            raise httpx.ConnectError("refused")
        shown.append((percent, key, text))
        done.set()
        return uuid4()

    class Log:
        def warning(self, text, *values):
            said.append(text % values)

    monkeypatch.setattr(progress, "SECONDS", 0.02)
    monkeypatch.setattr(progress, "LAST_UPDATE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "get_run_logger", Log)
    content = {"doing": "training", "done": 1, "total": 4, "unit": "steps", "img_s": 5.0, "eta_s": 61, "loss": 3.25}
    assert progress.describe(content) == "training: 1 of 4 steps, 5.00 img/s, eta 1:01, loss 3.250"
    with progress.progress_artifact("train", tmp_path) as variable:
        write_whole(Path(variable[VARIABLE]), json.dumps(content))
        while not said:
            time.sleep(0.01)
    with progress.progress_artifact("evaluate", tmp_path):
        while 100.0 not in refused:
            time.sleep(0.01)
        back.set()
        assert done.wait(10)
    assert said == ["the progress of train is not shown while the API fails: refused"]
    assert shown == [(100.0, "train-progress", "finished; training: 4 steps, 5.00 img/s at last, loss 3.250")]
