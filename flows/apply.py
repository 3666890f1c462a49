"""Put a run's outcome into the working copy: params.yaml, dvc.lock and results, then what DVC's cache has for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from flows.run_copy import OUTCOME, RunCopy, built, dvc, files, git, shaping
from flows.settings import write_settings
from m2det.errors import InputError
from m2det.files.hashing import digest
from m2det.files.whole import write_whole
from m2det.files.yaml_file import read_yaml
from tasks.common import PARAMS


def apply(copy: RunCopy) -> None:
    """Make the working copy hold the outcome of a run; the section `run` of its params.yaml stays.

    Results that are in no commit and no experiment become an experiment first.

    Raises:
        InputError: the working copy is another than at the start, or in use; all is as before.
    """
    now = {path: digest(path.read_bytes()) for path in shaping()}
    if changed := sorted(path for path in now.keys() | copy.hashes if now.get(path) != copy.hashes.get(path)):
        raise InputError(f"{changed[0]} has changed since the run started")
    if process := _process_of_dvc():
        raise InputError(f"DVC runs a stage here, process {process}")
    if not _is_kept(copy):
        copy.save(copy.start, f"before-{copy.name}")
    write_settings(copy.folder / PARAMS, None, {"run": read_yaml(PARAMS)["run"]})
    before, after = _outcome(Path()), _outcome(copy.folder)
    try:
        _put({**dict.fromkeys(before), **after})
        dvc(Path(), "checkout", "--allow-missing")
    except BaseException:
        _put({**dict.fromkeys(after), **before})
        raise


def _is_kept(copy: RunCopy) -> bool:
    """Return whether a commit or an experiment has the working copy's results."""
    commits = [copy.baseline, *git(Path(), "for-each-ref", "--format=%(objectname)", "refs/exps").split()]
    results = OUTCOME[1:]
    wanted = git(copy.folder, "ls-tree", "-r", copy.start, "--", *results)
    return any(git(Path(), "ls-tree", "-r", commit, "--", *results) == wanted for commit in commits)


def _process_of_dvc() -> str:
    """Return the process that runs a stage in the working copy by DVC, or ""."""
    path = Path(".dvc/tmp/rwlock")  # DVC's list of files in use; a killed process stays in it
    processes = re.findall(r'"pid": (\d+)', path.read_text()) if path.exists() else []
    return next((process for process in processes if Path("/proc", process).exists()), "")


def _outcome(folder: Path) -> dict[Path, bytes]:
    listed = files(folder, "--cached", "--others", "--exclude-standard", "--", *OUTCOME)
    return {path: (folder / path).read_bytes() for path in (*listed, *built(folder))}


def _put(contents: Mapping[Path, bytes | None]) -> None:
    """Write files, or remove those whose content is None."""
    for path, content in contents.items():
        if content is None:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_bytes() != content:
            write_whole(path, content)
