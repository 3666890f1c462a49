"""What a temporary copy of an experiment costs beside a large packed cache: seconds until its stage starts, and disk.

A small project with this project's DVC settings is made in a temporary folder (--folder says on which disk), once with
a cache of 1 MB and once with one of the given size; DVC's way to share files can be set to compare.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
DVC_YAML = """
stages:
  use:
    cmd: exec python use.py
    deps: [data/cache]
    params: [epochs]
    outs: [made]
"""
USE = """
import json, os, time
from pathlib import Path
started = time.time()
files = [path.lstat() for path in Path().rglob("*") if path.is_file()]
own = sum(file.st_blocks * 512 for file in files if file.st_nlink == 1)
Path(os.environ["DVC_ROOT"], "seen.json").write_text(json.dumps({"started": started, "own": own}))
Path("made").write_text(Path("params.yaml").read_text())
"""
MB = 10**6


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--folder", type=Path, help="where to make the project; default: the temporary folder")
    parser.add_argument("--link", default="", help="DVC's cache.type; default: the project's")
    parser.add_argument("--repeat", type=int, default=3, help="experiments of each size")
    options = parser.parse_args()
    for megabytes in (1, round(options.gigabytes * 1000)):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            for seconds, cpu, own in measure(Path(name), megabytes, options.link, options.repeat):
                print(
                    f"{megabytes} MB: {seconds:.2f} s until the stage starts, {cpu:.2f} s of CPU in all, "
                    f"{own / MB:.2f} MB of its own"
                )


def measure(folder: Path, megabytes: int, link: str, repeat: int) -> list[tuple[float, float, int]]:
    """Return for each experiment the seconds until its stage starts, CPU seconds, and the bytes that only it has."""

    def run(*command: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env=os.environ | {"PATH": path})

    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    if link:
        run(*dvc, "config", "cache.type", link)
    (folder / "data/cache").mkdir(parents=True)
    with (folder / "data/cache/train.lmdb").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(MB))
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "use.py").write_text(USE)
    (folder / "params.yaml").write_text("epochs: 1\n")
    (folder / ".gitignore").write_text("/seen.json\n")
    run(*dvc, "add", "-q", "data/cache")
    run(*dvc, "repro", "-q")
    run("git", "add", "-A")
    run("git", "-c", "user.name=m2det", "-c", "user.email=m2det@localhost", "commit", "-qm", "start")
    found = []
    for i in range(repeat):
        started, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*dvc, "exp", "run", "--temp", "-S", f"epochs={2 + i}")
        seen = json.loads((folder / "seen.json").read_text())
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        found.append((seen["started"] - started, cpu, seen["own"]))
    return found


if __name__ == "__main__":
    main()
