"""Kill a training at random moments and continue it: `python -m tests.train.disturb` (make stress).

A folder with what stage `train` takes stands for the working copy; `python -m flows.train` runs in it, which starts
torchrun, which starts two ranks, or trains alone, with a data-loading process. One of them is killed, or the disk is
full, or a checkpoint is damaged, or settings are edited meanwhile; then nothing may be left, every other checkpoint
must load, and the same command must end with the bytes of the undisturbed model.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ruamel.yaml import YAML

from m2det.files.torch_file import verify
from tests.conftest import ROOT
from tests.squares import make_material
from tests.training import settings

VICTIMS = ("stage", "launcher", "rank", "alone")  # the last is a stage that trains in one process
KINDS = [f"{victim} {name}" for victim in VICTIMS for name in ("SIGTERM", "SIGKILL", "SIGHUP")]
KINDS += ["bit flip", "full disk", "edit"]
ONE = {"processes": 1, "workers": 1}
MODEL, UNFINISHED = Path("models/m2det.safetensors"), Path("models/unfinished")


def of(kind: str) -> dict[str, int]:
    """The parameters of the training that is disturbed so."""
    return ONE if kind.startswith("alone") else {}


def working_copy(folder: Path, material: tuple[Path, Path], **changes: int) -> Path:
    """A folder in which stage `train` runs for 12 steps and writes a checkpoint after each; by two processes."""
    (folder / "models").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "results").mkdir()
    for name in ("m2det", "tasks", "flows", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data/cache").symlink_to(material[0])
    (folder / "models/backbone.safetensors").symlink_to(material[1])
    base = {"batch_size": 4, "processes": 2, "epochs": 4, "save_every": 1, "evaluate_every": 2, "opt_level": "O0"}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(settings(**base | changes).model_dump(), file)
    return folder


def stage(folder: Path) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.train"]
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)


def finished(folder: Path) -> list[bytes]:
    """Run the stage to its end; the bytes of its model, its curves and its metrics."""
    assert stage(folder).wait(240) == 0, (folder / "out.txt").read_text()
    assert not list((folder / UNFINISHED).glob("*")), "a finished training leaves nothing unfinished"
    return [(folder / name).read_bytes() for name in (MODEL, "results/curves.csv", "results/train.json")]


def processes_in(folder: Path) -> Iterator[tuple[int, str]]:
    """(pid, command line) of every process that works in the folder; zombies have none."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder and (line := (path / "cmdline").read_bytes()):
                yield int(path.name), line.replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def find(folder: Path, victim: str, process: subprocess.Popen) -> int | None:
    """The victim's pid, as soon as there is one; None where the stage has ended before."""
    if victim in ("stage", "alone"):
        return process.pid if process.poll() is None else None
    part = {"launcher": "m2det.distributed.quiet_torchrun", "rank": " -m m2det.train.rank"}[victim]
    while process.poll() is None:
        lines = [(pid, line) for pid, line in processes_in(folder) if part in line]
        if victim == "rank":
            lines = [(pid, line) for pid, line in lines if "m2det.distributed.quiet_torchrun" not in line]
        if lines:
            return lines[-1][0]
        time.sleep(0.05)
    return None


def disturb(folder: Path, kind: str, moment: float) -> tuple[bool, float]:
    """Run the stage and kill by `kind` after `moment` seconds.

    Returns whether it was hit before its end, and after how many seconds nothing was left of it. Asserts that
    nothing is, and that what it has saved can be read.
    """
    if kind == "bit flip":
        return flip_bit(folder, moment)
    if kind == "full disk":
        return fill_disk(folder, moment)
    if kind == "edit":
        return edit(folder, moment)
    victim, name = kind.split()
    process = stage(folder)
    time.sleep(moment)
    pid = find(folder, victim, process)
    if pid is not None:
        os.kill(pid, getattr(signal, name))
    seconds = wait_for_all(folder, process, f"{kind} after {moment:.2f} s")
    for path in [*saved(folder), *saved(folder, "evaluated")]:
        verify(path)
    return pid is not None and process.returncode != 0, seconds


def wait_for_all(folder: Path, process: subprocess.Popen, what: str) -> float:
    """The seconds until nothing works in the folder. Asserts that this is soon."""
    start = time.monotonic()
    process.wait(120)
    while rest := list(processes_in(folder)):
        assert time.monotonic() < start + 60, f"{what} leaves {rest}"
        time.sleep(0.05)
    return time.monotonic() - start


