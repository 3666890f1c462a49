"""What DVC records is what happened: edits during a run, damaged caches, interrupted stages; a real DVC in a clone."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from m2det.config import load_params
from tests.pipeline.conftest import Clone

pytestmark = pytest.mark.slow

STEPS = 8
PER_STEP = {
    "  max_steps: ": f"  max_steps: {STEPS}",
    "  save_every: ": "  save_every: 1",
    "  batch_size: ": "  batch_size: 4",
    "  microbatch: ": "  microbatch: 4",
}


@pytest.fixture(scope="module", autouse=True)
def checkpoints_after_each_step(ready: Clone) -> None:
    ready.edit(PER_STEP)


@pytest.fixture(scope="module")
def undisturbed(ready: Clone, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the model of a training that nobody disturbs."""
    other = Clone(shutil.copytree(ready.folder, tmp_path_factory.mktemp("undisturbed") / "clone", symlinks=True))
    shutil.rmtree(other.folder / "models/unfinished", ignore_errors=True)
    other.run("flows.train")
    return digest(other, "models/m2det.safetensors")


def locked(clone: Clone, stage: str) -> dict:
    """The stage's entry in dvc.lock; empty where it has none."""
    return YAML(typ="safe").load(clone.folder / "dvc.lock")["stages"].get(stage, {})


def digest(clone: Clone, name: str) -> str:
    return hashlib.md5((clone.folder / name).read_bytes()).hexdigest()


def start_training(clone: Clone, checkpoints: int = 1) -> subprocess.Popen[str]:
    """`dvc repro -f -s train`, once it has written so many checkpoints."""
    process = clone.start("dvc", "repro", "-f", "-s", "train")
    deadline = time.monotonic() + 120
    while len(list((clone.folder / "models/unfinished").glob("*/step-*.pt"))) < checkpoints:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    return process


def commands(output: str) -> str:
    """The command line that a message asks for."""
    return re.search(r"give the same command again: (.+?)\. To go on", output)[1]


def test_edits_during_a_training_are_not_recorded_as_what_it_was_made_from(ready, undisturbed):
    boxes, params = ready.folder / "m2det/boxes.py", ready.folder / "params.yaml"
    before = boxes.read_text(), params.read_text()
    process = start_training(ready)
    ready.edit({"  lr: ": "  lr: 0.5", "  weight_decay: ": "  weight_decay: 0.25"})
    boxes.write_text(before[0] + "\n# edited while it trains\n")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, output
    assert re.search(r"warning: inputs changed while this runs: train.lr: 0.06 -> 0.5; .*m2det/boxes.py edited", output)
    assert "error: inputs changed while train ran: train.lr: 0.06 -> 0.5; train.weight_decay: 0.005 -> 0.25" in output
    assert not locked(ready, "train") and not (ready.folder / "models/m2det.safetensors").exists()
    assert "train" in ready.run("dvc", "status").stdout

    ready.shell(commands(output))
    assert (boxes.read_text(), params.read_text()) == before
    again = ready.run("dvc", "repro", "-s", "train").stdout
    assert f"resuming at step {STEPS} of {STEPS}" in again, "the finished state is published, nothing is trained"
    deps = {dep["path"]: dep["md5"] for dep in locked(ready, "train")["deps"]}
    assert deps["m2det/boxes.py"] == hashlib.md5(before[0].encode()).hexdigest()
    assert locked(ready, "train")["params"]["params.yaml"]["train"]["lr"] == 0.06
    assert not list((ready.folder / "models/unfinished").iterdir())
    assert digest(ready, "models/m2det.safetensors") == undisturbed


EDITING = """
from pathlib import Path
from flows.stage import run_stage
from m2det.train import rank
from tasks.train import train

def launch_after_an_edit(*arguments):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("  log_every: 1 ", "  log_every: 5 ").replace("lr: 0.06", "lr: 0.5"))
    launch(*arguments)

launch, rank.launch = rank.launch, launch_after_an_edit
run_stage("train", train)
"""


