"""Measure what running a stage as a flow of Prefect adds to its work: `python -m benchmarks.orchestration`.

A stage with an empty step is run in three ways, in turn: its checks of parameters and inputs by a script; plainly, as
`python -m flows.STAGE` without a Prefect API; and as a flow that reports to a server of its own on this machine.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.rest import Server

CHECKS = "from tasks.common import params; from tasks.inputs import conclude, inputs_of; params(); inputs_of('trial')"
STAGE = "from flows.stage import run_stage; run_stage('trial', lambda: None)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what Prefect adds to a stage's work.")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as tracked:
        plain = tracked | {"PREFECT_API_URL": ""}
        ways = {"script": (CHECKS, plain), "plain": (STAGE, plain), "flow": (STAGE, tracked)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, (code, environment) in ways.items():
                seconds[name].append(measure(code, environment))
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first one fills caches
    print(f"median seconds of {rounds} rounds: " + ", ".join(f"{name} {value:.2f}" for name, value in medians.items()))
    for name in ("plain", "flow"):
        apart = [own - script for own, script in zip(seconds[name][1:], seconds["script"][1:], strict=True)]
        print(f"{name}: {statistics.median(apart):.2f} s more than the script ({min(apart):.2f} to {max(apart):.2f})")


@contextmanager
def server(home: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server meanwhile; yield the environment in which it is the one to report to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (home / "log.txt").open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as run:
        try:
            while not Server(url).is_healthy(home):
                if run.poll() is not None:
                    sys.exit(f"the server has ended: {(home / 'log.txt').read_text()}")
                time.sleep(0.3)
            yield environment
        finally:
            run.terminate()


def measure(code: str, environment: dict[str, str]) -> float:
    """Return the seconds of a Python process that runs the code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
