"""Commands that restore a stage's earlier results: DVC deletes a stage's outputs before it runs."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from pathlib import Path

from tasks.common import main_root
from tasks.inputs import is_cached, outs_of, read_stages


def how_to_restore(stage: str) -> str:
    """Return a line with the commands, or "" if there is no earlier result, or DVC has deleted none.

    `dvc checkout` restores the outputs in DVC's cache. Outputs in git are named only if the last commit has them as
    dvc.lock records them: results of another run beside this model would be worse than none.
    """
    recorded = outs_of(read_stages("dvc.lock").get(stage, {}))
    if os.environ.get("DVC_STAGE") != stage or main_root() != Path.cwd() or not recorded:
        return ""
    commands = []
    md5 = {out["path"]: out.get("md5") for out in recorded}
    if by_git := [path for path in md5 if _committed_md5(path) == md5[path]]:
        commands.append(shlex.join(["git", "checkout", "--", *by_git]))
    if any(map(is_cached, outs_of(read_stages("dvc.yaml")[stage]))):
        # by force: DVC would ask before it removes what the interrupted stage has written
        commands.append(shlex.join(["dvc", "checkout", "--force", stage]))
    if not commands:
        return ""
    return f"to have what is kept of the last finished run of {stage} back: {' && '.join(commands)}"


def _committed_md5(path: str) -> str:
    """The md5 of the file in the last commit, "" if the commit has no such file."""
    try:
        shown = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return ""
    return "" if shown.returncode else hashlib.md5(shown.stdout, usedforsecurity=False).hexdigest()
