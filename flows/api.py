"""Which Prefect API is in use, found where Prefect looks and in its order; importing Prefect would take 1.2 s."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from m2det.errors import InputError

URL = "PREFECT_API_URL"
TOML = Path("prefect.toml")
DOTENV = Path(".env")


def api_url() -> str | None:
    """Return the URL of the Prefect API in use, or None; an empty URL in a source of higher rank means none, too."""
    return next((url for _, url in api_sources()), "") or None


def api_sources() -> Iterator[tuple[str, str]]:
    """Yield where the URL of a Prefect API is set, in words, and the URL; what Prefect ranks first comes first."""
    pyproject = _table(_toml(Path("pyproject.toml")), "tool", "prefect")
    found: list[tuple[str, Any]] = [
        (f"the variable {URL}", {name.upper(): value for name, value in os.environ.items()}.get(URL)),
        (str(DOTENV), _dotenv().get(URL)),
        (str(TOML), _table(_toml(TOML), "api").get("url")),
        ("pyproject.toml", _table(pyproject, "api").get("url")),
    ]
    path = _profiles_path(pyproject)
    profiles = _toml(path)
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    found.append((f"profile {name} of {path}", _table(profiles, "profiles", str(name)).get(URL)))
    yield from ((where, url) for where, url in found if url is not None)


def refuse_another_server(url: str) -> None:
    """Raise InputError if a setting names another server than that at `url`, or a proxy stands before that one."""
    for where, other in api_sources():
        if other and _same(other) != _same(url):
            raise InputError(
                f"{where} sets the Prefect server {other}, but `make prefect` starts one at {url}: remove that setting "
                f"(a profile: export PREFECT_PROFILE=ephemeral), or use that server, as docs/pipeline.md says"
            )
    from urllib.request import getproxies, proxy_bypass  # 0.1 s, which stages save

    host = urlsplit(url).hostname or ""
    if "http" in getproxies() and not proxy_bypass(host):
        raise InputError(f"http_proxy is set, and Prefect would ask the proxy for {url}: export no_proxy={host}")


def _same(url: str) -> str:
    """Return the URL in the form that `make prefect` prints, of those that lead to the same server."""
    return url.rstrip("/").replace("//localhost:", "//127.0.0.1:")


def _profiles_path(pyproject: dict[str, Any]) -> Path:
    set_to = (
        os.environ.get("PREFECT_PROFILES_PATH")
        or _dotenv().get("PREFECT_PROFILES_PATH")
        or _toml(TOML).get("profiles_path")
        or pyproject.get("profiles_path")
    )
    if set_to:
        return Path(set_to)
    home = os.environ.get("PREFECT_HOME")
    path = Path(home or os.path.expanduser("~/.prefect")) / "profiles.toml"  # noqa: PTH111 - Path's needs a home
    if home or os.access(path, os.R_OK):  # in a container, HOME may be a folder of another user
        return path
    prefect = find_spec("prefect")  # which is not imported by that
    return Path(prefect.origin).parent / "settings/profiles.toml" if prefect and prefect.origin else path


def _dotenv() -> dict[str, str | None]:
    if not DOTENV.is_file():
        return {}
    from dotenv import dotenv_values  # Prefect's own reader

    return {name.upper(): value for name, value in dotenv_values(DOTENV).items()}


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _table(content: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        content = content.get(name, {})
    return content
