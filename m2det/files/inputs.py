"""The inputs of a result as they were when the work began, compared with what they are later.

A training takes days, and DVC reads settings and files when it ends: an edit in between would be recorded as what the
model was made from. So the inputs are recorded at the start, and compared before the result is published.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2det.errors import InputError
from m2det.files.whole import write_whole
from m2det.files.yaml_file import read_yaml

log = logging.getLogger(__name__)

FOLDER = "inputs"  # in a run's folder, where they are kept
NAME, VERSION = "inputs.json", 2  # in that folder
ABSENT = "absent"  # of a setting that one of two params.yaml lacks
LARGE = 1 << 30  # bytes; larger files are not hashed at the start
# what Python, editors and NFS leave beside sources; .dvcignore has them, too
IGNORED = ("__pycache__", "*.so", "*~", ".*.sw?", "4913", ".DS_Store", ".nfs*")
Stat = tuple[int, int, int]  # inode, bytes, time of the last change in ns


@dataclass(frozen=True)
class Change:
    """One difference in words, and the file or the dependency that has it."""

    text: str
    path: str


@dataclass
class Data:
    """A file or folder that a stage made.

    files: stats and md5 of each file in it, "" for a large one; md5: of the whole, as `content_md5` has it, "" where
    nobody knows; restore: the command that brings it back.
    """

    files: dict[str, tuple[Stat, str]]
    md5: str
    restore: str


@dataclass
class Inputs:
    """What a result is made of; `Inputs()` holds nothing, and so never changes.

    params: the file of settings; keys: those that count, each a setting or a section; settings: their values by dotted
    key. sources: the project's files and folders; md5: of each file in them. data: what other stages made, by path.
    """

    params: str = "params.yaml"
    keys: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    md5: dict[str, str] = field(default_factory=dict)
    data: dict[str, Data] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._contents: dict[str, bytes] = {}  # of params and sources, while this process lives
        self._reported: list[Change] = []

    @classmethod
    def record(
        cls, params: str, keys: Sequence[str], sources: Sequence[str], data: Mapping[str, tuple[str, str]]
    ) -> Inputs:
        """Read all of them now, paths relative to the working directory.

        data: path -> (md5 of the whole or "", command that brings it back).
        Raises InputError for a params file that is missing or no YAML.
        """
        contents = dict(_read(sources))
        settings = _select(read_yaml(Path(params)), keys)
        made = {
            path: Data({p: (stat, _small_md5(p, stat)) for p, stat in _stats(path).items()}, md5, restore)
            for path, (md5, restore) in data.items()
        }
        inputs = cls(params, list(keys), settings, list(sources), {p: _md5(c) for p, c in contents.items()}, made)
        inputs._contents = {params: Path(params).read_bytes(), **contents}
        return inputs

    def keep(self, folder: Path) -> Path:
        """Write the record, and copies of params and sources, to the folder, alone; returns that of params."""
        shutil.rmtree(folder, ignore_errors=True)
        for path, content in self._contents.items():
            write_whole(folder / path, content)
        record = {
            **{name: getattr(self, name) for name in ("params", "keys", "settings", "sources", "md5")},
            "data": {path: vars(data) for path, data in self.data.items()},
        }
        write_whole(folder / NAME, json.dumps({"version": VERSION, **record}, default=str))
        return folder / self.params

    @classmethod
    def load(cls, folder: Path) -> Inputs:
        """What `keep` wrote to the folder; nothing where nothing was kept."""
        if not (folder / NAME).exists():
            return cls()
        record = json.loads((folder / NAME).read_text(encoding="utf-8"))
        assert record.pop("version") == VERSION  # written by the process that started this one
        for path, data in record["data"].items():
            files = {name: (tuple(stat), md5) for name, (stat, md5) in data["files"].items()}
            record["data"][path] = Data(files, data["md5"], data["restore"])
        return cls(**record)

    def changes(self, thorough: bool = True) -> list[Change]:
        """How the inputs differ from what they were; a file that was only touched does not.

        thorough: hash large files whose stats changed, which takes minutes; else they count as the same.
        """
        return [*self._changed_settings(), *self._changed_sources(), *self._changed_data(thorough)]

    def refuse_changes(self) -> None:
        """Raise InputError where the inputs have changed: for a process that has just read them."""
        if changes := self.changes(thorough=False):
            raise InputError(
                f"inputs changed while this started: {'; '.join(change.text for change in changes)}; give the same "
                "command again"
            )

    def warn_of_changes(self, folder: Path) -> None:
        """Log a warning of changes, once for each set of them. folder: where `keep` wrote."""
        changes = self.changes(thorough=False)
        if changes != self._reported:
            self._reported = changes
            if changes:
                log.warning(
                    "warning: inputs changed while this runs: %s; the run goes on with those that it began with, and "
                    "its result is published only after: %s",
                    "; ".join(change.text for change in changes),
                    self.undo(changes, folder),
                )
            else:
                log.info("the inputs are again what this began with")

    def undo(self, changes: Sequence[Change], folder: Path) -> str:
        """The shell command that brings back what `keep` wrote to the folder, and data."""
        commands = []
        for path in dict.fromkeys(change.path for change in changes):
            if path in self.data:
                commands.append(self.data[path].restore)
            elif (folder / path).is_file():
                commands.append(shlex.join(["cp", _shown(folder / path), path]))
            else:
                commands.append(shlex.join(["rm", path]))
        return " && ".join(commands)

    def _changed_settings(self) -> Iterator[Change]:
        if not self.keys:
            return
        try:
            now = _select(read_yaml(Path(self.params)), self.keys)
        except (InputError, OSError) as error:
            yield Change(str(error), self.params)
            return
        for key in sorted(self.settings.keys() | now.keys()):
            old, new = self.settings.get(key, ABSENT), now.get(key, ABSENT)
            if old != new:
                yield Change(f"{key}: {old!r} -> {new!r}", self.params)

    def _changed_sources(self) -> Iterator[Change]:
        now = {path: _md5(content) for path, content in _read(self.sources)}
        for path in sorted(self.md5.keys() | now.keys()):
            if self.md5.get(path) != now.get(path):
                what = "is new" if path not in self.md5 else "edited" if path in now else "removed"
                yield Change(f"{path} {what}", path)

    def _changed_data(self, thorough: bool) -> Iterator[Change]:
        for path, data in self.data.items():
            now = _stats(path)
            if now.keys() != data.files.keys():
                yield Change(f"{path} has other files" if now else f"{path} removed", path)
            elif any(self._differs(name, stat, *data.files[name]) for name, stat in now.items()) or (
                thorough
                and any(stat != data.files[name][0] for name, stat in now.items() if stat[1] > LARGE)
                and not (data.md5 and content_md5(Path(path)) == data.md5)
            ):
                yield Change(f"{path} has other content", path)

    def _differs(self, name: str, now: Stat, before: Stat, md5: str) -> bool:
        if now == before:
            return False
        return now[1] != before[1] or bool(md5 and _small_md5(name, now) != md5)


def content_md5(path: Path) -> str:
    """The md5 of a file's content; of a folder, over the md5 and name of each file in it, as DVC computes it."""
    if not path.is_dir():
        return _file_md5(path)
    entries = [{"md5": _file_md5(Path(p)), "relpath": Path(p).relative_to(path).as_posix()} for p in _files(str(path))]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return f"{_md5(listing.encode())}.dir"


