"""Whether a process that a test started still runs."""

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
