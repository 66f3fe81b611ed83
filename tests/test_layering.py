"""A module imports only from lower levels. The levels are stated once, here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cpm_gen

PACKAGE = Path(cpm_gen.__file__).parent

LEVELS = {
    "errors": 0,
    "option": 0.5,
    "server": 0.5,
    "server.options": 0.7,
    "values": 0.5,
    "config": 1,
    "window": 2,
    "partition": 2,
    "parallel": 2,
    "penalties": 1.5,
    "sampling": 2,
    "text": 2,
    "tokenizer": 2,
    "safe_pickle": 1,
    "unpickle": 2,
    "folders": 2.3,
    "device_sampling": 2.2,
    "likelihood": 2,
    "sequence": 2.5,
    "styles": 2.5,
    "keywords": 2.5,
    "results": 3,
    "layers": 3,
    "kv_cache": 3,
    "checkpoint": 3.1,
    "heads": 3.5,
    "model": 4,
    "row_ops": 3,
    "triton_ops": 3.5,
    "graphed": 4.6,
    "native": 2,
    "packed": 4.2,
    "describe": 4,
    "reshard": 4.5,
    "runner": 4.5,
    "build": 5,
    "launch": 5,
    "decoders": 5,
    "loaded": 6,
    "engine": 6,
    "writer": 6.5,
    "app": 7,
    "worker": 7.5,
    "": 8,  # the package itself: the public names
    "works": 1,
    "works.tables": 1.1,
    "works.migrations.env": 1.2,
    "works.migrations.versions.r0001_works": 1.2,
    "works.records": 1.1,
    "works.store": 1.3,
    "server.errors": 8.1,
    "server.keys": 8.2,
    "server.metrics": 8.2,
    "server.schemas": 8.2,
    "server.openai_schemas": 8.3,
    "server.sse": 8.3,
    "server.jobs": 8.3,
    "server.tokenizing": 8.3,
    "server.thread": 8.35,
    "server.loop": 8.4,
    "server.service": 8.5,
    "server.access": 8.6,
    "server.gate": 8.6,
    "server.connection": 8.65,
    "server.health": 8.7,
    "server.page": 8.7,
    "server.tools": 8.7,
    "server.generate": 8.7,
    "server.echo": 8.7,
    "server.openai": 8.8,
    "server.work_schemas": 8.3,
    "server.live": 8.4,
    "server.desk": 8.8,
    "server.following": 8.83,
    "server.works": 8.85,
    "server.work_routes": 8.87,
    "server.app": 8.9,
    "server.run": 8.95,
    "cli.texts": 9,
    "cli.display": 9,
    "cli.write": 9.2,
    "cli.tools": 9.4,
    "cli.session": 9.4,
    "cli.serve": 9.4,
    "cli": 9.6,
    "__main__": 10,
}

WITHOUT_TORCH = ("", "cli", "config", "folders", "sampling", "sequence", "styles", "text", "tokenizer", "window")


def source(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def modules() -> set[str]:
    names = (path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))
    return {name.replace("/", ".").removesuffix("__init__").removesuffix(".") for name in names}


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that an import statement brings in; of ``from a import b`` both readings, module and attribute."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            yield inside if inside.removeprefix("cpm_gen.") in LEVELS else node.module


def own(name: str) -> str | None:
    """The module of the package that a dotted name means; None for others."""
    if name != "cpm_gen" and not name.startswith("cpm_gen."):
        return None
    return name.removeprefix("cpm_gen").removeprefix(".")


def dependencies(module: str) -> set[str]:
    tree = ast.parse(source(module).read_text(encoding="utf-8"))
    return {name for node in ast.walk(tree) for found in imported(node) if (name := own(found)) is not None}


def eager(body: list[ast.stmt]) -> Iterator[str]:
    """What is imported when the module is: not what functions or type checkers import."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(node)
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ClassDef)):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            yield from eager(node.body)


def test_every_module_has_a_level_and_every_level_a_module():
    assert modules() == set(LEVELS)


@pytest.mark.parametrize("module", LEVELS)
def test_module_imports_only_from_lower_levels(module):
    higher = {name for name in dependencies(module) if LEVELS.get(name, float("inf")) >= LEVELS[module]}
    assert not higher, f"{module} (level {LEVELS[module]}) imports {higher}"


def test_names_the_package_loads_lazily_come_from_lower_levels():
    assert all(LEVELS[module] < LEVELS[""] for module in cpm_gen._LAZY.values())


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_starts_the_command_line_does_not_import_torch(module):
    reached, todo = set(), {"", module}
    while todo:
        name = todo.pop()
        reached.add(name)
        for found in eager(ast.parse(source(name).read_text(encoding="utf-8")).body):
            assert found.split(".")[0] != "torch", f"{name} imports torch"
            inside = own(found)
            if inside is not None and inside not in reached:
                todo.add(inside)
