"""A run's own copy of the project: what others edit, and what they run, reaches no run, and no run reaches theirs.

The copy is a clone that borrows the working copy's git objects and DVC cache, in .dvc/tmp/runs/NAME/project. There
tasks.common.main_root finds the working copy, where unfinished trainings and the user's data lie.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from configobj import ConfigObj

from m2det.errors import InputError, explain_disk_errors
from m2det.files.hashing import digest
from m2det.files.locks import exclusive_writer_lock, locked

RUNS = Path(".dvc/tmp/runs")
OUTCOME = ("params.yaml", "dvc.lock", "results")  # what a run hands back, besides what DVC's cache holds
COMMITTED = ("params.yaml", "dvc.lock", "results/metrics.json")  # some of it
CODE = ("dvc.yaml", "setup.py", "m2det", "tasks")
BUILT = ("build/ops.json", "m2det/ops/*.so")  # made by the stage ops, in neither git nor DVC's cache
OF_RUN = r"-[0-9a-f]{8}(-\d{1,4})?"  # the end of a name, after the deployment's
USER = ("-c", "user.name=m2det", "-c", "user.email=m2det@localhost")  # a machine may have no name for git


@dataclass(frozen=True)
class RunCopy:
    """A copy of the working copy as it was when the run started.

    Attributes:
        name: of the run and of its experiment.
        folder: the copy.
        baseline: the working copy's commit.
        start: a commit in the copy, on top of the baseline: the working copy's files when the run started.
        hashes: of the files in `OUTCOME` and `CODE`, and of what the stage ops has built, when the run started.
    """

    name: str
    folder: Path
    baseline: str
    start: str
    hashes: dict[Path, str]

    def save(self, commit: str, name: str) -> None:
        """Make a commit of the copy an experiment of the working copy."""
        ref = f"refs/exps/{self.baseline[:2]}/{self.baseline[2:]}/{name}"  # DVC's names for experiments
        git(self.folder, "update-ref", ref, commit)
        # without tags: those that the user has deleted since would come back
        git(Path(), "fetch", "--no-tags", "--no-write-fetch-head", str(self.folder), f"{ref}:{ref}")

    def commit(self) -> str:
        """Commit the copy's outcome on top of the baseline, and return the commit."""
        git(self.folder, "add", "--all", "--", *(name for name in OUTCOME if (self.folder / name).exists()))
        git(self.folder, "reset", "--quiet", "--soft", self.baseline)
        return _commit(self.folder, self.name)


def experiment_name(deployment: str, run: str, attempt: int) -> str:
    """Return the name of a run's copy and experiment, such as `digits-1a2b3c4d`; git takes it for one.

    Args:
        deployment: its name.
        run: its id.
        attempt: counted from 1; a retry has the id of the run, but an experiment of its own: `digits-1a2b3c4d-2`.
    """
    return re.sub(r"[^\w-]+", "-", f"{deployment}-{run[:8]}") + f"-{attempt}" * (attempt > 1)


def require_repository() -> None:
    """Raise InputError where a run cannot make its copy, or could not commit its outcome."""
    if not Path(".git").exists():
        raise InputError(f"{Path.cwd()} is no git repository, but a run works in a clone; start from a clone, too")
    if not git(Path(), "rev-parse", "--quiet", "--verify", "HEAD", ok=(0, 1)):
        raise InputError(
            f"{Path.cwd()} has no commit, but a run's experiment is based on one; make it by "
            "`git add --all && git commit --message start`"
        )
    for line in git(Path(), "check-ignore", "--no-index", "--verbose", *COMMITTED, ok=(0, 1)).splitlines():
        rule, name = line.split("\t")
        pattern = rule.split(":", 2)[2]
        if not pattern.startswith("!"):
            raise InputError(
                f"git ignores {name}, which a run commits, by {rule} (file, line, pattern); remove that line, or write "
                f"the line !{pattern} into this project's .gitignore"
            )


@contextmanager
def run_copy(name: str) -> Iterator[RunCopy]:
    """Yield a new copy, which stays: `remove` is for runs that have ended well.

    Copies that earlier runs of the name have left are removed first.

    Args:
        name: by `experiment_name`.

    Raises:
        InputError: git or DVC refuses, or the disk is full.
    """
    of_name = re.compile(re.escape(re.sub(f"{OF_RUN}$", "", name)) + OF_RUN)
    with ExitStack() as held, explain_disk_errors(RUNS):
        with working_copy_in_use():
            for left in RUNS.iterdir():
                if of_name.fullmatch(left.name):
                    with suppress(InputError), locked(left):  # else its run is at work
                        shutil.rmtree(left)
            held.enter_context(locked(RUNS / name))
            copy = _copy(name, RUNS / name / "project")
        yield copy


