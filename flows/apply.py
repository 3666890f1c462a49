"""Put a run's outcome into the working copy: params.yaml, dvc.lock and results, then what DVC's cache has for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.run_copy import OUTCOME, RunCopy, built, dvc, files, git, shaping, working_copy_in_use
from flows.settings import write_settings
from m2det.errors import InputError
from m2det.files.whole import write_whole
from m2det.files.yaml_file import read_yaml
from tasks.common import PARAMS


def apply(copy: RunCopy) -> None:
    """Make the working copy hold the outcome of a run; the section `run` of its params.yaml stays.

    Settings and results that are in no commit and no experiment become an experiment first.

    Raises:
        InputError: the working copy is another than at the start, or in use; all is as before.
    """
    with working_copy_in_use():
        now = shaping(Path())
        if changed := sorted(path for path in now.keys() | copy.hashes if now.get(path) != copy.hashes.get(path)):
            raise InputError(f"{changed[0]} has changed since the run started")
        if process := _process_of_dvc():
            raise InputError(f"DVC runs a stage here, process {process}")
        if not _is_kept(copy):
            copy.save(copy.start, f"before-{copy.name}")
        mine = {"run": read_yaml(PARAMS)["run"]}
        write_settings(copy.folder / PARAMS, None, mine)
        before, after = _outcome(Path()), _outcome(copy.folder)
        made = [str(out) for out in _outputs(copy.folder) if (copy.folder / out).exists()]
        try:
            _put({**dict.fromkeys(before), **after})
            dvc(Path(), "checkout", "--allow-missing")  # what this run did not make may be missing
            if made:
                dvc(Path(), "checkout", *made)  # and what it made may not
        except BaseException:
            _put({**dict.fromkeys(after), **before})
            with suppress(InputError):  # the first one is told
                dvc(Path(), "checkout", "--allow-missing")
            raise


def command_to_apply(copy: RunCopy, commit: str) -> str:
    """Return a command that makes the working copy hold an outcome whatever it is like; git's stash has what was there.

    Args:
        copy: of the run.
        commit: the run's experiment.
    """
    here = [name for name in OUTCOME if files(Path(), "--cached", "--others", "--exclude-standard", "--", name)]
    made = [name for name in OUTCOME if git(copy.folder, "ls-tree", commit, "--", name)]
    return (
        f"git stash push --include-untracked -- {' '.join(here)} && "  # refuses a name that is not there
        f"git restore --source={commit[:12]} -- {' '.join(made)} && dvc checkout --allow-missing"
    )


def _is_kept(copy: RunCopy) -> bool:
    """Return whether a commit or an experiment has the working copy's settings, but for `run`, and its results."""
    commits = [copy.baseline, *git(Path(), "for-each-ref", "--format=%(objectname)", "refs/exps").split()]
    wanted = _kept_by(copy.folder, copy.start)
    return any(_kept_by(Path(), commit) == wanted for commit in commits)  # a shallow clone's copy has no experiments


def _kept_by(folder: Path, commit: str) -> tuple[str, dict[str, Any]]:
    results = git(folder, "ls-tree", "-r", commit, "--", *OUTCOME[1:])
    settings = YAML(typ="safe").load(git(folder, "show", f"{commit}:{PARAMS}"))
    return results, {key: value for key, value in settings.items() if key != "run"}


def _outputs(folder: Path) -> list[Path]:
    """Return what DVC's cache holds of the stages in dvc.yaml."""
    stages = read_yaml(folder / "dvc.yaml")["stages"].values()
    outs = [out for stage in stages for out in stage.get("outs", [])]
    return [Path(out) for out in outs if isinstance(out, str)]  # one with options is a mapping: cache: false


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
