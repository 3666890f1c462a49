"""What docs/experiments.md says of DVC: experiments in copies, two traps, and what makes nothing stale.

The project here is one of DVC's smallest, or this one with made-up outputs, so that no stage computes.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks.inputs import is_cached, outs_of, path_of
from tests.conftest import ROOT
from tests.pipeline.conftest import Clone, make_clone

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
DVC_YAML = """
stages:
  train:
    cmd: exec python train.py
    deps: [train.py, images.lmdb]
    params: [epochs]
    outs: [model]
"""
TRAIN = """
import json, os, time
from pathlib import Path
root = Path(os.environ["DVC_ROOT"])  # the working copy, in an experiment's copy, too
status = os.stat("images.lmdb")
(root / "seen.json").write_text(json.dumps([os.getcwd(), status.st_ino, status.st_nlink]))
while not (root / "go").exists():
    time.sleep(0.05)
Path("model").write_text(Path("params.yaml").read_text())
"""


def git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", message)


@pytest.fixture(scope="module")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project of one stage, which waits for the file `go`, committed, and its experiment `beside`, made in a copy."""
    tmp_path = tmp_path_factory.mktemp("small")
    git(tmp_path, "init", "-q", "-b", "main")
    made = Clone(tmp_path)
    made.run("dvc", "init", "-q")
    # links, also where the file system could share blocks: only links can be counted
    (tmp_path / ".dvc/config").write_text((ROOT / ".dvc/config").read_text().replace("reflink,", ""))
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "params.yaml").write_text("epochs: 1\n")
    (tmp_path / "notes.txt").write_text("first\n")
    (tmp_path / ".gitignore").write_text("/go\n/seen.json\n")
    (tmp_path / "images.lmdb").write_bytes(bytes(range(256)) * 4096)
    (tmp_path / "go").touch()
    made.run("dvc", "add", "-q", "images.lmdb")
    made.run("dvc", "repro", "-q")
    commit(tmp_path, "start")
    made.run("dvc", "exp", "run", "--temp", "--name", "beside", "-S", "epochs=2")
    return made


@pytest.fixture
def small(small_project: Clone) -> Iterator[Clone]:
    start = git(small_project.folder, "rev-parse", "main")
    yield small_project
    git(small_project.folder, "checkout", "--quiet", "--force", "-B", "main", start)
    small_project.run("dvc", "checkout", "--quiet", "--force")


