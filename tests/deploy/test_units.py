"""systemd accepts the units, and what they start is what docs/pipeline.md says by hand."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
HOME = "/srv/m2det"


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """The units, for a folder that has what they start."""
    for name in ("python", "prefect"):
        program = tmp_path / ".venv/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.symlink_to("/bin/true")
    units = [tmp_path / unit.name for unit in UNITS]
    for path, unit in zip(units, UNITS, strict=True):
        path.write_text(unit.read_text().replace(HOME, str(tmp_path)))
    return units


def verify(units: list[Path]) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "verify", *map(str, units)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_systemd_accepts_the_units_without_a_word(installed):
    assert len(installed) == 2
    done = verify(installed)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_fault_in_a_unit_is_seen(installed):
    for right, wrong, said in (
        ("Restart=", "Restrat=", "Unknown key"),
        ("ExecStart=", "ExecStart=/no-such", "no-such"),
    ):
        text = installed[1].read_text()
        installed[1].write_text(text.replace(right, wrong))
        assert said in verify(installed).stderr
        installed[1].write_text(text)


def test_one_worker_starts_what_the_documentation_says():
    server, worker = (unit.read_text() for unit in UNITS)
    page = (ROOT / "docs/pipeline.md").read_text()
    for command in ("prefect --no-prompt deploy --all", "prefect worker start --pool m2det --limit 8"):
        assert command in page and command in worker
    assert worker.count("ExecStart=") == 1 and "prefect server start --host 127.0.0.1" in server
