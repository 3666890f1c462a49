"""The requests that `make prefect` makes to its server; importing Prefect's client would take 1.2 s."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from m2det.errors import InputError

BUSY_SECONDS, PAUSE_SECONDS = 60, 1.0  # a server whose database is locked by another request answers 503
ACTIVE = ("PENDING", "RUNNING", "CANCELLING")  # types of states in which a worker has the run
_open = build_opener(ProxyHandler({})).open  # the server is on this machine


class Server:
    """A Prefect server without authentication, by the URL of its API.

    Its requests raise OSError if it does not answer or refuses them, InputError if it asks for a password.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def is_healthy(self, home: Path) -> bool:
        """Return whether the server answers and is that of a PREFECT_HOME: another may have taken the port."""
        try:
            return self._send("GET", "health") is True and self._send("GET", "admin/settings")["home"] == str(home)
        except (OSError, HTTPException):
            return False

    def has_pool(self, pool: str) -> bool:
        """Return whether a work pool exists."""
        try:
            return self._send("GET", f"work_pools/{pool}") is not None
        except HTTPError as error:
            if error.code != 404:
                raise
            return False

    def pause_pool(self, pool: str, paused: bool) -> None:
        """Have the workers of a pool take no runs, or take them again."""
        self._send("PATCH", f"work_pools/{pool}", {"is_paused": paused})

    def has_worker(self, pool: str, since: datetime) -> bool:
        """Return whether a worker of the pool has reported since a time of this machine, in UTC."""
        workers = self._send("POST", f"work_pools/{pool}/workers/filter", {})
        beats = [worker["last_heartbeat_time"] for worker in workers]
        return any(datetime.fromisoformat(beat) >= since for beat in beats if beat)

    def active_runs(self, deployed: bool = False) -> list[dict[str, Any]]:
        """Return the flow runs that are at work, or those of deployments alone; at most 200, Prefect's limit."""
        deployments = {"deployment_id": {"is_null_": False}} if deployed else {}
        runs = self._send(
            "POST", "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ACTIVE}}, **deployments}}
        )
        assert isinstance(runs, list)
        return runs

    def set_state(self, runs: Sequence[dict[str, Any]], state: str, message: str) -> None:
        """Set the state of flow runs, by the type of the state."""
        for run in runs:
            body = {"state": {"type": state, "message": message}, "force": state == "CRASHED"}
            self._send("POST", f"flow_runs/{run['id']}/set_state", body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"}, method=method)
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with _open(request, timeout=30) as answer:
                    content = answer.read()
                return json.loads(content) if content else None
            except HTTPError as error:
                if error.code == 401:
                    raise InputError(
                        "the server asks for a password, which `make prefect` does not give: unset "
                        "PREFECT_SERVER_API_AUTH_STRING (the server listens on this machine alone)"
                    ) from error
                if error.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)
