"""A project of quick stages under the real flows: what they do is told by its toy.yaml."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from flows.pipeline import STAGES
from tests.conftest import ROOT

STEP = """
import logging, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
from m2det.errors import InputError
from m2det.distributed.children import run_child
from tasks.common import main_root

CHILD = "import os, pathlib, time; pathlib.Path('child').write_text(str(os.getpid())); time.sleep(600)"

def step(name):
    toy, params = (YAML(typ="safe").load(Path(f)) for f in ("toy.yaml", "params.yaml"))
    print(f"{name} prints")
    logging.getLogger("m2det.toy").info(f"{name} logs")
    if toy["wrong"] == name:
        raise InputError(f"{name}.json is missing; put it there")
    if toy["crash"] == name:
        raise KeyError("lost")
    if toy["sleep"] == name:
        Path("parents").write_text(f"{os.getppid()} {os.getpid()}")
        run_child([sys.executable, "-c", CHILD])
    if toy["wait"] == name:
        (main_root() / "waiting").touch()
        while not (main_root() / "go").exists():
            time.sleep(0.1)
    Path(f"{name}.txt").write_text(f"{params['epochs']}\\n")
"""
TOY = "wrong: ''\ncrash: ''\nsleep: ''\nwait: ''\n"


class Toy:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (
            "flows",
            "m2det_prefect.py",
            "prefect.yaml",
            "pyproject.toml",
            "m2det",
            "tasks/common.py",
            "tasks/inputs.py",
            "tasks/last_results.py",
            "m2det/distributed/children.py",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        dvc_yaml = "stages:\n"
        for before, name in zip(("", *STAGES), STAGES, strict=False):
            steps = {"evaluate": ("detect", "score", "draw"), "annotations": ("record_annotations",)}.get(name, (name,))
            functions = "".join(f"def {function}(): step({name!r})\n" for function in steps)
            (folder / f"tasks/{name}.py").write_text(f"from tasks.step import step\n{functions}")
            # data can be run without annotations
            dep = f"{before}.txt" if name not in ("annotations", "data") else "tasks/step.py"
            dvc_yaml += f"  {name}:\n    cmd: exec python -m flows.{name}\n    deps: [{dep}]\n"
            dvc_yaml += f"    params: [epochs, toy.yaml: [wrong, crash, sleep, wait]]\n    outs: [{name}.txt]\n"
        (folder / "dvc.yaml").write_text(dvc_yaml)
        (folder / "tasks/step.py").write_text(STEP)
        (folder / "tasks/preflight.py").write_text('print(\'{"findings": [], "device": null, "processes": 0}\')\n')
        (folder / "tasks/__init__.py").touch()
        shipped = (ROOT / "params.yaml").read_text()
        (folder / "params.yaml").write_text(re.sub(r"^epochs: \d+", "epochs: 1", shipped, flags=re.MULTILINE))
        self.set()
        (folder / ".gitignore").write_text("__pycache__/\n/*.txt\n/child\n/parents\n/waiting\n/go\n")
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
        dvc = [sys.executable, "-m", "dvc", "init", "-q"]
        for command in (["git", "init", "-q"], dvc, ["git", "add", "-A"], [*git, "commit", "-qm", "toy"]):
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

    def copies(self) -> list[Path]:
        """Return the copies of runs that are there."""
        return sorted((self.folder / ".dvc/tmp/runs").glob("*/project"))

    def state(self) -> dict[str, bytes | str]:
        """Return all files but those of git, DVC and Python, and what git says of them."""
        shown = subprocess.run(
            ["git", "status", "--short"], cwd=self.folder, capture_output=True, text=True, check=True
        )
        hidden = {".git", ".dvc", "__pycache__"}
        paths = (path for path in self.folder.rglob("*") if not hidden & set(path.relative_to(self.folder).parts))
        return {str(path): path.read_bytes() for path in paths if path.is_file()} | {"git": shown.stdout}

    def set(self, **values: str) -> None:
        """Make toy.yaml anew: `set(wrong="train")` has stage train fail."""
        text = TOY
        for key, value in values.items():
            text = text.replace(f"{key}: ''", f"{key}: {value}")
        (self.folder / "toy.yaml").write_text(text)
