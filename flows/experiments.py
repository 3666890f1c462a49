"""`m2det experiments`: DVC's experiments as a table that fits a terminal.

`dvc exp show` has a column for each parameter and each dependency, 171 in all. This table, made of what `dvc exp show
--json` prints, has the parameters that differ.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from m2det.config import dotted
from m2det.text import printable, undefined_note
from tasks.common import PARAMS, RESULTS

HEADER = ("experiment", "state", "AP", "AP50", "img/s", "made", "changed")
AP_COLUMNS = slice(HEADER.index("AP"), HEADER.index("img/s"))
STATES = {"success": "done"}  # DVC's word; the others are queued, running and failed
NUMBERS = {"AP": ".3f", "AP50": ".3f", "img/s": ".4g"}
MIN_CHANGES = 30  # columns for what has changed, however narrow the terminal is


def main() -> None:
    """Print the table as wide as the terminal is."""
    parser = argparse.ArgumentParser("m2det experiments")
    parser.add_argument("--all", action="store_true")
    every = ["--all-commits"] if parser.parse_args().all else []
    shown = subprocess.run([sys.executable, "-m", "dvc", "exp", "show", "--json", *every], capture_output=True)
    if shown.returncode:
        sys.exit(f"error: dvc exp show: {printable(shown.stderr.decode(errors='replace').strip())}")
    print(table(json.loads(shown.stdout), shutil.get_terminal_size((120, 24)).columns), end="")


def table(states: list[dict[str, Any]], width: int) -> str:
    """Return the table, and a line on an AP of -1 where there is one.

    Args:
        states: as `dvc exp show --json` prints them: the working copy, then commits with their experiments.
        width: in characters; what has changed is wrapped.
    """
    rows = [HEADER, *_rows(states)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    indent = sum(widths) + 2 * len(widths)
    text = ""
    for *cells, changes in rows:
        start = "".join(f"{cell:<{wide}}  " for cell, wide in zip(cells, widths, strict=True))
        room = max(width - indent, MIN_CHANGES)
        lines = textwrap.wrap(changes, room, break_on_hyphens=False) or [""]
        text += f"\n{' ' * indent}".join([start + lines[0], *lines[1:]]).rstrip() + "\n"
    undefined = any(cell.startswith("-1.") for row in rows for cell in row[AP_COLUMNS])
    return text + f"AP{undefined_note(-1.0)}\n" * undefined


def _rows(states: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    workspace, *commits = states
    yield _row("workspace", "", workspace, commits[0])
    for commit in commits:
        yield _row(f"{commit['name'] or ''} {commit['rev'][:7]}".strip(), "", commit, commit)
        for experiment in commit["experiments"] or ():
            newest, executor = experiment["revs"][0], experiment["executor"] or {"state": "success"}
            state = STATES.get(executor["state"], executor["state"])
            yield _row(f"  {experiment['name'] or newest['name'] or newest['rev'][:7]}", state, newest, commit)


def _row(name: str, state: str, shown: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[str, ...]:
    data = shown["data"] or {}
    # the others' files are still those of the commit
    metrics = _metrics(data) if state in ("", "done") else {}
    params, before = _params(data), _params(baseline["data"] or {})
    # as `dvc exp run -S` takes them
    changes = [f"{key}={_value(value)}" for key, value in params.items() if before.get(key, value) != value]
    made = datetime.fromisoformat(data["timestamp"]).strftime("%d %b %H:%M") if data.get("timestamp") else ""
    numbers = (f"{metrics[key]:{form}}" if key in metrics else "" for key, form in NUMBERS.items())
    return (printable(name), state, *numbers, made, printable(" ".join(changes)))


def _metrics(data: Mapping[str, Any]) -> dict[str, float]:
    """Return AP and AP50 of the evaluation and img/s of training; a metric that DVC has not is missing."""
    files = data.get("metrics", {})
    read = (files.get(f"{RESULTS}/{name}", {}).get("data") for name in ("metrics.json", "speed.json"))
    return {key: value for metrics in read if metrics for key, value in metrics.items()}


def _params(data: Mapping[str, Any]) -> dict[str, Any]:
    return dotted(data.get("params", {}).get(str(PARAMS), {}).get("data") or {})


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    main()
