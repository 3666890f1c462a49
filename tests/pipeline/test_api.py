"""The Prefect API that a stage reports to is the one that Prefect's own commands use in the same folder."""

import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import pytest
from prefect.settings import Settings, sources

from flows.api import api_sources, api_url
from tests.conftest import ROOT

URL = "PREFECT_API_URL"
VARIABLES = {
    "environment": (URL, "http://environment/api"),
    "none": (URL, ""),
    "lowercase": ("prefect_api_url", "http://lowercase/api"),
    "another profile": ("PREFECT_PROFILE", "b"),
    "a profile that is not there": ("PREFECT_PROFILE", "gone"),
    "a shipped profile": ("PREFECT_PROFILE", "local"),
    "home": ("PREFECT_HOME", "home"),
    "profiles elsewhere": ("PREFECT_PROFILES_PATH", "others.toml"),
}
FILES = {
    "dotenv": (".env", f"{URL}='http://dotenv/api'  # mine\n"),
    "prefect.toml": ("prefect.toml", '[api]\nurl = "http://toml/api"\n'),
    "plugins": ("pyproject.toml", "[tool.prefect.plugins]\nenabled = true\n"),
    "pyproject": (
        "pyproject.toml",
        '[tool.prefect]\nprofiles_path = "others.toml"\n[tool.prefect.api]\nurl = "http://pyproject/api"\n',
    ),
    "profiles": (
        "home/profiles.toml",
        f'active = "a"\n[profiles.a]\n{URL} = "http://a/api"\n[profiles.b]\n{URL} = "http://b/api"\n',
    ),
    "others": ("others.toml", f'active = "o"\n[profiles.o]\n{URL} = "http://others/api"\n'),
}
NAMES = [*VARIABLES, *FILES]


def set_up(names: Iterable[str], patch: pytest.MonkeyPatch) -> None:
    """Make the files and variables in the working directory, and no others."""
    for path, _ in FILES.values():
        Path(path).unlink(missing_ok=True)
    for name in names:
        if name in FILES:
            Path(FILES[name][0]).write_text(FILES[name][1])
        else:
            patch.setenv(*VARIABLES[name])
    sources._file_cache.clear()


@pytest.fixture
def empty(tmp_path, monkeypatch) -> None:
    """A folder and a home without any setting of Prefect's."""
    for name in [name for name in os.environ if name.upper().startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sources, "DEFAULT_PREFECT_HOME", tmp_path / ".prefect")
    monkeypatch.chdir(tmp_path)


COMBINATIONS = [*combinations(NAMES, 1), *combinations(NAMES, 2), ("profiles", "another profile", "home"), NAMES]


@pytest.mark.usefixtures("empty")
def test_every_source_and_pair_of_sources_gives_prefects_url():
    urls = set()
    for names in COMBINATIONS:
        with pytest.MonkeyPatch.context() as patch:
            set_up(names, patch)
            urls.add(url := api_url())
            assert url == (Settings().api.url or None), names
    assert len(urls) == 10, urls


@pytest.mark.usefixtures("empty")
def test_a_message_can_name_where_the_url_is_set(monkeypatch):
    set_up(["home", "profiles", "prefect.toml"], monkeypatch)
    assert list(api_sources()) == [
        ("prefect.toml", "http://toml/api"),
        ("profile a of home/profiles.toml", "http://a/api"),
    ]


@pytest.mark.usefixtures("empty")
def test_a_home_that_cannot_be_read_or_found_has_no_profile(monkeypatch):
    """As of a user of a container who has no entry in /etc/passwd, with HOME=/root."""
    shipped = api_url()
    monkeypatch.setattr("os.access", lambda *_: False)
    (Path.home() / ".prefect").mkdir()
    (Path.home() / ".prefect/profiles.toml").write_text(FILES["profiles"][1])
    assert api_url() == shipped
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert api_url() == shipped


def test_finding_it_does_not_import_prefect():
    code = "import sys, flows.api; flows.api.api_url(); sys.exit('prefect' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"PREFECT_PROFILE": "local"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
