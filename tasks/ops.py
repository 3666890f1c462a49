"""Stage `ops`: the compiled non-maximum suppression, in place.

An experiment's temporary copy takes what the working copy, or another copy, has built from the same sources.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from m2det.errors import InputError
from m2det.files.hashing import digest, file_sha256
from m2det.files.locks import exclusive_writer_lock
from m2det.files.whole import replacing, write_whole
from tasks.common import OPS_STAMP, main_root

SOURCES = (Path("m2det/ops/nms.pyx"), Path("setup.py"))
EXTENSION = Path(f"m2det/ops/_nms{sysconfig.get_config_var('EXT_SUFFIX')}")  # names Python's version and the machine
BUILDS = Path("build/ops")  # of the working copy: HASH/_nms...so


def ops() -> None:
    """Build m2det/ops/_nms and write build/ops.json; the extension differs between machines, so it is no output."""
    stamp = _stamp()
    builds = main_root() / BUILDS
    kept = builds / digest(stamp.encode()) / EXTENSION.name
    with exclusive_writer_lock(builds):  # copies that start together build once
        if main_root() != Path().resolve() and kept.exists():
            _copy(kept, EXTENSION)
            print(f"m2det.ops._nms for {sys.implementation.cache_tag} was built from the same sources before")
        else:
            _build()
            if _stamp() == stamp:  # else somebody has edited them meanwhile
                _copy(EXTENSION, kept)
            print(f"built m2det.ops._nms for {sys.implementation.cache_tag}")
    write_whole(OPS_STAMP, _stamp())


def _build() -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"]
    build = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if build.returncode:
        last = " | ".join(build.stdout.strip().splitlines()[-5:])
        raise InputError(f"m2det/ops/nms.pyx does not build; a C compiler and Python's headers are needed: {last}")


def _stamp() -> str:
    return json.dumps({source.as_posix(): file_sha256(source) for source in SOURCES}, indent=2) + "\n"


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