def wait_until_it_trains(small: Clone, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not (small.folder / "seen.json").exists():
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_an_experiment_in_a_copy_takes_no_disk_and_touches_nothing(small):
    folder, inode, links = json.loads((small.folder / "seen.json").read_text())
    assert ".dvc/tmp/exps" in folder, "it ran in a copy"
    assert inode == (small.folder / "images.lmdb").stat().st_ino and links >= 3, "working copy, DVC's cache, the copy"
    assert not Path(folder).exists()
    assert git(small.folder, "status", "--short") == ""
    assert (small.folder / "params.yaml").read_text() == (small.folder / "model").read_text() == "epochs: 1\n"
    start = git(small.folder, "rev-parse", "HEAD")
    experiment = f"refs/exps/{start[:2]}/{start[2:]}/beside"
    assert git(small.folder, "show", f"{experiment}:params.yaml") == "epochs: 2"


@pytest.mark.slow
def test_a_commit_during_an_experiment_in_the_working_copy_is_on_no_branch(small):
    (small.folder / "go").unlink()
    (small.folder / "seen.json").unlink()
    running = small.start("dvc", "exp", "run", "--name", "here", "-S", "epochs=3")
    wait_until_it_trains(small, running)
    assert git(small.folder, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD", "detached"
    (small.folder / "notes.txt").write_text("written meanwhile\n")
    commit(small.folder, "meanwhile")
    made = git(small.folder, "rev-parse", "HEAD")
    (small.folder / "go").touch()
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert git(small.folder, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    assert git(small.folder, "branch", "--contains", made) == "" and made in git(small.folder, "reflog", "--format=%H")
    git(small.folder, "checkout", ".")
    git(small.folder, "-c", "user.name=test", "-c", "user.email=test@localhost", "cherry-pick", made)
    assert (small.folder / "notes.txt").read_text() == "written meanwhile\n"


@pytest.mark.slow
@pytest.mark.long
def test_an_experiment_that_is_killed_in_the_working_copy_leaves_head_detached(small):
    (small.folder / "go").unlink()
    (small.folder / "seen.json").unlink()
    running = small.start("dvc", "exp", "run", "-S", "epochs=4")
    wait_until_it_trains(small, running)
    running.kill()
    (small.folder / "go").touch()
    running.communicate(timeout=60)
    assert git(small.folder, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD"
    small.shell("git checkout . && git switch main && dvc checkout --force")
    assert git(small.folder, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    assert (small.folder / "model").read_text() == "epochs: 1\n"


@pytest.mark.slow
def test_apply_sets_back_every_tracked_file_and_keeps_what_it_replaced_until_the_next(small):
    notes = small.folder / "notes.txt"
    for text in ("edited", "edited again"):
        notes.write_text(text)
        small.run("dvc", "exp", "apply", "beside")
        assert notes.read_text() == "first\n"
        assert (small.folder / "model").read_text() == "epochs: 2\n"
        assert git(small.folder, "show", "refs/exps/apply/stash:notes.txt") == text


def test_reading_the_settings_trains_nothing_again():
    """A new key anywhere in params.yaml changes m2det/config, on which no model may depend."""
    for stage in ("weights", "train"):
        assert not [dep for dep in STAGES[stage]["deps"] if Path("m2det/config").is_relative_to(dep) or "config" in dep]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Clone:
    """A clone whose dvc.lock and DVC cache have made-up outputs of each stage, all committed."""
    made = make_clone(tmp_path_factory.mktemp("recorded"))
    for stage in STAGES.values():
        for out in outs_of(stage):
            path = made.folder / path_of(out)
            path = path if path.suffix else path / "made-up.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path.name}\n" if path.suffix != ".json" else '{"files": {}}\n')
    stamp = "from tasks import ops; ops.write_whole(ops.OPS_STAMP, ops._stamp())"
    subprocess.run([sys.executable, "-c", stamp], cwd=made.folder, check=True)
    made.run("flows.annotations")  # runs at every `dvc repro`: its record must be the true one
    made.run("dvc", "commit", "--force", "--quiet")
    commit(made.folder, "results")
    return made


def stale(clone: Clone, *stages: str) -> set[str]:
    return set(json.loads(clone.run("dvc", "status", "--json", *stages).stdout)) - {"annotations"}  # always changed


@pytest.mark.slow
def test_a_new_key_of_the_evaluation_evaluates_again_and_trains_nothing(recorded):
    schema, params = recorded.folder / "m2det/config/sections/evaluate.py", recorded.folder / "params.yaml"
    before = schema.read_text(), params.read_text()
    assert stale(recorded) == set()
    schema.write_text(before[0].replace("    per_class: ", "    new_key: int = 1\n    per_class: ", 1))
    params.write_text(before[1].replace("  per_class: ", "  new_key: 2\n  per_class: ", 1))
    try:
        check = "from m2det.config import load_params; print(load_params('params.yaml').evaluate.new_key)"
        done = subprocess.run([sys.executable, "-c", check], cwd=recorded.folder, capture_output=True, text=True)
        assert done.stdout == "2\n", done.stderr
        assert stale(recorded) == {"evaluate"}
    finally:
        schema.write_text(before[0])
        params.write_text(before[1])


@pytest.mark.slow
def test_a_harmless_edit_is_recorded_without_training(recorded):
    source = recorded.folder / "m2det/loss/multibox.py"
    before = source.read_text()
    source.write_text(before + "# a comment\n")
    edited = {"train", "benchmark", "performance"}
    assert stale(recorded) == edited
    recorded.run("dvc", "commit", "--force", *edited)
    try:
        assert stale(recorded) == set()
        assert git(recorded.folder, "status", "--short").split() == ["M", "dvc.lock", "M", "m2det/loss/multibox.py"]
    finally:
        git(recorded.folder, "checkout", ".")


@pytest.mark.slow
def test_whoever_takes_the_results_runs_only_ops(recorded, tmp_path):
    recorded.run("dvc", "remote", "add", "--default", "team", str(tmp_path / "store"))
    recorded.run("dvc", "push", "--quiet")
    commit(recorded.folder, "a remote")
    git(tmp_path, "clone", "--quiet", str(recorded.folder), "taken")
    taken = Clone(tmp_path / "taken")
    shutil.move(recorded.folder / ".dvc/cache", tmp_path / "away")  # what it takes comes from the remote
    try:
        taken.run("dvc", "pull", "--quiet")
    finally:
        shutil.move(tmp_path / "away", recorded.folder / ".dvc/cache")
    ran = [line for line in taken.run("dvc", "repro").stdout.splitlines() if line.startswith("Running stage ")]
    assert ran == ["Running stage 'annotations':", "Running stage 'ops':"], "the first looks at files at every start"
    assert git(taken.folder, "status", "--short") == ""
    for stage in STAGES.values():
        for out in outs_of(stage):
            if is_cached(out):
                assert (taken.folder / path_of(out)).exists(), out
