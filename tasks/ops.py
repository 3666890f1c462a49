"""Stage `ops`: the compiled non-maximum suppression, in place."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from m2det.errors import InputError
from tasks.common import OPS_STAMP

SOURCES = (Path("m2det/ops/nms.pyx"), Path("setup.py"))


def ops() -> None:
    """Build m2det/ops/_nms and write build/ops.json; the extension differs between machines, so it is no output."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"]
    build = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if build.returncode:
        last = " | ".join(build.stdout.strip().splitlines()[-5:])
        raise InputError(f"m2det/ops/nms.pyx does not build; a C compiler and Python's headers are needed: {last}")
    stamp = {source.as_posix(): hashlib.sha256(source.read_bytes()).hexdigest() for source in SOURCES}
    OPS_STAMP.parent.mkdir(exist_ok=True)
    temporary = OPS_STAMP.with_name(OPS_STAMP.name + ".tmp")
    temporary.write_text(json.dumps(stamp, indent=2) + "\n")
    os.replace(temporary, OPS_STAMP)
    print(f"built m2det.ops._nms for {sys.implementation.cache_tag}")
