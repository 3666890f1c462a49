"""Whether a process that a test started still runs."""

import os
import time
from pathlib import Path


def gone(pid: int, within: float = 30.0) -> bool:
    """Return whether the process ends within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that still work on the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def none_left(folder: Path, within: float = 40.0) -> bool:
    deadline = time.monotonic() + within
    while left_over(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
