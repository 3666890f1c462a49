"""Two hosts for two nodes: network namespaces with a link between them, where this machine allows that."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT

NAMES = ("m2det-a", "m2det-b")


def free_port() -> int:
    """A port that is free, as the next one is."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Loopback:
    """Both hosts are this one."""

    links = False

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"

    def command(self, host: int) -> list[str]:  # noqa: ARG002
        return []

    def close(self) -> None:
        pass


class Namespaces:
    """Two network namespaces, each with a host name of its own, and a pair of network devices that connects them."""

    links = True
    address = "10.77.0.1:29500"

    def __init__(self) -> None:
        self.close()
        for name in NAMES:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "m2det0", "netns", NAMES[0], "type", "veth", "peer", "name", "m2det1", "netns", NAMES[1])
        for i, name in enumerate(NAMES):
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", f"m2det{i}")
        self.set_link("up")

    def set_link(self, state: str) -> None:
        for i, name in enumerate(NAMES):
            ip("-n", name, "link", "set", f"m2det{i}", state)

    def command(self, host: int) -> list[str]:
        """What runs the words that follow on the host, with its name."""
        named = ["unshare", "--uts", "sh", "-c", f'hostname {NAMES[host]}; exec "$@"', "sh"]
        return ["ip", "netns", "exec", NAMES[host], *named]

    def close(self) -> None:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def make_hosts() -> Loopback | Namespaces:
    """Namespaces, or the loopback where these cannot be made, which is said."""
    if os.geteuid() == 0 and shutil.which("ip") and shutil.which("unshare"):
        try:
            return Namespaces()
        except subprocess.CalledProcessError as error:
            print(f"two agents on loopback: {error.stderr!r}")
    else:
        print("two agents on loopback: network namespaces need root, ip and unshare")
    return Loopback()


class Node:
    """A process on one of the hosts, with all that it prints."""

    def __init__(self, hosts: Loopback | Namespaces, host: int, folder: Path, module: str, *arguments: object) -> None:
        """Start it; its log and its temporary files go to the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False, suffix=".log") as file:
            self.log = Path(file.name)
        command = [*hosts.command(host), sys.executable, "-m", module, *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment)

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def ended(self, within: float) -> int:
        """The exit status; fail where the process lives on."""
        try:
            return self.process.wait(within)
        finally:
            self.process.kill()

    def wait_for(self, look: Callable[[], object], within: float = 120) -> None:
        deadline = time.monotonic() + within
        while not look():
            assert self.process.poll() is None and time.monotonic() < deadline, self.printed
            time.sleep(0.05)

    def children(self, word: str) -> list[int]:
        """The processes below this one, at any depth, whose command line has the word."""
        import psutil

        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if word in " ".join(child.cmdline()):
                    found.append(child.pid)
            except psutil.NoSuchProcess:
                continue
        return sorted(found)
