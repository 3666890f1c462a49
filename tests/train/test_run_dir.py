"""Unfinished trainings: one process at a time, listed, compared, deleted."""

import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import torch

from m2det.cli.main import main
from m2det.errors import InputError
from m2det.files.inputs import FOLDER, Inputs
from m2det.files.locks import exclusive_writer_lock, locked
from m2det.files.whole import write_whole
from m2det.train.checkpoint import save_state
from m2det.train.run_dir import unfinished_runs, write_run_config
from tests.conftest import ROOT
from tests.training import interrupt_at_5, run, settings

SHAPE = {"epochs": 3, "seed": 1, "model": {"name": "m2det-tiny"}, "train": {"lr": 0.1}, "hashes": {"cache": "a"}}
HOLD = """
import os, sys, time
from pathlib import Path
from m2det.files.locks import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        sys.argv.append("child")  # which is stopped, say, and lives on
    os.write(1, b"locked\\n" if len(sys.argv) == 2 else b"%d\\n" % os.getpid())  # in one piece, beside the other's
    time.sleep(60)
"""


def test_a_second_process_is_kept_out_until_the_first_ends_however_it_ends(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE)
    [child] = {int(line) for line in (holder.stdout.readline(), holder.stdout.readline()) if line != b"locked\n"}
    with pytest.raises(InputError, match=f"the process {holder.pid} works in .*run already"), locked(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run/lock").read_text() == str(os.getpid())
    os.kill(child, signal.SIGKILL)


def test_a_writer_waits_for_the_writer_of_an_earlier_run_and_says_so(tmp_path, caplog):
    code = HOLD.replace("locked(", "exclusive_writer_lock(").replace("import locked", "import exclusive_writer_lock")
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE)
    [child] = {int(line) for line in (holder.stdout.readline(), holder.stdout.readline()) if line != b"locked\n"}
    released = []
    threading.Timer(1.0, lambda: (released.append(True), holder.kill())).start()
    with exclusive_writer_lock(tmp_path / "run"):
        assert released, "no second writer"
    assert f"waiting for process {holder.pid}, which still writes in {tmp_path / 'run'}" in caplog.text
    holder.wait()
    os.kill(child, signal.SIGKILL)


def test_a_new_run_says_in_what_it_differs_from_the_nearest(tmp_path, caplog):
    caplog.set_level("INFO")
    for name, changes in (("a", {}), ("b", {"epochs": 9, "seed": 7, "train": {"lr": 0.3}})):
        (tmp_path / name).mkdir()
        write_run_config(tmp_path / name, SHAPE | changes)
        save_state(tmp_path / name, {"step": 5})
    caplog.clear()
    (tmp_path / "c").mkdir()
    write_run_config(tmp_path / "c", SHAPE | {"train": {"lr": 0.2}})
    assert f"{tmp_path / 'a'}, unfinished at step 5, has other train.lr" in caplog.text
    caplog.clear()
    write_run_config(tmp_path / "c", SHAPE | {"train": {"lr": 0.2}})
    assert caplog.text == "", "a run that goes on is nothing new"


def test_a_run_that_differs_only_in_code_says_how_to_continue_with_the_old(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    code = {"params.yaml": "epochs: 3\n", "m2det/ema.py": "old\n", "m2det/boxes.py": "same\n"}
    for name, text in code.items():
        write_whole(tmp_path / name, text)
    old, new = tmp_path / "models/unfinished/old", tmp_path / "models/unfinished/new"
    write_run_config(old, SHAPE | {"hashes": {"cache": "a", "code": "1"}})
    Inputs.record("params.yaml", ["epochs"], ["m2det"], {}).keep(old / FOLDER)
    save_state(old, {"step": 5})
    write_whole(tmp_path / "m2det/ema.py", "new\n")
    write_whole(tmp_path / "m2det/more.py", "")
    write_run_config(new, SHAPE | {"hashes": {"cache": "a", "code": "2"}})
    said = caplog.text
    assert (
        f"{old}, unfinished at step 5, has other code, and nothing else: m2det/ema.py edited; m2det/more.py is new."
        in said
    )
    command = re.search(r"copy your edits, then: (.+); and train again", said)[1]
    assert command == "cp models/unfinished/old/inputs/m2det/ema.py m2det/ema.py && rm m2det/more.py"
    subprocess.run(["sh", "-c", command], check=True)
    assert {name: (tmp_path / name).read_text() for name in code} == code and not (tmp_path / "m2det/more.py").exists()

    caplog.clear()
    (old / FOLDER / "inputs.json").write_text("{")
    write_run_config(tmp_path / "models/unfinished/third", SHAPE | {"hashes": {"cache": "a", "code": "3"}})
    assert "has other hashes.code" in caplog.text and "then:" not in caplog.text, "nothing is known of the code"


def test_they_are_listed_and_deleted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "list"]) == 0 and capsys.readouterr().out == ""
    folder = tmp_path / "models/unfinished/abc"
    folder.mkdir(parents=True)
    write_run_config(folder, SHAPE)
    save_state(folder, {"step": 5})
    assert main(["runs", "list"]) == 0
    assert capsys.readouterr().out.startswith("abc  m2det-tiny, 3 epochs, seed 1: step 5, 0.0 MB")
    assert main(["runs", "delete", "x"]) == 1
    assert "no unfinished training; there are: abc" in capsys.readouterr().err
    assert main(["runs", "delete", "abc"]) == 0
    assert unfinished_runs(tmp_path / "models/unfinished") == [] and not folder.exists()


def test_runs_are_told_apart_by_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = SHAPE["train"] | {"gammas": [1.0, 0.1]}
    shapes = {
        "a": SHAPE | {"train": train, "hashes": {"cache": "1" * 64, "code": "2" * 64, "params": "3" * 64}},
        "b": SHAPE
        | {"train": train | {"gammas": [1.0]}, "hashes": {"cache": "1" * 64, "code": "4" * 64, "params": "5"}},
    }
    for name, shape in shapes.items():
        write_run_config(tmp_path / "models/unfinished" / name, shape)
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a  m2det-tiny, 3 epochs, seed 1, hashes.code 222222, train.gammas [1.0, 0.1]: step 0, 0.0 MB",
        "b  m2det-tiny, 3 epochs, seed 1, hashes.code 444444, train.gammas [1.0]: step 0, 0.0 MB",
    ]


def test_a_damaged_description_is_left_out_and_can_be_deleted(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        write_run_config(tmp_path / "models/unfinished" / name, SHAPE)
    (tmp_path / "models/unfinished/a/run.json").write_text('{"epochs": 3')
    (tmp_path / "models/unfinished/b/run.json").write_text("[]")
    assert main(["runs", "list"]) == 0
    assert capsys.readouterr().out.startswith("c ") and "runs delete a" in caplog.text
    assert main(["runs", "delete", "a"]) == 0
    assert not (tmp_path / "models/unfinished/a").exists()


def test_a_run_that_continues_with_other_threads_says_that_its_bits_are_others(material, tmp_path, caplog):
    """On a CPU each thread adds up a part of a sum."""
    threads = torch.get_num_threads()
    interrupt_at_5(material, tmp_path, settings())
    torch.set_num_threads(threads + 1)
    try:
        run(material, tmp_path, settings())
    finally:
        torch.set_num_threads(threads)
    assert f"so far this run had device cpu, threads {threads}: the same images follow" in caplog.text
