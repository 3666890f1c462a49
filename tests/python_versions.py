"""`make resolve`: can constraints.txt be installed from wheels on each Python? Not part of CI: it downloads gigabytes.

Resolves the dependencies of pyproject.toml and of all extras but `npu` for x86_64, without installing anything.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.conftest import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
WITHOUT_WHEEL = ("antlr4-python3-runtime", "PyTurboJPEG")  # published as sources of pure Python; built here
TORCH = "torch==2.13.0"  # not in constraints.txt: any build of it may be chosen


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> int:
    """Print a line for each Python; return 1 if any of them cannot be resolved."""
    constraints = (ROOT / "constraints.txt").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(line for name in extras if name != "npu" for line in extras[name])]
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for package in WITHOUT_WHEEL:
            version = re.search(rf"^{package}==(\S+)$", constraints, re.MULTILINE)[1]
            built = pip("wheel", "--no-deps", f"{package}=={version}", "--wheel-dir", folder)
            assert built.returncode == 0, built.stderr
        for python in PYTHONS:
            options = ["--dry-run", "--quiet", "--ignore-installed", "--only-binary=:all:", "--python-version", python]
            options += ["--target", folder / "none", "--find-links", folder, "--report", folder / "report.json"]
            done = pip("install", *options, "-c", ROOT / "constraints.txt", TORCH, *requirements)
            failures += done.returncode != 0
            if done.returncode:
                print(f"Python {python}: no:\n{done.stderr}", flush=True)
            else:
                packages = json.loads((folder / "report.json").read_text())["install"]
                print(f"Python {python}: {len(packages)} packages, all from wheels", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