def saved(folder: Path, kind: str = "pt") -> list[Path]:
    """The checkpoints, oldest first, or what their evaluations have added."""
    return sorted((folder / UNFINISHED).glob(f"*/step-*.{kind}"))


def flip_bit(folder: Path, moment: float) -> tuple[bool, float]:
    """Kill a rank; then one bit of the newest checkpoint, or of what its evaluation has added, is another.

    Where there is a checkpoint before it to go back to.
    """
    hit, seconds = disturb(folder, "rank SIGKILL", moment)
    if len(paths := saved(folder)) > 1:
        rng = random.Random(moment)
        path = rng.choice([*saved(folder, "evaluated")[-1:], paths[-1]])
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    return hit, seconds


def fill_disk(folder: Path, moment: float) -> tuple[bool, float]:
    """After `moment` seconds no file gets longer than a part of a checkpoint; then there is room again.

    Asserts that the run ends in one sentence, that no half-written file is left, and that the checkpoints are whole.
    """
    process = stage(folder)
    time.sleep(moment)
    find(folder, "rank", process)
    limit = random.Random(moment).randrange(300_000, 5_000_000)
    for pid, _ in processes_in(folder):
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))
    seconds = wait_for_all(folder, process, f"full disk after {moment:.2f} s")
    out = (folder / "out.txt").read_text()
    if process.returncode:
        assert process.returncode == 1 and "file too large" in out.splitlines()[-1], out
        assert "make room, then give the same command again" in out.splitlines()[-1], out
    assert not list(folder.glob("models/**/*.tmp")) and not list(folder.glob("results/*.tmp"))
    for path in [*saved(folder), *saved(folder, "evaluated")]:
        verify(path)
    return process.returncode != 0, seconds


def edit(folder: Path, moment: float) -> tuple[bool, float]:
    """After `moment` seconds params.yaml has another learning rate; the end's sentence tells how to undo that.

    Asserts that the run publishes nothing, and keeps what it has done.
    """
    (folder / MODEL).unlink(missing_ok=True)  # as DVC does
    process = stage(folder)
    time.sleep(moment)
    params = folder / "params.yaml"
    text = params.read_text()
    params.write_text(re.sub(r"(?m)^  lr: .*", "  lr: 0.123", text))
    seconds = wait_for_all(folder, process, f"edit after {moment:.2f} s")
    out = (folder / "out.txt").read_text()
    last = out.splitlines()[-1]
    if process.returncode:
        assert process.returncode == 1 and last.startswith("error: inputs changed while"), out
        assert not (folder / MODEL).exists()
    if undo := re.search(r"give the same command again: (cp .+?)\. To go on", last):
        subprocess.run(["sh", "-c", undo[1]], cwd=folder, check=True)
        assert saved(folder), "the finished state waits to be published"
    else:  # it had ended before, or had not yet begun
        params.write_text(text)
    assert params.read_text() == text
    return process.returncode != 0, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="of each kind (default %(default)s)")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, metavar="KIND", help="of %(choices)s")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="(default: the clock)")
    arguments = parser.parse_args()
    print(f"training, 2 processes by gloo, or alone; {arguments.moments} moments of each kind, seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        material = make_material(root / "material")
        undisturbed = {}
        for processes, changes in ((2, {}), (1, ONE)):
            start = time.monotonic()
            wanted = finished(working_copy(root / f"undisturbed-{processes}", material, **changes))
            undisturbed[processes] = wanted, time.monotonic() - start
        for kind in arguments.kinds:
            wanted, duration = undisturbed[of(kind).get("processes", 2)]
            rng = random.Random(f"{arguments.seed} {kind}")
            hits, longest, kills = 0, 0.0, 0
            for i in range(arguments.moments):
                folder = working_copy(root / "disturbed", material, **of(kind))
                for _ in range(rng.randint(1, 2)):  # who was killed once may be killed again
                    hit, seconds = disturb(folder, kind, rng.uniform(0, duration))
                    kills, hits, longest = kills + 1, hits + hit, max(longest, seconds)
                assert finished(folder) == wanted, f"{kind}, moment {i} of seed {arguments.seed}: other bytes"
                shutil.rmtree(folder)
            print(
                f"{kind}: {hits} of {kills} before its end, all {arguments.moments} models and curves byte for "
                f"byte the undisturbed ones; nothing left after at most {longest:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
