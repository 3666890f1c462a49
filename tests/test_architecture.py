"""Modules import only what stands below them, never in a circle, and a stage depends on all that shapes its result."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

# from the top down; a module imports from its own room and from those below
ROOMS = [
    "flows",
    "tasks",
    "m2det.__main__",
    "m2det.cli",
    "m2det",  # the public face
    "m2det.detect",
    "m2det.bench",
    "m2det.train",
    "m2det.evaluate",
    "m2det.viz",
    "m2det.data",
    "m2det.model",
    "m2det.loss",
    "m2det.ops",
    "m2det.distributed",
    "m2det.device",
    "m2det.boxes",
    "m2det.config",
    "m2det.download",
    "m2det.progress",
    "m2det.files",
    "m2det.errors",
    "m2det.text",
    "m2det_prefect",
]

# modules and packages that a stage imports without depending on them, and why its result cannot change with them
SHAPE_NO_RESULT = {
    "m2det": "the version, and names for what lies below",
    "m2det.config": "reads params.yaml, whose values are dependencies themselves",
    "m2det.data.checks": "sentences on data",
    "m2det.data.findings": "sentences on data",
    "m2det.distributed.children": "starts and ends processes",
    "m2det.distributed.cores": "refuses more processes than cores bear",
    "m2det.distributed.shutdown": "ends processes",
    "m2det.distributed.launch": "starts and ends processes",
    "m2det.distributed.nodes": "starts processes on other nodes, with the same code, cache and parameters",
    "m2det.distributed.peer": "messages between nodes",
    "m2det.distributed.watch": "ends processes",
    "m2det.distributed.lifetime": "ends processes",
    "m2det.distributed.stop": "ends processes",
    "m2det.distributed.threads": "shares cores between processes",
    "m2det.download": "fetches files, which are compared with their hashes",
    "m2det.errors": "sentences",
    "m2det.evaluate.results_file": "entries pass unchanged, or the stage ends with an error",
    "m2det.files": "file contents pass unchanged, or the stage ends with an error",
    "m2det.progress": "reports to people",
    "m2det.text": "escapes what is printed",
    "tasks.common": "says where files lie",
    "tasks.inputs": "compares the inputs with what they were",
    "tasks.provenance": "says where a model was made",
}
AFTER_PACKING = {"m2det.data.sources": "the packed cache, a dependency, has all that these modules read"}


def source_files() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    paths = [path for folder in ("flows", "tasks", "m2det") for path in sorted((ROOT / folder).rglob("*.py"))]
    paths.append(ROOT / "m2det_prefect.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


FILES = source_files()


def imports_in(code: ast.AST) -> Iterator[str]:
    """The modules of ours that a module's code imports, also in functions."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in FILES else node.module


def runs(code: ast.AST) -> Iterator[str]:
    """The same without those for types alone, which never run."""
    types = [node for node in ast.walk(code) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    yield from Counter(imports_in(code)) - Counter(name for node in types for name in imports_in(node))


def is_face(code: ast.Module) -> bool:
    """Whether a package's own code only hands on the names of its modules."""
    return all(
        isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__all__", "_MODULES"))
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        or (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")
        for node in code.body
    )


CODE = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
IMPORTS = {name: set(imports_in(code)) for name, code in CODE.items()}
RUN_IMPORTS = {name: set(runs(code)) for name, code in CODE.items()}


def room(module: str) -> str:
    """The longest name in ROOMS that the module's begins with."""
    return max((name for name in ROOMS if f"{module}.".startswith(f"{name}.")), key=len)


def closure(module: str) -> set[str]:
    """The module, what it imports, and so on; a module's packages are imported with it."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in FILES and name not in seen:
            seen.add(name)
            waiting += [name.rpartition(".")[0], *(RUN_IMPORTS[name] if name != "m2det" else ())]  # a lazy face
    return seen


def test_imports_are_seen_wherever_they_stand():
    code = "import m2det.text\ndef f():\n    from m2det.data import jpeg\n    from m2det.errors import InputError\n"
    code += "if TYPE_CHECKING:\n    from m2det.errors import writing\n    from m2det.boxes import decode\n"
    assert set(imports_in(ast.parse(code))) == {"m2det.text", "m2det.data.jpeg", "m2det.errors", "m2det.boxes"}
    assert set(runs(ast.parse(code))) == {"m2det.text", "m2det.data.jpeg", "m2det.errors"}


def test_every_module_has_a_room():
    top = [name for name in FILES if room(name) == "m2det" and name != "m2det"]
    assert not top, "give it a place in ROOMS"


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_no_module_imports_one_above_it(module):
    level = ROOMS.index(room(module))
    assert [name for name in sorted(IMPORTS[module]) if ROOMS.index(room(name)) < level] == []


def test_no_modules_import_each_other():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other in a circle: {' -> '.join(reversed(error.args[1]))}")


STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def is_covered(module: str, deps: list[str]) -> bool:
    """Whether the module's file, or a folder that it lies in, is among the dependencies."""
    path = FILES[module].relative_to(ROOT)
    return any(path == Path(dep) or Path(dep) in path.parents for dep in deps)


def uncovered(stage: str) -> set[str]:
    """The modules that the stage imports and does not depend on."""
    deps = STAGES[stage]["deps"]
    return {name for name in closure(f"tasks.{stage}") if not is_covered(name, deps) and not is_face(CODE[name])}


def exceptions_for(stage: str, module: str) -> set[str]:
    """The entries of SHAPE_NO_RESULT and AFTER_PACKING that hold for the module in the stage."""
    entries = SHAPE_NO_RESULT if stage in ("data", "pack") else SHAPE_NO_RESULT | AFTER_PACKING
    return {name for name in entries if module == name or (name != "m2det" and module.startswith(f"{name}."))}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_modules_that_shape_its_result(stage):
    assert sorted(name for name in uncovered(stage) if not exceptions_for(stage, name)) == []


def test_every_exception_is_needed():
    used = {entry for stage in STAGES for module in uncovered(stage) for entry in exceptions_for(stage, module)}
    assert (SHAPE_NO_RESULT | AFTER_PACKING).keys() - used == set()


def test_training_again_for_nothing_is_not_asked_for():
    """Days of training must not follow from an edit of what shapes no weight."""
    for module in (
        "m2det.data.packed.writer",
        "m2det.data.sources.coco",
        "m2det.config.sections.train",
        "m2det.viz.draw",
    ):
        assert not is_covered(module, STAGES["train"]["deps"]), module
    assert not [key for key in STAGES["train"]["params"] if key.partition(".")[0] == "run"]
