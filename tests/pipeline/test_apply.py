"""Putting the outcome of a run into the working copy: all of it, or nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.apply import apply, command_to_apply
from flows.run_copy import git, run_copy
from flows.settings import write_settings
from m2det.errors import InputError
from tests.pipeline.toy import Toy

pytestmark = pytest.mark.slow


# what is kept comes into the working copy in test_prefect.py, too
@pytest.mark.parametrize("lost", [pytest.param(False, marks=pytest.mark.long), True], ids=["kept", "lost"])
def test_results_that_dvc_has_lost_leave_the_working_copy_as_it_was(tmp_path, monkeypatch, lost):
    toy = Toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    before = toy.state()
    with run_copy("digits-0123abcd") as copy:
        write_settings(copy.folder / "params.yaml", None, {"epochs": 5})
        dvc = [sys.executable, "-m", "dvc", "--cd", str(copy.folder), "repro", "--single-item", "data"]
        subprocess.run(dvc, check=True, capture_output=True)
        copy.save(copy.commit(), copy.name)
        if lost:
            shutil.rmtree(tmp_path / ".dvc/cache/files")
            with pytest.raises(InputError, match=r"dvc --cd \. checkout .*failed: "):
                apply(copy)
            assert toy.state() == before
        else:
            apply(copy)
            assert (tmp_path / "data.txt").read_text() == "5\n"


def test_a_shallow_clone_takes_one_outcome_after_the_other(tmp_path, monkeypatch):
    """Its copies have no experiments: git lends no objects of such a clone."""
    toy = Toy(tmp_path / "toy")
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{toy.folder}", tmp_path / "clone"], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    for epochs in (5, 6):
        with run_copy(f"digits-0123abc{epochs}") as copy:
            write_settings(copy.folder / "params.yaml", None, {"epochs": epochs})
            copy.save(copy.commit(), copy.name)
            apply(copy)
        assert f"\nepochs: {epochs} " in Path("params.yaml").read_text()
    assert len(git(Path(), "for-each-ref", "refs/exps").splitlines()) == 2, "each outcome is kept once"


def test_the_command_of_an_outcome_that_was_not_applied_keeps_what_it_replaces(tmp_path, monkeypatch):
    """Edits of a file that git knows, and results that it does not know."""
    Toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    params, metrics = Path("params.yaml"), Path("results/metrics.json")
    with run_copy("digits-0123abcd") as copy:
        write_settings(copy.folder / params, None, {"epochs": 5})
        (copy.folder / "results").mkdir()
        (copy.folder / metrics).write_text("5")
        commit = copy.commit()
        copy.save(commit, copy.name)
    write_settings(params, None, {"epochs": 7})
    edited = params.read_bytes()
    for mine in ("", "7"):
        if mine:
            metrics.write_text(mine)
        subprocess.run(["bash", "-c", command_to_apply(copy, commit)], check=True, capture_output=True)
        assert "\nepochs: 5 " in params.read_text() and metrics.read_text() == "5"
        if not mine:
            assert git(tmp_path, "show", "stash@{0}:params.yaml").encode() + b"\n" == edited
    assert git(tmp_path, "show", f"stash@{{0}}^3:{metrics}") == "7"
