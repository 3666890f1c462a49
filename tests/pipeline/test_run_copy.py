"""A run's copy and its experiment, in working copies that are not like ours; runs that could not end are refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.run_copy import experiment_name, git, require_repository, run_copy
from m2det.errors import InputError
from tests.conftest import ROOT
from tests.pipeline.toy import Toy

AS = ("-c", "user.name=test", "-c", "user.email=test@localhost")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with a repository of the project's .gitignore files, without a commit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    git(tmp_path, "init", "--quiet")
    (tmp_path / "results").mkdir()
    for name in (".gitignore", "results/.gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, *AS, "commit", "--quiet", "--allow-empty", "--message", "a commit")


@pytest.mark.usefixtures("repository")
def test_a_repository_without_commits_is_refused():
    with pytest.raises(InputError, match=r" has no commit, .* `git add --all && git commit --message start`$"):
        require_repository()


def test_what_the_users_own_file_ignores_is_committed_all_the_same(repository):
    commit(repository)
    (repository / "mine").write_text("results/\n*.lock\n*.json\n*.csv\n")
    git(repository, "config", "core.excludesFile", str(repository / "mine"))
    require_repository()
    names = ["dvc.lock", *(f"results/{name}" for name in ("metrics.json", "train.json", "speed.json", "curves.csv"))]
    for name in (*names, "results/detections.json", "results/log.txt"):
        (repository / name).touch()
    git(repository, "add", "--all", "--", "dvc.lock", "results")
    assert sorted(git(repository, "diff", "--cached", "--name-only").splitlines()) == sorted(names)


@pytest.mark.parametrize(("pattern", "name"), [("results/", "results/metrics.json"), ("*.lock", "dvc.lock")])
def test_a_project_that_ignores_what_a_run_commits_is_refused(repository, pattern, name):
    (repository / ".gitignore").write_text(f"# mine\n{pattern}\n")
    commit(repository)
    with pytest.raises(InputError) as error:
        require_repository()
    assert str(error.value).startswith(f"git ignores {name}, which a run commits, by .gitignore:2:{pattern} (file")
    (repository / ".gitignore").write_text(f"{pattern}\n!{pattern}\n")
    require_repository()


def test_the_reason_of_git_is_told_without_the_hints_that_follow(repository, monkeypatch):
    commit(repository)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(InputError, match=r" failed: fatal: detected dubious ownership in repository at '[^']*'$"):
        require_repository()
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    with pytest.raises(InputError, match=r"rev-parse missing failed: fatal: ambiguous argument 'missing': "):
        git(repository, "rev-parse", "missing")
    (repository / ".gitignore").write_text("mine\n")
    (repository / "results/.gitignore").write_text("mine\n")
    git(repository, *AS, "stash", "--quiet")
    (repository / ".gitignore").write_text("other\n")
    with pytest.raises(InputError, match=r"failed: error: Your local changes .* by merge: \.gitignore$"):
        git(repository, "stash", "pop", "--quiet")


def test_a_retry_has_an_experiment_of_its_own():
    names = [experiment_name("m2det/8p v1", "0123abcd-4567", attempt) for attempt in (1, 2)]
    assert names == ["m2det-8p-v1-0123abcd", "m2det-8p-v1-0123abcd-2"]


@pytest.mark.slow
def test_experiments_of_one_run_stand_beside_each_other(tmp_path, monkeypatch):
    """Tags that were deleted meanwhile stay so."""
    toy = Toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "tag", "old")
    saved = {}
    for name in ("digits-0123abcd", "digits-0123abcd-2", "digits-00000000"):
        with run_copy(name) as copy:
            assert toy.copies() == [Path(tmp_path, copy.folder)], "that of the attempt before is removed"
            git(tmp_path, "tag", "--force", "old")
            (copy.folder / "params.yaml").write_text(f"name: {name}\n")
            saved[name] = copy.commit()
            git(tmp_path, "tag", "--delete", "old")
            copy.save(saved[name], name)
            assert git(tmp_path, "tag") == ""
    refs = git(tmp_path, "for-each-ref", "--format=%(refname:lstrip=4) %(objectname)", "refs/exps").splitlines()
    assert dict(line.split() for line in refs) == saved
    with pytest.raises(InputError, match=r" failed: ! \[rejected\] .* \(non-fast-forward\)$"):
        copy.save(copy.start, "digits-0123abcd")


@pytest.mark.slow
def test_a_run_works_in_a_folder_with_any_name(tmp_path, monkeypatch):
    folder = tmp_path / "Bl\u00fcte, \u65e5\u672c #1"
    folder.mkdir()
    Toy(folder)
    (folder / ".dvc/config.local").write_text("['remote \"mine\"']\n    url = /Bl\u00fcte\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    with run_copy("digits-0123abcd") as copy:
        shown = subprocess.run(
            [sys.executable, "-m", "dvc", "config", "--list"],
            cwd=copy.folder,
            capture_output=True,
            check=True,
            encoding="utf-8",
        ).stdout
    assert f"cache.dir={folder}/.dvc/cache\n" in shown and "remote.mine.url=/Bl\u00fcte\n" in shown
