"""What holds the code together: imports one way, honest `__all__`s, light imports, no stray path."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "rewardsmith"

# Lowest first. A module imports from the rows below it in number and from itself; modules that share a row
# are siblings and never import each other. A new top-level module of the package must be placed here.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "installed"),
    ("statistics", "progress"),
    ("temperature", "best_of_n", "aggregation", "last_layer", "edits"),
    ("data",),
    ("losses",),
    ("text",),
    ("model",),
    ("scoring",),
    ("scorers", "remote", "adjustment", "trunk_embedding"),
    ("score_cache", "bulk"),
    ("ensemble",),
    ("weight_averaging",),
    ("training",),
    ("evaluation", "audit", "overoptimization"),
    ("mitigation", "refresh", "report", "serving"),
    ("labelling",),
    ("quickstart",),
    ("cli",),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}

# Files that are one module in two: a file of the left counts as the module on the right.
PART_OF = {path.stem: "cli" for path in PACKAGE.glob("verbs*.py")}

# `__init__` is the door: it names what the rows hold, lazily, and nothing inside goes through it.
DOORS = {"__init__", "__main__"}

HEAVY = ("torch", "transformers", "datasets", "sklearn", "matplotlib", "pandas", "scipy", "accelerate")


def top_level_modules() -> set[str]:
    """Modules and packages directly under src/rewardsmith; folders without Python code are data."""
    files = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    return {PART_OF.get(name, name) for name in files | folders} - DOORS


def dotted_name(path: Path) -> str:
    """The import name of a file of the package."""
    parts = ("rewardsmith", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def owner(path: Path) -> str:
    """The top-level module of the package that a file belongs to."""
    name = path.relative_to(PACKAGE).with_suffix("").parts[0]
    return PART_OF.get(name, name)


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a file: at the top, in functions and for type checking alike."""
    package = dotted_name(path) if path.name == "__init__.py" else dotted_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if owner(path) not in DOORS)


def public_modules() -> list[str]:
    """Import names of all files that define `__all__`."""
    return [dotted_name(path) for path in sorted(PACKAGE.rglob("*.py")) if has_all(path)]


def has_all(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any("__all__" in assigned_names(node) for node in tree.body)


def assigned_names(node: ast.stmt) -> list[str]:
    """Names that an assignment at the top of a module binds."""
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def exported_names(path: Path) -> set[str]:
    """Public names that a package's `__init__` defines or takes in from the package."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            inside = node.level > 0 or (node.module or "").split(".")[0] == "rewardsmith"
            names.update(alias.asname or alias.name for alias in node.names if inside)
        else:
            names.update(assigned_names(node))
    return {name for name in names if not name.startswith("_")}


def is_generated(doc: str, name: str) -> bool:
    """Whether a docstring is the signature that `dataclass` writes where there is none."""
    return doc.startswith(f"{name}(")


def repository_files() -> list[Path]:
    """Files that are, or would be, committed; in an unpacked source archive, all of them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part.startswith(".venv") for part in path.parts)]
    return [path for path in paths if path.is_file()]


def test_every_module_has_a_layer() -> None:
    unlisted = top_level_modules() - set(LAYER_OF)
    assert not unlisted, f"place {sorted(unlisted)} in LAYERS"


@pytest.mark.parametrize("path", sources(), ids=dotted_name)
def test_imports_point_one_way(path: Path) -> None:
    own = owner(path)
    wrong = []
    for line, name in imported_names(path):
        root, _, rest = name.partition(".")
        if root != "rewardsmith":
            continue
        target = rest.partition(".")[0]
        target = PART_OF.get(target, target)
        # What is no module is a name taken through the door.
        allowed = target == own or (target in LAYER_OF and LAYER_OF[target] < LAYER_OF[own])
        if not allowed:
            wrong.append(f"line {line}: {name}")
    assert not wrong, f"{own} (row {LAYER_OF[own]}) must not import {wrong}"


def test_some_module_is_checked_for_its_exports() -> None:
    assert "rewardsmith" in public_modules()


@pytest.mark.parametrize("name", [name for name in public_modules() if name != "rewardsmith"])
def test_all_is_what_is_exported(name: str) -> None:
    module = importlib.import_module(name)
    declared = module.__all__
    assert len(set(declared)) == len(declared), "a name is there twice"
    missing = [export for export in declared if not hasattr(module, export)]
    assert not missing, f"{name}.__all__ names what is not there"
    path = Path(inspect.getfile(module))
    # A file may have public helpers beside what it exports; a package's `__init__` is its exports. One that
    # resolves names lazily has no imports to compare with.
    if path.name == "__init__.py" and not hasattr(module, "__getattr__"):
        assert set(declared) == exported_names(path)


def test_door_names_resolve_sorted_and_documented() -> None:
    import rewardsmith

    declared = list(rewardsmith.__all__)
    assert declared == sorted(declared)
    assert len(set(declared)) == len(declared)
    undocumented = []
    for name in declared:
        value = getattr(rewardsmith, name)
        if inspect.isroutine(value) or inspect.isclass(value):
            doc = value.__doc__ or ""
            if not doc.strip() or is_generated(doc, name):
                undocumented.append(name)
    assert not undocumented
    assert set(declared) <= set(dir(rewardsmith)), "a lazy door lists its names in dir() too"


@pytest.mark.parametrize("module", ["rewardsmith", "rewardsmith.cli", "rewardsmith.refresh.releasing"])
def test_import_is_light(module: str) -> None:
    """`rewardsmith --help` answers at once, and so does a rollback: nothing heavy is loaded before it is used."""
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_no_machine_path_in_the_repository() -> None:
    # Written so that this file does not hold what it looks for.
    machine_path = re.compile(rb"(?<![\w.~-])/(?:%s|%s)/" % (b"work", b"root"))
    found = []
    for path in repository_files():
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if machine_path.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]!r}")
    assert not found
