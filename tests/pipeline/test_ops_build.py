"""The extension is compiled once for the working copy and all its temporary copies."""

import os
import subprocess
from pathlib import Path

import pytest

from tasks import ops as stage
from tests.conftest import ROOT

EXPERIMENT = Path(".dvc/tmp/exps/tmp1/project")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working copy with one experiment's copy, and a compiler that writes what it was given; (folder, builds)."""
    builds = []

    def compile_sources(command, **_options):
        builds.append(Path.cwd())
        stage.EXTENSION.write_bytes(b"built from " + stage.SOURCES[0].read_bytes())
        return subprocess.CompletedProcess(command, 0, "")

    for folder in (tmp_path, tmp_path / EXPERIMENT):
        for source in stage.SOURCES:
            (folder / source).parent.mkdir(parents=True, exist_ok=True)
            (folder / source).write_bytes((ROOT / source).read_bytes())
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(stage.subprocess, "run", compile_sources)
    return tmp_path, builds


def run_in(folder: Path) -> bytes:
    """Run the stage in the folder; return the extension that is there then."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        stage.ops()
        return stage.EXTENSION.read_bytes()
    finally:
        os.chdir(before)


def test_a_copy_takes_what_the_working_copy_has_built(project):
    folder, builds = project
    assert run_in(folder) == run_in(folder / EXPERIMENT)
    assert builds == [folder]
    stamps = {(place / "build/ops.json").read_text() for place in (folder, folder / EXPERIMENT)}
    assert len(stamps) == 1 and "nms.pyx" in stamps.pop()


def test_a_copy_with_other_sources_builds_its_own(project):
    folder, builds = project
    run_in(folder)
    source = folder / EXPERIMENT / stage.SOURCES[0]
    source.write_bytes(source.read_bytes() + b"# edited\n")
    assert run_in(folder / EXPERIMENT).endswith(b"# edited\n")
    assert not run_in(folder).endswith(b"# edited\n")
    assert builds == [folder, folder / EXPERIMENT, folder]


def test_the_working_copy_builds_whenever_it_is_asked(project):
    """`dvc repro -f ops` is the remedy for an extension that does not load."""
    folder, builds = project
    run_in(folder)
    run_in(folder)
    assert builds == [folder, folder]


def test_a_build_whose_sources_were_edited_meanwhile_is_not_kept(project, monkeypatch):
    folder, builds = project
    compile_sources = stage.subprocess.run

    def edit_and_compile(command, **_options):
        source = Path.cwd() / stage.SOURCES[0]
        source.write_bytes(source.read_bytes() + b"# edited\n")
        return compile_sources(command)

    monkeypatch.setattr(stage.subprocess, "run", edit_and_compile)
    run_in(folder)
    monkeypatch.setattr(stage.subprocess, "run", compile_sources)
    assert not run_in(folder / EXPERIMENT).endswith(b"# edited\n")
    assert builds == [folder, folder / EXPERIMENT]
