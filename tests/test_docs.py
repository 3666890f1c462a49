"""The README and the pages of docs/ name only what exists, and the README stays short."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from m2det.cli.main import main
from m2det.config import parameter_keys
from m2det.config.recipes import recipe_names
from m2det_prefect import deployments, full_names

ROOT = Path(__file__).parents[1]
SITE = sorted((ROOT / "docs").rglob("*.md"))  # two of them are links to files of the root folder
CURRENT = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")),
    *(page for page in SITE if not page.is_symlink()),
]
PAGES = [*CURRENT, ROOT / "CHANGELOG.md"]  # which names what is gone as well
MAX_LINES, MAX_COMMANDS = 130, 8
FOLDERS = ("m2det", "tasks", "flows", "tests", "docs", "deploy", "examples", "benchmarks")
SECTIONS = sorted({key.partition(".")[0] for key in parameter_keys() if "." in key})
FILE_ENDINGS = ("json", "py", "csv", "yaml", "md", "safetensors")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def code_spans(text: str) -> list[str]:
    """Return what stands in single backticks outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def commands(text: str, program: str) -> list[str]:
    """Return the arguments of each call of `program`, in shell blocks and in backticks, comments removed."""
    lines = [line.split(" #")[0] for block in blocks(text, "sh") for line in block.splitlines()]
    parts = [part.strip() for line in [*lines, *code_spans(text)] for part in re.split(r"&&|;", line)]
    return [part.removeprefix(f"{program} ") for part in parts if part.startswith(f"{program} ")]


def broken_links(page: Path) -> list[str]:
    """Return the relative links and pictures of a page that lead nowhere."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    local = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    return [target for target in local if not (page.resolve().parent / target).exists()]


def missing_paths(text: str) -> list[str]:
    """Return the paths in backticks under the project's folders that do not exist."""
    named = [span for span in code_spans(text) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", span)]
    flows = full_names(deployments(ROOT / "prefect.yaml")).values()
    return [span for span in named if span not in flows and not (ROOT / span).exists()]


def unknown_keys(text: str) -> list[str]:
    """Return the names such as train.lr in backticks that are no key of params.yaml."""
    named = [span.partition(":")[0] for span in code_spans(text)]
    named = [name for name in named if re.fullmatch(rf"({'|'.join(SECTIONS)})\.\w+", name)]
    return [name for name in named if name not in parameter_keys() and not name.endswith(FILE_ENDINGS)]


def doors() -> Iterator[tuple[str, str]]:
    """Yield title and text of the README's ways to start."""
    for part in re.split(r"^#+ ", (ROOT / "README.md").read_text(), flags=re.MULTILINE):
        title, _, text = part.partition("\n")
        if re.match(r"\d\. ", title):
            yield title, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](page.md#b) [b](gone.md) ![c](pictures/gone.png) [d](https://example.com/gone) [e](#f)")
    assert broken_links(page) == ["gone.md", "pictures/gone.png"]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_keys_exist(page: Path) -> None:
    text = page.read_text()
    assert missing_paths(text) == []
    assert unknown_keys(text) == []


def test_a_path_and_a_key_that_are_gone_are_seen() -> None:
    text = "`m2det/boxes.py` `m2det/gone.py` `train.lr` `train.json` `train.rate` `run.processes: 8` `train.lr_gone: 3`"
    assert missing_paths(text) == ["m2det/gone.py"]
    assert unknown_keys(text) == ["train.rate", "train.lr_gone"]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_m2det_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page.read_text(), "m2det"):
        check_command(command, capsys)


def check_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Assert that the parser has the command with these options, and that a recipe it names exists."""
    words = command.split()
    leading = words[: next((i for i, word in enumerate(words) if not re.fullmatch(r"[a-z]+", word)), len(words))]
    with pytest.raises(SystemExit) as ended:
        main([*leading, "--help"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, f"m2det {command}: {printed.err}"
    for option in re.findall(r"--[a-z-]+", command):
        assert option in printed.out, f"m2det {command}: no {option}"
    if words[0] == "use" and words[1] != "NAME":
        assert words[1] in recipe_names()


@pytest.mark.parametrize("command", ["gone", "data gone", "detect --gone"])
def test_a_command_that_is_gone_is_seen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError):
        check_command(command, capsys)


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_and_deployments_exist(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [command for command in commands(text, "make") if command.split()[0] not in targets] == []
    names = [entry["name"] for entry in deployments(ROOT / "prefect.yaml")]
    runs = [command.split()[0] for command in commands(text, "prefect deployment run")]
    assert [name for name in runs if name not in names] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_LINES
    found = {title: sum(len(block.splitlines()) for block in blocks(text, "sh")) for title, text in doors()}
    assert len(found) == 3
    assert all(0 < number <= MAX_COMMANDS for number in found.values()), found


def test_the_readme_names_what_the_project_is_started_with() -> None:
    made = commands((ROOT / "README.md").read_text(), "make")
    assert "repro" in made
    assert "test" in made


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in SITE)


def test_examples_of_the_python_api_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.squares import make_material  # they import torch
    from tests.tiny_model import write_tiny_model

    monkeypatch.chdir(tmp_path)
    make_material(tmp_path / "made")
    (tmp_path / "photos").mkdir()
    for name in ("a.json", "images"):
        (tmp_path / "made" / name).rename(tmp_path / "photos" / name)
    (tmp_path / "models").mkdir()
    write_tiny_model(tmp_path).rename("models/m2det.safetensors")
    cv2.imwrite("photo.jpg", np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    examples = blocks((ROOT / "docs" / "api.md").read_text(), "python")
    assert len(examples) > 5
    exec("\n".join(examples), {})