def _select(raw: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Settings and sections -> single values by dotted key."""
    chosen: dict[str, Any] = {}
    for key in keys:
        value: Any = raw
        for part in key.split("."):
            value = value.get(part, ABSENT) if isinstance(value, dict) else ABSENT
        chosen |= _flat(key, value)
    return chosen


def _flat(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in _flat(f"{key}.{name}", inner).items()}


def _files(path: str) -> list[str]:
    """The file, or all in the folder but what is ignored; none where nothing is."""
    if not Path(path).is_dir():
        return [path] if Path(path).is_file() else []
    found = (p for p in Path(path).rglob("*") if p.is_file() and not any(map(_is_ignored, p.parts)))
    return sorted(p.as_posix() for p in found)


def _is_ignored(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED)


def _read(sources: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each file and its content; one that cannot be read, since an editor is replacing it, say, counts as absent."""
    for path in (path for source in sources for path in _files(source)):
        try:
            yield path, Path(path).read_bytes()
        except OSError:
            continue


def _stats(path: str) -> dict[str, Stat]:
    stats: dict[str, Stat] = {}
    for name in _files(path):
        try:
            status = Path(name).stat()
        except OSError:  # removed since it was listed
            continue
        stats[name] = status.st_ino, status.st_size, status.st_mtime_ns
    return stats


def _small_md5(name: str, stat: Stat) -> str:
    """Of a file's content, "" for a large one and for one that is gone."""
    try:
        return _file_md5(Path(name)) if stat[1] <= LARGE else ""
    except OSError:
        return ""


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _shown(path: Path) -> str:
    """Relative to the working directory where the path lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
