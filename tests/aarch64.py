"""`python -m tests.aarch64 > docs/benchmarks/aarch64.md`: has every dependency a wheel for Python 3.11 on aarch64?

Asks the package index about each requirement of pyproject.toml, at the version of constraints.txt or else the newest;
not part of CI.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.conftest import ROOT

PLATFORMS = ("manylinux_2_17_aarch64", "manylinux2014_aarch64", "manylinux_2_28_aarch64")
TORCH = "2.13.0"  # not in constraints.txt: any build of it may be chosen


def wheel(package: str, version: str) -> str:
    """Return the file name of the package's wheel, empty if none exists."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--no-deps", "-d", folder]
        command += ["--python-version", "3.11", *(f"--platform={name}" for name in PLATFORMS), f"{package}{version}"]
        subprocess.run(command, capture_output=True, check=False)
        return next((path.name for path in Path(folder).iterdir()), "")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower(), re.MULTILINE))
    print("# Wheels for aarch64 (Python 3.11)\n")
    print("Kunpeng servers with Ascend NPUs are aarch64. `python -m tests.aarch64` asked for each package:\n")
    platforms = " ".join(f"--platform {name}" for name in PLATFORMS)
    print(f"`pip download --only-binary=:all: --no-deps --python-version 3.11 {platforms} PACKAGE==VERSION`\n")
    print("Wheels were looked up by name and platform, not run: no aarch64 machine was available.\n")
    print("| extra | package | version | wheel | platform |\n|---|---|---|---|---|")
    for extra, requirements in groups.items():
        for requirement in requirements:
            package = re.match(r"[\w.-]+", requirement).group().lower()
            version = pinned.get(package, TORCH if package == "torch" else "")
            name = wheel(package, f"=={version}" if version else "").removesuffix(".whl")
            cells = ("yes", name.split("-")[-1]) if name else ("no", "")
            print("|", " | ".join((extra, package, version or name.split("-")[1], *cells)), "|", flush=True)


if __name__ == "__main__":
    main()
