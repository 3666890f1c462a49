"""docs/experiments.md, told by its own commands: each shell block runs as it stands, in the page's order."""

import json
import re
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.pipeline.conftest import SHORT, Clone, make_clone

PAGE = (ROOT / "docs/experiments.md").read_text()
IMAGES = 24
LOOKS = ["annotations"]  # the stage that looks at your files at every start


def block(begin: str, page: str = PAGE) -> str:
    """Return the shell block of the page that begins with these words."""
    [found] = [text for text in re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S) if text.startswith(begin)]
    return found


def git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def small_images(folder: Path) -> None:
    """Write a data set of a few images in COCO's format."""
    (folder / "images").mkdir(parents=True)
    ids = range(1, IMAGES + 1)
    for i in ids:
        cv2.imwrite(str(folder / f"images/{i}.jpg"), np.random.default_rng(i).integers(0, 255, (64, 80, 3), np.uint8))
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 64} for i in ids],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [5, 5, 30, 40], "area": 1200} for i in ids],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "a.json").write_text(json.dumps(content))


class Story:
    """A working copy whose git remote is a bare repository, and a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / ".gitconfig").write_text("[user]\nname = test\nemail = test@localhost\n")
        made = make_clone(folder / "made")
        small_images(made.folder / "own")
        made.edit(SHORT | {"  processes: ": "  processes: 1"})
        split = "[{annotations: a.json, images: images}]"
        data = {"  source: digits": "  source: coco", "  root: ": "  root: own"}
        made.edit(data | {"  train: []": f"  train: {split}", "  val: []": f"  val: {split}"})
        params = (made.folder / "params.yaml").read_text()
        train = "train:\n  batch_size: 4\n  microbatch: 4\n"
        assert train in params
        (made.folder / "params.yaml").write_text(params.replace(train, "train:\n  batch_size: 16\n  microbatch: 8\n"))
        made.shell("git add -A && git commit -qm data")
        git(folder, "clone", "-q", "--bare", "made", "origin.git")
        git(folder, "clone", "-q", "origin.git", "project")
        self.clone = Clone(folder / "project")

    def tell(self, begin: str) -> str:
        """Run the page's block that begins with these words; return what it prints."""
        done = self.clone.shell(f"set -e\n{block(begin)}")
        return done.stdout + done.stderr

    def state(self) -> tuple[str, str, bytes]:
        """Return what git says of the files, the branch, and params.yaml."""
        folder = self.clone.folder
        return git(folder, "status", "--short"), git(folder, "branch"), (folder / "params.yaml").read_bytes()

    def stale(self) -> set[str]:
        return set(json.loads(self.clone.run("dvc", "status", "--json").stdout)) - {*LOOKS}

    def ran(self, printed: str) -> list[str]:
        return re.findall(r"^Running stage '(\w+)':", printed, re.M)


def wait_for_queue(clone: Clone) -> dict[str, str]:
    """Return the state of each queued experiment once none is waiting or at work."""
    deadline = time.monotonic() + 900
    while True:
        lines = clone.run("dvc", "queue", "status").stdout.splitlines()
        states = {line.split()[1]: line.split()[-1] for line in lines if re.match("[0-9a-f]{7} ", line)}
        if not {"Queued", "Running"} & set(states.values()):
            return states
        assert time.monotonic() < deadline, lines
        time.sleep(1)


def interrupt_a_training(clone: Clone) -> None:
    """`dvc repro` with another seed, and Ctrl-C once it trains."""
    clone.edit({"seed: ": "seed: 7"})
    process = clone.start("dvc", "repro")
    deadline = time.monotonic() + 300
    while not list((clone.folder / "models/unfinished").glob("*/inputs")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=180)
    assert git(clone.folder, "status", "--short"), "settings and results are not those of the commit"


@pytest.mark.slow
@pytest.mark.long
def test_the_story_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    story = Story(tmp_path)
    clone = story.clone
    story.tell("dvc repro\ngit add")
    assert git(clone.folder, "status", "--short") == ""
    first = (clone.folder / "models/m2det.safetensors").read_bytes()

    assert "pack" not in story.ran(story.tell("dvc exp run --name longer"))
    compared = story.tell("dvc metrics diff")
    assert re.search(r"params.yaml +epochs +1 +2", compared), compared
    story.tell('git add dvc.lock params.yaml results && git commit -m "Two')
    assert git(clone.folder, "status", "--short") == ""
    kept = (clone.folder / "models/m2det.safetensors").read_bytes()
    assert kept != first

    interrupt_a_training(clone)
    story.tell("git checkout . && dvc checkout")
    assert (clone.folder / "models/m2det.safetensors").read_bytes() == kept
    assert story.ran(clone.run("dvc", "repro").stdout) == LOOKS

    before = story.state()
    assert before[0] == ""
    story.tell("dvc exp run --temp")
    assert story.state() == before
    story.tell("dvc exp run --queue")
    assert wait_for_queue(clone) == dict.fromkeys(("half-steps", "milestones", "resnet"), "Success")
    assert story.state() == before
    assert story.ran(clone.run("dvc", "repro").stdout) == LOOKS
    for name in ("half-steps", "milestones", "resnet"):
        logs = clone.run("dvc", "queue", "logs", name).stdout
        assert "pack" not in story.ran(logs) and "was built from the same sources before" in logs, logs
    params = json.loads(clone.run("dvc", "exp", "show", "--json").stdout)
    values = {e["name"]: e["revs"][0]["data"]["params"]["params.yaml"]["data"] for e in params[1]["experiments"]}
    assert values["half-steps"]["train"]["batch_size"] == 8
    assert values["milestones"]["train"]["milestones"] == [0.5, 0.75]
    assert values["resnet"]["model"] | {"sfam": True} == {
        "name": "m2det320-resnet18",
        "sfam": True,
        "overrides": {"levels": 2},
    }
    shown = story.tell("dvc queue status")
    assert all(name in shown for name in ("half-steps", "milestones", "resnet", "seed-50"))

    story.tell("dvc exp apply half-steps")
    assert git(clone.folder, "status", "--short") == "" and story.stale() == set()

    story.tell("dvc remote add --default team ~")
    printed = story.tell("git clone")
    assert story.ran(printed) == [*LOOKS, "ops"], printed
    taken = story.home / "m2det-taken"
    model = "models/m2det.safetensors"
    assert (taken / model).read_bytes() == (clone.folder / model).read_bytes()
    assert git(taken, "log", "--format=%s") == git(clone.folder, "log", "--format=%s")

    printed = story.tell('echo "# a comment"')
    assert re.search(r"modified: +m2det/loss", printed), printed
    assert story.ran(clone.run("dvc", "repro").stdout) == LOOKS
    assert git(clone.folder, "status", "--short") == ""


def test_every_command_of_the_page_is_told():
    """Blocks that the tests do not run would stand here; the last one needs a server of S3's protocol."""
    begins = re.findall(r"^```sh\n(.*)$", PAGE, re.M)
    code = Path(__file__).read_text() + (ROOT / "tests/pipeline/test_s3.py").read_text()
    told = re.findall(r"(?:tell|block)\((['\"])(.+?)\1", code)
    texts = [text.replace("\\n", "\n").partition("\n")[0] for _, text in told]
    assert [line for line in begins if not any(line.startswith(text) for text in texts)] == []
