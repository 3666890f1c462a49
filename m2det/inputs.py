"""The inputs of a result as they were when the work began, compared with what they are later.

A training takes days, and DVC reads settings and files when it ends: an edit in between would be recorded as what the
model was made from. So the inputs are recorded at the start, and compared before the result is published.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2det.config import read_yaml
from m2det.errors import InputError

log = logging.getLogger(__name__)

FOLDER = "inputs"  # where a run's folder keeps them
RECORD, VERSION = "inputs.json", 1
ABSENT = "absent"  # of a setting that one of two params.yaml lacks
Stat = tuple[int, int, int]  # inode, bytes, time of the last change in ns


@dataclass(frozen=True)
class Change:
    """One difference in words, and the file that has it."""

    text: str
    path: str


@dataclass
class Inputs:
    """What a result is made of. `Inputs()` is of nothing and never differs.

    Args:
        params: the file of settings; keys: those that count, each a setting or a section of it.
        settings: their values at the start, by dotted key.
        sources: the project's files and folders; md5: of each file in them at the start.
        data: files and folders that stages made; stats: of each file in them at the start, by these names.
        data_md5: of each of `data`, as `content_md5` has it; "" where nobody knows.
    """

    params: str = "params.yaml"
    keys: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    md5: dict[str, str] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)
    stats: dict[str, dict[str, Stat]] = field(default_factory=dict)
    data_md5: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._contents: dict[str, bytes] = {}  # of params and sources, while this process lives
        self._reported: list[Change] = []
        self._hashed: dict[str, tuple[dict[str, Stat], bool]] = {}  # of data: whether it was the same

    @classmethod
    def record(
        cls, params: str, keys: Sequence[str], sources: Sequence[str], data: Sequence[str], data_md5: Mapping[str, str]
    ) -> Inputs:
        """Read all of them now, paths relative to the working directory; of `data`, which may be large, only stats.

        Raises InputError for a params file that is missing or no YAML.
        """
        contents = {path: Path(path).read_bytes() for source in sources for path in _files(source)}
        inputs = cls(
            params,
            list(keys),
            _select(read_yaml(Path(params)), keys),
            list(sources),
            {path: _md5(content) for path, content in contents.items()},
            list(data),
            {dep: _stats(dep) for dep in data},
            {dep: data_md5.get(dep, "") for dep in data},
        )
        inputs._contents = {params: Path(params).read_bytes(), **contents}
        return inputs

    def keep(self, folder: Path) -> Path:
        """Write the record, and copies of params and sources, to the folder; returns that of params."""
        for path, content in self._contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            _replace(folder / path, content)
        record = {"version": VERSION, **{name: getattr(self, name) for name in self.__dataclass_fields__}}
        _replace(folder / RECORD, json.dumps(record, default=str).encode())
        return folder / self.params

    @classmethod
    def load(cls, folder: Path) -> Inputs:
        """What `keep` wrote to the folder; of nothing where nothing was kept."""
        if not (folder / RECORD).exists():
            return cls()
        content = json.loads((folder / RECORD).read_text())
        assert content.pop("version") == VERSION  # written by the process that started this one
        content["stats"] = {dep: {p: tuple(s) for p, s in files.items()} for dep, files in content["stats"].items()}
        return cls(**content)

    def changes(self) -> list[Change]:
        """How the inputs differ from what they were; a file that was only touched does not."""
        return [*self._changed_settings(), *self._changed_sources(), *self._changed_data()]

    def refuse_changes(self) -> None:
        """Raise InputError where the inputs have changed: for a process that has just read them."""
        if changes := self.changes():
            raise InputError(
                f"inputs changed while this started: {'; '.join(change.text for change in changes)}; give the same "
                "command again"
            )

    def warn_of_changes(self, folder: Path) -> None:
        """Log a warning of changes, once for each set of them. folder: where `keep` wrote."""
        changes = self.changes()
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
        """The shell command that brings back what `keep` wrote to the folder; data comes from DVC's cache."""
        commands = []
        for path in dict.fromkeys(change.path for change in changes):
            if (folder / path).is_file():
                commands.append(shlex.join(["cp", _shown(folder / path), path]))
            elif path in self.data:
                commands.append(shlex.join(["dvc", "checkout", "--force", path]))
            else:
                commands.append(shlex.join(["rm", path]))
        return " && ".join(commands)

    def _changed_settings(self) -> Iterator[Change]:
        if not self.keys:
            return
        try:
            now = _select(read_yaml(Path(self.params)), self.keys)
        except InputError as error:
            yield Change(str(error), self.params)
            return
        for key in sorted(self.settings.keys() | now.keys()):
            old, new = self.settings.get(key, ABSENT), now.get(key, ABSENT)
            if old != new:
                yield Change(f"{key}: {old!r} -> {new!r}", self.params)

    def _changed_sources(self) -> Iterator[Change]:
        now = {path: _md5(Path(path).read_bytes()) for source in self.sources for path in _files(source)}
        for path in sorted(self.md5.keys() | now.keys()):
            if self.md5.get(path) != now.get(path):
                what = "is new" if path not in self.md5 else "edited" if path in now else "removed"
                yield Change(f"{path} {what}", path)

    def _changed_data(self) -> Iterator[Change]:
        for dep in self.data:
            now = _stats(dep)
            if now == self.stats[dep]:
                continue
            if dep not in self._hashed or self._hashed[dep][0] != now:  # gigabytes: not at every checkpoint
                same = bool(now and self.data_md5[dep]) and content_md5(Path(dep)) == self.data_md5[dep]
                self._hashed[dep] = now, same
            if not self._hashed[dep][1]:
                yield Change(f"{dep} {'has other content' if now else 'removed'}", dep)


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
    """The file, or all in the folder but what Python compiles (.dvcignore has that, too); none where nothing is."""
    if not Path(path).is_dir():
        return [path] if Path(path).is_file() else []
    found = (p for p in Path(path).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sorted(p.as_posix() for p in found)


def _stats(path: str) -> dict[str, Stat]:
    stats = ((p, Path(p).stat()) for p in _files(path))
    return {p: (s.st_ino, s.st_size, s.st_mtime_ns) for p, s in stats}


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _shown(path: Path) -> str:
    """Relative to the working directory where the path lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