def working_copy_in_use() -> AbstractContextManager[None]:
    """Return the lock of runs that read or write the working copy, or add or remove a copy; others wait for it."""
    return exclusive_writer_lock(RUNS)


def remove(copy: RunCopy) -> None:
    """Remove the copy of a run."""
    with working_copy_in_use():
        shutil.rmtree(copy.folder.parent)


def _copy(name: str, folder: Path) -> RunCopy:
    git(Path(), "clone", "--quiet", "--shared", "--no-checkout", ".", str(folder))
    git(folder, "reset", "--quiet")  # the index, without files
    baseline = git(folder, "rev-parse", "HEAD")
    # files that git does not know come along only where stages have their code and results: others may be large
    untracked = files(Path(), "--others", "--exclude-standard", "--", *OUTCOME, *CODE, "flows")
    for path in (*files(Path(), "--cached"), *untracked, *built(Path())):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / path, follow_symlinks=False)
    git(folder, "add", "--all")
    start = _commit(folder, f"the working copy when {name} started")
    if Path(".dvc/config.local").exists():
        shutil.copy2(".dvc/config.local", folder / ".dvc/config.local")
    # by DVC's own reader of this file: `dvc config` writes no path that is not ASCII
    config = ConfigObj(str(folder / ".dvc/config.local"), encoding="utf-8")
    config.setdefault("cache", {})["dir"] = dvc(Path(), "cache", "dir")
    config.write()
    if (folder / "dvc.lock").exists():
        dvc(folder, "checkout", "--allow-missing")
    return RunCopy(name, folder, baseline, start, shaping(folder))


def shaping(folder: Path) -> dict[Path, str]:
    """Return hashes of the files in `OUTCOME` and `CODE`, except those that git ignores, and of what ops has built."""
    listed = files(folder, "--cached", "--others", "--exclude-standard", "--", *OUTCOME, *CODE)
    return {path: digest((folder / path).read_bytes()) for path in (*listed, *built(folder))}


def files(folder: Path, *options: str) -> list[Path]:
    """Return the files that `git ls-files` lists with the options, as far as they exist, relative to the folder."""
    names = git(folder, "ls-files", "-z", *options).split("\0")
    return [Path(name) for name in dict.fromkeys(names) if (folder / name).is_file()]


def built(folder: Path) -> list[Path]:
    """Return what the stage ops has made, relative to the folder."""
    return [path.relative_to(folder) for pattern in BUILT for path in folder.glob(pattern)]


def git(folder: Path, *arguments: str, ok: Collection[int] = (0,)) -> str:
    """Return what a git command prints in the folder. Raises InputError with git's reason if it fails.

    Args:
        folder: to run in.
        arguments: of git.
        ok: exit codes that are no failure; 1 is the answer no of some commands.
    """
    return _output(["git", "-C", str(folder), *arguments], ok)


def dvc(folder: Path, *arguments: str) -> str:
    """Return what a DVC command prints in the folder. Raises InputError with DVC's reason if it fails."""
    return _output([sys.executable, "-m", "dvc", "--cd", str(folder), *arguments])


def _output(command: list[str], ok: Collection[int] = (0,)) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode not in ok:
        reason = _reason(os.fsdecode(done.stderr)) or f"exit code {done.returncode}"
        raise InputError(f"{' '.join(command[:6])} failed: {reason}")
    return os.fsdecode(done.stdout).strip("\n")


def _reason(printed: str) -> str:
    """Return the first line that git or DVC calls an error, with the next one if it ends in a colon.

    What follows are hints and links. Without such a line, return the last one.
    """
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    while len(lines) > 1 and not lines[0].startswith(("fatal: ", "error: ", "ERROR: ")):
        lines.pop(0)
    return " ".join(lines[: 1 + (lines[:1] != [] and lines[0].endswith(":"))])


def _commit(folder: Path, message: str) -> str:
    git(folder, *USER, "commit", "--quiet", "--allow-empty", "--no-verify", "--no-gpg-sign", "--message", message)
    return git(folder, "rev-parse", "HEAD")
