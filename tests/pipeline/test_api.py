"""The Prefect API that a stage reports to is the one that Prefect's own commands use in the same folder."""

import itertools
import os
import subprocess
import sys

import pytest
from prefect.settings import Settings, sources

from flows.api import api_sources, api_url
from tests.conftest import ROOT

SET = {
    "environment": lambda folder, patch: patch.setenv("PREFECT_API_URL", "http://environment/api"),
    "none": lambda folder, patch: patch.setenv("PREFECT_API_URL", ""),
    "lowercase": lambda folder, patch: patch.setenv("prefect_api_url", "http://lowercase/api"),
    ".env": lambda folder, patch: (folder / ".env").write_text("PREFECT_API_URL='http://dotenv/api'  # mine\n"),
    "prefect.toml": lambda folder, patch: (folder / "prefect.toml").write_text('[api]\nurl = "http://toml/api"\n'),
    "pyproject": lambda folder, patch: (folder / "pyproject.toml").write_text(
        '[tool.prefect]\nprofiles_path = "others.toml"\n[tool.prefect.api]\nurl = "http://pyproject/api"\n'
    ),
    "no url": lambda folder, patch: (folder / "pyproject.toml").write_text("[tool.prefect.plugins]\nenabled = true\n"),
    "profile": lambda folder, patch: (folder / "home/profiles.toml").write_text(
        'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://a/api"\n[profiles.b]\nPREFECT_API_URL = "http://b/api"\n'
    ),
    "another profile": lambda folder, patch: patch.setenv("PREFECT_PROFILE", "b"),
    "a profile that is not there": lambda folder, patch: patch.setenv("PREFECT_PROFILE", "gone"),
    "a shipped profile": lambda folder, patch: patch.setenv("PREFECT_PROFILE", "local"),
    "PREFECT_HOME": lambda folder, patch: patch.setenv("PREFECT_HOME", str(folder / "home")),
    "others": lambda folder, patch: (folder / "others.toml").write_text(
        'active = "o"\n[profiles.o]\nPREFECT_API_URL = "http://others/api"\n'
    ),
    "PREFECT_PROFILES_PATH": lambda folder, patch: patch.setenv("PREFECT_PROFILES_PATH", "others.toml"),
}


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder and a home without any setting of Prefect's."""
    for name in [name for name in os.environ if name.upper().startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sources, "DEFAULT_PREFECT_HOME", tmp_path / ".prefect")
    monkeypatch.chdir(tmp_path)
    return tmp_path


CHOSEN = ("profile", "another profile", "PREFECT_HOME")
COMBINATIONS = [*itertools.combinations(SET, 1), *itertools.combinations(SET, 2), CHOSEN, tuple(SET)]


def test_every_source_and_pair_of_sources_gives_prefects_url(empty):
    urls = set()
    for names in COMBINATIONS:
        with pytest.MonkeyPatch.context() as patch:
            before = set(empty.rglob("*"))
            for name in names:
                SET[name](empty, patch)
            sources._file_cache.clear()
            urls.add(url := api_url())
            assert url == (Settings().api.url or None), names
            for path in set(empty.rglob("*")) - before:
                path.unlink()
    assert len(urls) == 10, urls


def test_a_message_can_name_where_the_url_is_set(empty, monkeypatch):
    SET["profile"](empty, monkeypatch)
    SET["PREFECT_HOME"](empty, monkeypatch)
    SET["prefect.toml"](empty, monkeypatch)
    assert list(api_sources()) == [
        ("prefect.toml", "http://toml/api"),
        (f"profile a of {empty}/home/profiles.toml", "http://a/api"),
    ]


def test_finding_it_does_not_import_prefect():
    code = "import sys, flows.api; flows.api.api_url(); sys.exit('prefect' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"PREFECT_PROFILE": "local"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
