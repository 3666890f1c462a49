"""A copy of the project in a folder of its own, as a user's clone."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = {
    "epochs: ": "epochs: 1",
    "  max_steps: ": "  max_steps: 3",
    "  batch_size: ": "  batch_size: 4",
    "  microbatch: ": "  microbatch: 4",
    "  workers: ": "  workers: 0",
    "  steps: ": "  steps: 2",
    "  warmup: 6": "  warmup: 1",
}


class Clone:
    """One working copy: run things in it, change its parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m COMMAND` there, without any Prefect API unless the environment names one."""
        return self._run([sys.executable, "-m", *command], ok, environment)

    def shell(self, command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command line that a message advises, as a user would type it."""
        return self._run(["bash", "-c", command], ok, {})

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Begin `python -m COMMAND`; stdout has both streams."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self._environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "DVC_"))}
        return env | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "PREFECT_HOME": str(self.folder / ".prefect"),
            **more,
        }

    def _run(self, command: list[str], ok: bool, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(environment), capture_output=True, text=True, check=False
        )
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done

    def edit(self, changes: dict[str, str]) -> None:
        """Replace the lines of params.yaml that begin with a key of `changes`."""
        path = self.folder / "params.yaml"
        lines = path.read_text().splitlines()
        for start, new in changes.items():
            assert any(line.startswith(start) for line in lines), start
            lines = [new if line.startswith(start) else line for line in lines]
        path.write_text("\n".join(lines) + "\n")


def make_clone(folder: Path) -> Clone:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in names:
        # results that a user has made stay where they are
        if (ROOT / name).is_file() and not name.startswith("results/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "results").mkdir(exist_ok=True)
    shutil.copy(ROOT / "results/.gitignore", folder / "results")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["git", "init", "-q"], ["git", "add", "-A"], [*git, "commit", "-qm", "clone"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return Clone(folder)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A fresh clone, nothing built."""
    return make_clone(tmp_path)


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Make it once for all of pytest's processes: the first that wants it holds the lock meanwhile."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "prepared"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "dvc.lock").exists():
            folder.mkdir()
            made = make_clone(folder)
            made.edit(SHORT)
            made.run("dvc", "repro", "pack", "ops", "weights")
    return folder


@pytest.fixture
def prepared(_prepared: Path, tmp_path: Path) -> Clone:
    """As `ready`, for one test."""
    return Clone(shutil.copytree(_prepared, tmp_path / "clone", symlinks=True))


@pytest.fixture(scope="module")
def ready(_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which all is made that a training of three steps on `digits` takes."""
    return Clone(shutil.copytree(_prepared, tmp_path_factory.mktemp("ready") / "clone", symlinks=True))


@pytest.fixture(scope="module")
def short_run(ready: Clone) -> Clone:
    """A clone in which a run of three steps has gone from data to metrics."""
    ready.run("dvc", "repro")
    return ready
