"""How to get back what an earlier run of a stage made: DVC deletes a stage's outputs before it runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tasks.common import main_root
from tasks.inputs import read_stages


def how_to_restore(stage: str) -> str:
    """A line with the commands, or nothing where no earlier result is recorded or DVC has deleted none.

    `dvc checkout` brings back what DVC's cache holds. Files that are kept by git are named only where the last commit
    has them as dvc.lock records them: results of another run beside this model would be worse than none.
    """
    recorded = read_stages("dvc.lock").get(stage, {}).get("outs", [])
    if os.environ.get("DVC_STAGE") != stage or main_root() != Path.cwd() or not recorded:
        return ""
    md5 = {out["path"]: out["md5"] for out in recorded}
    by_git = [path for path in md5 if _committed_md5(path) == md5[path]]
    commands = [f"git checkout -- {' '.join(by_git)}"] * bool(by_git) + [f"dvc checkout {stage}"]
    return f"to have the results of the last finished run of {stage} back: {' && '.join(commands)}"


def _committed_md5(path: str) -> str:
    """Of the file in the last commit; "" where git or the commit has none."""
    shown = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, check=False)
    return "" if shown.returncode else hashlib.md5(shown.stdout, usedforsecurity=False).hexdigest()