def test_an_edit_between_the_stage_and_its_processes_reaches_none_of_them(ready):
    params = ready.folder / "params.yaml"
    before = params.read_text()
    (ready.folder / "editing.py").write_text(EDITING)
    params.write_text(re.sub("(?m)^  log_every: .*", "  log_every: 1 ", before))
    ready.edit({"  processes: ": "  processes: 2", "  batch_size: ": "  batch_size: 8"})
    try:
        done = ready.run("editing", ok=False)
        assert done.returncode == 1 and "train.lr: 0.06 -> 0.5; its result is not recorded" in done.stderr, done.stderr
        assert "run.log_every" not in done.stderr, "how it is run shapes no result"
        [folder] = (ready.folder / "models/unfinished").iterdir()
        frozen = load_params(folder / "inputs/params.yaml")
        assert (frozen.train.lr, frozen.run.log_every) == (0.06, 1)
        log = (folder / "log.txt").read_text()
        assert all(f"step {step}/{STEPS} " in log for step in range(1, STEPS + 1)), "log_every is 1 in the processes"
    finally:
        params.write_text(before)
        (ready.folder / "editing.py").unlink()
        shutil.rmtree(ready.folder / "models/unfinished")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero_5000_bytes(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(5000))


@pytest.mark.long  # tests/train/test_disturbed.py flips a bit, without DVC
@pytest.mark.parametrize("spoil", [flip_a_bit, zero_5000_bytes])
def test_a_damaged_checkpoint_is_passed_over(ready, undisturbed, spoil):
    process = start_training(ready, checkpoints=2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    older, newest = sorted((ready.folder / "models/unfinished").glob("*/step-*.pt"))
    spoil(newest)
    again = ready.run("dvc", "repro", "-f", "-s", "train").stdout
    assert f"{newest.name} is damaged: its sha256 is another than when it was written" in again, again
    assert f"resuming at step {int(older.stem.removeprefix('step-'))} of {STEPS}" in again
    assert digest(ready, "models/m2det.safetensors") == undisturbed


def test_a_refused_experiment_beside_a_training_does_not_get_into_its_record(ready):
    process = start_training(ready)
    refused = ready.run("dvc", "exp", "run", "-S", "seed=50", "train", ok=False)
    assert refused.returncode != 0
    output, _ = process.communicate(timeout=120)
    if "seed: 50" in (ready.folder / "params.yaml").read_text():  # DVC writes it before it finds the lock
        assert process.returncode != 0 and "seed: 49 -> 50" in output, output
        ready.shell(commands(output))
        ready.run("dvc", "repro", "-s", "train")
    assert locked(ready, "train")["params"]["params.yaml"]["seed"] == 49


def test_a_touched_file_and_setting_that_the_stage_has_not_do_not_count(ready):
    process = start_training(ready)
    for name in ("m2det/boxes.py", "data/cache/train.lmdb", "models/backbone.safetensors"):
        os.utime(ready.folder / name)
    ready.edit({"  nms: ": "  nms: hard"})
    output, _ = process.communicate(timeout=120)
    ready.edit({"  nms: ": "  nms: linear"})
    assert process.returncode == 0 and "inputs changed" not in output, output


def test_edits_during_another_stage_have_it_run_again(ready):
    ready.run("dvc", "repro", "-s", "train")
    process = ready.start("dvc", "repro", "-f", "-s", "evaluate")
    for line in process.stdout:
        if "running plainly" in line:
            break
    time.sleep(1)
    ready.edit({"  nms: ": "  nms: hard"})
    output, _ = process.communicate(timeout=120)
    ready.edit({"  nms: ": "  nms: linear"})
    assert process.returncode != 0
    assert (
        "error: inputs changed while evaluate ran: evaluate.nms: 'linear' -> 'hard'; its result is not recorded"
        in output
    )
    assert not locked(ready, "evaluate") and "evaluate" in ready.run("dvc", "status").stdout


def test_edits_during_a_pack_keep_the_finished_cache_for_later(ready):
    made = packed(ready)
    process = ready.start("dvc", "repro", "-f", "-s", "pack")
    for line in process.stdout:
        if "images, about" in line:
            break
    ready.edit({"  quality: ": "  quality: 55"})
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "pack.quality: 90 -> 55" in output, output
    ready.shell(commands(output))
    again = ready.run("dvc", "repro", "-f", "-s", "pack").stdout
    assert "packing" not in again, "nothing is packed a second time"
    assert packed(ready) == made


def packed(clone: Clone) -> dict[str, str]:
    return {path.name: digest(clone, f"data/cache/{path.name}") for path in (clone.folder / "data/cache").iterdir()}


def test_the_last_results_can_be_had_back_when_a_stage_is_interrupted(ready):
    names = ("models/m2det.safetensors", "results/train.json", "results/curves.csv", "results/log.txt")
    ready.run("dvc", "repro", "-s", "train")
    before = {name: digest(ready, name) for name in names}
    git = "git -c user.name=test -c user.email=test@localhost"
    ready.shell(f"git add -A && {git} commit -qm results")
    ready.edit({"seed: ": "seed: 51"})
    process = start_training(ready)
    assert not (ready.folder / names[0]).exists(), "DVC deletes outputs before a stage runs"
    process.send_signal(signal.SIGTERM)  # DVC dies, its stage stops
    output, _ = process.communicate(timeout=60)
    last = output.strip().splitlines()[-1]
    assert last.startswith("to have what is kept of the last finished run of train back: git checkout -- "), output
    ready.shell(last.partition("back: ")[2])
    assert {name: digest(ready, name) for name in names} == before
    assert "seed: 51" in (ready.folder / "params.yaml").read_text(), "edits stay"
    ready.edit({"seed: ": "seed: 49"})


def damage(path: Path) -> None:
    """As a failing disk does it: other bytes, the same size, time and permissions; also where it is a link."""
    path = path.resolve()
    status = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    at = len(content) // 2
    content[at : at + 5000] = bytes(5000)
    with path.open("r+b") as file:  # the same inode
        file.write(content)
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "link", ["hardlink", *(pytest.param(link, marks=pytest.mark.long) for link in ("symlink", "reflink,copy"))]
)
def test_what_verify_advises_heals_a_damaged_cache(ready, link):
    ready.run("dvc", "config", "cache.type", link)
    ready.run("dvc", "checkout", "--relink", "data/cache")
    lmdb = ready.folder / "data/cache/val.lmdb"  # all of it is read at each evaluation
    sound = lmdb.read_bytes()
    assert lmdb.is_symlink() == (link == "symlink") and (lmdb.stat().st_nlink == 2) == (link == "hardlink")
    damage(lmdb)
    if link == "reflink,copy":  # DVC's own copy, too, as on a failing disk
        damage(ready.folder / ".dvc/cache/files/md5" / lmdb_object(ready))
    verify = ready.run("m2det.cli.main", "data", "verify", ok=False)
    assert verify.returncode == 1
    advice = re.search(r"run `(find .+?)`", verify.stdout)[1]
    trained = ready.run("flows.train", ok=False)
    assert trained.returncode == 1 and advice in trained.stderr, "stages that read it say the same"

    ready.run("dvc", "repro", "-f", "-s", "pack")
    ready.shell("rm -r data/cache && dvc checkout data/cache")
    assert lmdb.read_bytes() != sound, "packing anew alone does not heal: DVC links its damaged copy"

    ready.shell(advice)
    assert lmdb.read_bytes() == sound
    ready.run("m2det.cli.main", "data", "verify")
    ready.shell("rm -r data/cache && dvc checkout data/cache")
    assert lmdb.read_bytes() == sound
    assert "pack" not in json.loads(ready.run("dvc", "status", "--json").stdout)


