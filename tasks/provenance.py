"""Where and with what a model was made: models/m2det.json, beside the model, whose card has what equal runs share."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from m2det.files.hashing import file_sha256
from m2det.files.whole import write_whole
from tasks.common import params
from tasks.inputs import outs_of, path_of, read_stages

NAME, VERSION = "m2det.json", 1
PACKAGES = ("m2det", "torch", "torch-npu", "numpy", "opencv-python-headless", "hotcoco", "pycocotools")
MAX_NAMES = 100  # of files in the record


def describe_commit() -> dict[str, Any]:
    """Return git's commit, and which files differ from it; outputs of stages and dvc.lock are no differences.

    Returns:
        commit, dirty, and edited: the first MAX_NAMES paths, files that git does not track among them. Without git or
        a commit, commit and dirty are None.
    """
    # a run of the flow works in a clone, whose one commit on top of the user's holds what was edited
    base = "HEAD^" if "/.dvc/tmp/runs/" in Path.cwd().as_posix() else "HEAD"
    commit = _git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
    if not commit:
        return {"commit": None, "dirty": None, "edited": []}
    made = {path_of(out) for entry in read_stages("dvc.yaml").values() for out in outs_of(entry)} | {"dvc.lock"}
    changed = _git("diff", "--name-only", "--no-renames", "--relative", "-z", base).split("\0")
    untracked = _git("ls-files", "--others", "--exclude-standard", "-z").split("\0")
    paths = {path for path in (*changed, *untracked) if path}
    edited = sorted(path for path in paths if not any(Path(path).is_relative_to(out) for out in made))
    return {"commit": commit, "dirty": bool(edited), "edited": edited[:MAX_NAMES]}


def write_provenance(model: Path, commit: dict[str, Any], processes: int) -> None:
    """Write the record beside the model file.

    Args:
        model: The model file.
        commit: As `describe_commit` returned it when the stage began.
        processes: How many have trained.
    """
    import torch

    from m2det.device import choose_device, device_name

    device = choose_device(params().run.device)
    record = {
        "version": VERSION,
        "model_sha256": file_sha256(model),
        "git": commit,
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device.type,
        "device_name": device_name(device),
        "processes": processes,
        "threads": torch.get_num_threads() if processes == 1 else None,
        "params": params().model_dump(mode="json"),
    }
    write_whole(model.with_name(NAME), json.dumps(record, indent=2) + "\n")


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # extras of other machines
            continue
    return found


def _git(*arguments: str) -> str:
    """What a git command prints; "" if it fails, or if this machine has no git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    return "" if done.returncode else done.stdout.decode(errors="backslashreplace").strip("\n")