def lmdb_object(clone: Clone) -> str:
    """Where DVC's cache has the split's images, by its own listing of the folder."""
    listing = locked(clone, "pack")["outs"][0]["md5"]
    entries = json.loads((clone.folder / ".dvc/cache/files/md5" / listing[:2] / listing[2:]).read_text())
    md5 = next(entry["md5"] for entry in entries if entry["relpath"] == "val.lmdb")
    return f"{md5[:2]}/{md5[2:]}"


def test_info_tells_whether_the_metrics_are_the_models(ready):
    ready.run("dvc", "repro", "-s", "train")
    ready.run("dvc", "repro", "-s", "evaluate")
    info = ["m2det.cli.main", "info", "models/m2det.safetensors"]
    record = json.loads((ready.folder / "results/evaluation.json").read_text())
    assert (
        record["sha256"]["model"]
        == hashlib.sha256((ready.folder / "models/m2det.safetensors").read_bytes()).hexdigest()
    )
    assert record["scorer"] == "hotcoco"
    assert isinstance(json.loads((ready.folder / "results/detections.json").read_text()), list)
    assert "results/metrics.json is of this model" in ready.run(*info).stdout
    metrics = ready.folder / "results/metrics.json"
    before = metrics.read_text()
    metrics.write_text(before.replace("0", "1"))
    assert "results/metrics.json changed since" in ready.run(*info).stdout
    metrics.write_text(before)
    ready.edit({"seed: ": "seed: 52"})
    ready.run("dvc", "repro", "-s", "train")
    assert "results/metrics.json is of ANOTHER model" in ready.run(*info).stdout
    ready.edit({"seed: ": "seed: 49"})
